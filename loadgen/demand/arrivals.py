"""When each request of an open loop is due: the whole schedule, made before it begins.

    constant                 evenly spaced, the first at 0
    poisson                  independent arrivals, exponential gaps
    step:F1xS1,F2xS2,...     F times the rate for S seconds each, Poisson inside
    spike:F,AT,FOR           the rate, but F times as much from AT for FOR seconds; Poisson
    trace:FILE               the times in FILE

A schedule is an array of nanoseconds from its start, ascending, each before the
end (two may be equal).  It depends on its arguments and the seed alone, and a
longer one begins like a shorter one.  Nothing here waits or sends.

FILE is text: a time in seconds a line, each at least as great as the one before,
the first as it is.  Empty lines count for nothing, nor does what follows a comma
or a #.  The first line that says anything may be a header, whose first word has
letters and no digit: a time with a slip of the finger is none.

How Poisson arrivals are made (Lewis and Shedler, "Simulation of Nonhomogeneous
Poisson Processes by Thinning", Naval Research Logistics Quarterly 26(3), 1979,
where it is the method by time-scale transformation, after Cinlar, "Introduction
to Stochastic Processes", 1975): a process of rate 1, whose gaps are exponential,
is drawn up to the number of requests that are expected in all, and its axis is
then stretched to time, piece by piece of constant rate.  This is the process
itself: how many requests there are is random too, with a variance equal to its
mean.  Ten million take 0.2 s.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import LoadError
from loadgen.names import unknown

FORMS = {
    "constant": "constant",
    "poisson": "poisson",
    "step": "step:F1xS1,F2xS2,...",
    "spike": "spike:F,AT,FOR",
    "trace": "trace:FILE",
}
"""How each kind is written; for help texts too."""

MOST_REQUESTS = 10**8
"""In one schedule; its memory is 16 bytes a request while it is made, 8 afterwards."""

MOST_S = 1e6
"""11 days.  Times of a trace that begin in 1970 are over it, and a nanosecond is exact below it."""

STREAM = 1
"""Sets this draw apart from others of the same seed: times must not depend on what is asked for."""

Piece = tuple[int, float]
"""So many nanoseconds at so many times the rate."""


def schedule(arrivals: str, rate: float, duration_s: float, seed: int) -> NDArray[np.int64]:
    """Times in ns from the start, ascending, shape (requests,), at least one.

    `rate` is in requests/s and of no account for a trace; `duration_s` for neither
    a trace nor steps, which have their own.  Raises LoadError if it cannot be.
    """
    kind, argument = _split(arrivals)
    if kind == "trace":
        return _read_trace(argument)
    pieces = _pieces(kind, argument, duration_s)
    if not (math.isfinite(rate) and rate > 0):
        raise LoadError(f"the rate must be above 0 requests/s and finite, not {rate:g}")
    if seed < 0:
        raise LoadError(f"the seed must not be negative, as {seed} is")
    expected = rate * sum(lasts_ns * factor for lasts_ns, factor in pieces) / 1e9
    if expected > MOST_REQUESTS:
        raise LoadError(
            f"{arrivals} at {rate:g} requests/s makes {expected:.3g} requests, more than "
            f"{MOST_REQUESTS}: ask for a lower rate or a shorter time"
        )
    if kind == "constant":
        times = _constant(pieces[0][0], rate)
    else:
        times = _poisson(pieces, rate, generator(seed, STREAM))
    if not len(times):
        raise LoadError(
            f"no request falls into {arrivals} at {rate:g} requests/s, {expected:.3g} were to be "
            f"expected: ask for a higher rate or a longer time"
        )
    return times


def duration_s(arrivals: str, default_s: float) -> float:
    """How long the schedule lasts: `default_s`, unless it says so itself.

    A trace ends a nanosecond after its last request.  Raises LoadError if it cannot be.
    """
    kind, argument = _split(arrivals)
    if kind == "trace":
        return (int(_read_trace(argument)[-1]) + 1) / 1e9
    return sum(lasts_ns for lasts_ns, _ in _pieces(kind, argument, default_s)) / 1e9


def generator(seed: int, stream: int) -> np.random.Generator:
    """The random numbers of one use of a seed, independent of those of its other uses."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def _split(arrivals: str) -> tuple[str, str]:
    kind, colon, argument = arrivals.partition(":")
    if kind not in FORMS:
        raise unknown("arrivals", kind, FORMS)
    if bool(colon) != (":" in FORMS[kind]) or (colon and not argument):
        raise _malformed(kind, arrivals)
    return kind, argument


def _malformed(kind: str, text: str) -> LoadError:
    return LoadError(f"arrivals {text!r} must have the form {FORMS[kind]}")


def _pieces(kind: str, argument: str, duration_s: float) -> list[Piece]:
    """The schedule as pieces of constant rate."""
    if kind == "step":
        return _steps(argument)
    lasts_ns = _ns("the duration", duration_s)
    return _spike(argument, lasts_ns) if kind == "spike" else [(lasts_ns, 1.0)]


def _steps(argument: str) -> list[Piece]:
    pieces = []
    for text in argument.split(","):
        factor, lasts_s = _numbers("step", argument, text.split("x"), 2)
        pieces.append((_ns(f"step {text!r}", lasts_s), factor))
    _ns("the sum of all steps", sum(lasts_ns for lasts_ns, _ in pieces) / 1e9)
    return pieces


def _spike(argument: str, lasts_ns: int) -> list[Piece]:
    factor, at_s, for_s = _numbers("spike", argument, argument.split(","), 3)
    at_ns, for_ns = round(at_s * 1e9), _ns("the spike", for_s)
    if at_ns + for_ns > lasts_ns:
        raise LoadError(
            f"the spike ends at {at_s + for_s:g} s and the schedule at {lasts_ns / 1e9:g} s: "
            f"ask for a longer duration or an earlier spike"
        )
    return [(at_ns, 1.0), (for_ns, factor), (lasts_ns - at_ns - for_ns, 1.0)]


def _numbers(kind: str, argument: str, texts: Sequence[str], count: int) -> list[float]:
    """`count` finite numbers, none of them negative."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= number < math.inf for number in numbers):
        raise _malformed(kind, f"{kind}:{argument}")
    return numbers


def _ns(what: str, lasts_s: float) -> int:
    if not 1e-9 <= lasts_s <= MOST_S:
        raise LoadError(f"{what} must last above 0 and at most {MOST_S:g} s, not {lasts_s:g}")
    return round(lasts_s * 1e9)


def _constant(lasts_ns: int, rate: float) -> NDArray[np.int64]:
    gap_ns = min(1e9 / rate, lasts_ns)
    # Each time from its own number: adding up gaps would add up what they were rounded by.
    times = (np.arange(int(lasts_ns / gap_ns) + 2) * gap_ns).astype(np.int64)
    return times[: np.searchsorted(times, lasts_ns)]


def _poisson(
    pieces: Sequence[Piece], rate: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """A Poisson process whose rate is constant within each piece."""
    ends = np.cumsum([rate * factor * lasts_ns / 1e9 for lasts_ns, factor in pieces])
    unit = _unit_poisson(float(ends[-1]), random)
    times = np.empty(len(unit), dtype=np.int64)
    # Before the loop, which turns `unit` into nanoseconds where it lies.
    cuts = np.searchsorted(unit, ends).tolist()
    first = begin_ns = 0
    begin = 0.0
    for (lasts_ns, factor), end, behind in zip(pieces, ends.tolist(), cuts, strict=True):
        if behind > first:
            piece = unit[first:behind]
            piece -= begin
            piece *= 1e9 / (rate * factor)
            # Rounding must move nothing into another piece.
            np.clip(piece, 0, lasts_ns - 1, out=piece)
            times[first:behind] = piece
            times[first:behind] += begin_ns
        first, begin, begin_ns = behind, end, begin_ns + lasts_ns
    return times


def _unit_poisson(end: float, random: np.random.Generator) -> NDArray[np.float64]:
    """A Poisson process of rate 1 on [0, end)."""
    parts: list[NDArray[np.float64]] = [np.empty(0)]
    reached = 0.0
    while reached < end:
        mean = end - reached
        # Four standard deviations more than expected: a second round is rare.
        times = random.standard_exponential(int(mean + 4 * math.sqrt(mean)) + 16)
        np.cumsum(times, out=times)
        times += reached
        parts.append(times)
        reached = float(times[-1])
    times = parts[-1] if len(parts) == 2 else np.concatenate(parts)
    return times[: np.searchsorted(times, end)]


def _read_trace(name: str) -> NDArray[np.int64]:
    path = Path(name)
    times_s = array("d")
    previous_s = 0.0
    has_header = False
    try:
        if path.exists() and not path.is_file():
            raise LoadError(f"trace {name} is not a file")
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                try:
                    time_s = float(line.partition(",")[0])
                except ValueError:
                    says = line.partition("#")[0].strip()
                    text = says.partition(",")[0].strip()
                    if not says:
                        continue
                    if not (has_header or times_s) and _is_header(text):
                        has_header = True
                        continue
                    try:
                        time_s = float(text)
                    except ValueError:
                        raise LoadError(
                            f"trace {name}, line {number}: {text[:40]!r} is not a time in seconds"
                        ) from None
                if not previous_s <= time_s <= MOST_S:
                    raise LoadError(
                        f"trace {name}, line {number}: {_why_not(time_s, previous_s)}"
                    ) from None
                times_s.append(time_s)
                previous_s = time_s
    except OSError as error:
        raise LoadError(f"cannot read trace {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadError(f"trace {name} is not text in UTF-8") from None
    except ValueError:
        raise LoadError(f"trace {name!r} is no name of a file") from None
    if not 0 < len(times_s) <= MOST_REQUESTS:
        raise LoadError(f"trace {name} has {len(times_s)} times, not 1 to {MOST_REQUESTS}")
    return np.rint(np.frombuffer(times_s) * 1e9).astype(np.int64)


def _is_header(text: str) -> bool:
    return any(map(str.isalpha, text)) and not any(map(str.isdigit, text))


def _why_not(time_s: float, previous_s: float) -> str:
    if 0 <= time_s < previous_s:
        return f"{time_s:g} s comes after {previous_s:g} s; sort the times"
    return f"{time_s:g} s is not from 0 to {MOST_S:g} s; count from the start of the trace"
