"""What a run of `overload` says, in a table and in sentences; `overload.py` computes it.

Nothing here is assumed: the paper's claim is seen, seen in part, contradicted
or undecided as the intervals have it, and two servers differ when their
intervals do not overlap, and not otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sedabench.analysis.overload import (
    KEEPS,
    STAGED,
    THRICE,
    TWICE,
    Findings,
    Lacking,
    ServerFindings,
    Verdict,
    analyse,
)
from sedabench.analysis.spike import Recovery
from sedabench.analysis.stats import Interval
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Findings", "analyse", "sentences", "show", "table"]


def show(run: Run, console: Console) -> None:
    """Print table and sentences."""
    findings = analyse(run)
    console.print(table(findings))
    for text in _sentences(findings):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def sentences(run: Run) -> list[str]:
    """What was found, for a report: trials left out, each server, their comparison, the claim."""
    return _sentences(analyse(run))


def _sentences(findings: Findings) -> list[str]:
    found = [*_left_out(findings)]
    for server in findings.servers:
        found += _of_server(server, findings)
    return [*found, *_compared(findings), *_claim(findings), *_explained(findings)]


def _left_out(findings: Findings) -> list[str]:
    count = sum(number for _, number in findings.invalid)
    if not count:
        return []
    why = [f"{reason} ({number})" for reason, number in findings.invalid[:3]]
    more = ["others"] if len(findings.invalid) > 3 else []
    are = "is" if count == 1 else "are"
    return [
        f"{count} of {findings.trials} trials {are} invalid and left out: "
        + "; ".join(why + more) + "."
    ]  # fmt: skip


def _of_server(server: ServerFindings, findings: Findings) -> list[str]:
    name = server.server
    if server.peak is None or server.peak.goodput_rps is None:
        found = [f"{name}: no valid trial of the sweep."]
    else:
        closed = server.capacity_rps
        capacity = f"has a capacity of {_rate(closed)}" if closed else "has no measured capacity"
        if server.peak.goodput_rps.value > 0:
            peak = f"{_rate(server.peak.goodput_rps)} at {_times(server.peak.load)}"
            text = f"{name} {capacity} and a peak goodput of {peak}; {_kept_text(server)}."
        else:
            text = f"{name} {capacity}; its median goodput is 0 at every load with a valid trial."
        found = [text, _slo(server, findings)]
    return [*found, *_recovered(server)]


def _kept_text(server: ServerFindings) -> str:
    """ "it keeps 0.93 [0.90, 0.95] of it at twice the capacity and ... at three times"."""
    texts = []
    for kept in (server.twice, server.thrice):
        where = _named(kept.load)
        if kept.at_peak:
            texts.append(f"it has this peak at {where}")
        elif kept.ratio is None:
            texts.append(f"what it keeps at {where} is not known")
        else:
            ratio = _with_limits(kept.ratio, ".2f")
            texts.append(f"it keeps {ratio} of its peak goodput at {where}")
    if all(kept.ratio and not kept.at_peak for kept in (server.twice, server.thrice)):
        texts[1] = texts[1].removeprefix("it keeps ").replace(" of its peak goodput", "")
    return " and ".join(texts)


def _slo(server: ServerFindings, findings: Findings) -> str:
    slo, breaks = f"the SLO of {findings.slo_ms:g} ms", server.breaks_at
    judged = [level for level in server.levels if level.breaks_slo is not None]
    if not judged:
        text = f"{server.server}: its p99 is unknown, for no request was accepted"
    elif breaks is None:
        text = f"{server.server}: its p99 stays within {slo} up to {_times(judged[-1].load)}"
    else:
        text = f"{server.server}: its p99 first breaks {slo} at {_times(breaks.load)}"
        p99_us = breaks.p99_us
        if p99_us and p99_us.value <= findings.slo_ms * 1e3:
            text += " (for want of answers)"
        elif p99_us and p99_us.low <= findings.slo_ms * 1e3:
            text += " (the interval reaches below it)"
    level = server.at(TWICE)
    if level is None:
        return text + "."
    p99 = _milliseconds(level.p99_us) if level.p99_us else "unknown"
    text += f"; at {_named(TWICE)} the p99 of accepted requests is {p99}"
    shares = (
        (level.rejected, "of the requests are rejected"),
        (level.lost, "of the accepted get no correct answer"),
    )
    told = [f"{share:.1%} {what}" for share, what in shares if share is not None and share > 5e-4]
    return f"{text}; {', '.join(told)}." if told else f"{text}."


def _recovered(server: ServerFindings) -> list[str]:
    if not server.recoveries:
        return [f"{server.server}: no recovery time, for there is no valid spike trial."]
    texts = [_recovery_text(one) for one in server.recoveries]
    return [f"{server.server}, after the spike: {'; '.join(texts)}."]


def _recovery_text(one: Recovery) -> str:
    if one.seconds is None:
        return f"not recovered within the {one.observed_s:.1f} s that were left"
    if one.seconds < 0.05:
        return "recovered at once, in the first bin after it"
    return f"recovered after {one.seconds:.1f} s"


def _compared(findings: Findings) -> list[str]:
    """The goodput of the best server at twice the capacity, beside each of the others."""
    found = [(s, level) for s in findings.servers if (level := s.at(TWICE)) and level.goodput_rps]
    if len(found) < 2:
        return []
    found.sort(key=lambda pair: pair[1].goodput_rps.value, reverse=True)  # type: ignore[union-attr]
    (best, top), *others = found
    high = top.goodput_rps
    assert high is not None
    if high.value == 0:
        names = ", ".join(server.server for server, _ in found)
        return [f"At {_named(TWICE)} {names} answer nobody in time: their median goodput is 0."]
    texts = []
    for server, level in others:
        low = level.goodput_rps
        assert low is not None
        if high.n < 2 or low.n < 2:
            texts.append(f"too few valid repeats to compare with {server.server} ({_rate(low)})")
        elif low.high >= high.low:
            texts.append(f"no difference from {server.server} ({_rate(low)}) is seen")
        else:
            texts.append(f"more than {server.server} ({_rate(low)})")
    return [
        f"At {_named(TWICE)} {best.server} has the highest goodput, {_rate(high)}: "
        + ", ".join(texts) + "."
    ]  # fmt: skip


_VERDICTS: dict[Verdict, str] = {
    "keeps": "the peak is kept by",
    "loses": "it is not kept by",
    "undecided": "not enough is known of",
}
_LACKING: dict[Lacking, str] = {
    "trial": "no valid trial at twice the capacity",
    "peak": "a median goodput of 0 at every load with a valid trial",
    "repeat": "a repeat with a goodput of 0 at its peak",
}


def _claim(findings: Findings) -> list[str]:
    """Whether the claim is seen; each server counts by its own verdict at twice the capacity."""
    counted = [s for s in findings.servers if not s.control_is_off]
    names: dict[str | None, list[str]] = {}
    for s in counted:
        names.setdefault(s.twice.verdict or s.twice.lacking, []).append(s.server)
    who = [f"{text} {', '.join(names[v])}" for v, text in _VERDICTS.items() if v in names]
    who += [
        f"there is no verdict on {', '.join(names[why])} ({text})"
        for why, text in _LACKING.items()
        if why in names
    ]
    if off := [s.server for s in findings.servers if s.control_is_off]:
        verb, have = ("is", "it has") if len(off) == 1 else ("are", "they have")
        who.append(f"{', '.join(off)} {verb} not counted, for {have} no admission control")
    text = (
        "The paper's claim, that a well-conditioned service keeps its peak under overload and the "
        f"others do not (here: at least {KEEPS:g} of the peak goodput at {_named(TWICE)}), "
        f"{_answer(counted)}"
    )
    return [f"{text}: {'; '.join(who)}." if who else f"{text}."]


def _answer(counted: Sequence[ServerFindings]) -> str:
    """What the verdicts come to; those with control switched off are not among `counted`."""
    staged = [s for s in counted if s.architecture == STAGED]
    others = [s for s in counted if s.architecture != STAGED]
    ours = staged, f"the architecture {STAGED} with admission control"
    for servers, kind in (ours, (others, "another architecture")):
        if not any(s.twice.verdict for s in servers):
            what = "verdict" if servers else "trial"
            return f"cannot be judged, for no server of {kind} has a {what}"
    of_staged, of_others = ({s.twice.verdict for s in g} - {None} for g in (staged, others))
    if "loses" in of_staged:
        return "is contradicted here"
    if of_staged == {"keeps"} and of_others == {"loses"}:
        return "is seen here"
    if of_staged == {"keeps"} and "keeps" in of_others:
        return "is seen in part"
    return "is not decided here"


def _explained(findings: Findings) -> list[str]:
    ratios = [k.ratio for s in findings.servers for k in (s.twice, s.thrice) if k.ratio]
    if not ratios:
        return []
    if any(ratio.kind == "range" for ratio in ratios):
        return ["With fewer than 3 valid repeats the brackets hold their range, not an interval."]
    return ["Brackets hold 95 % bootstrap intervals over the repeats."]


def table(findings: Findings) -> Table:
    """One row a server."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    made.add_column("server", no_wrap=True)
    for heading in (
        "capacity\nreq/s", "peak good-\nput req/s", "at\nload", "kept at\ntwice", "kept at\nthrice",
        "p99 over\nSLO at", "p99 ms\nat twice", "recovery\ns", "valid",
    ):  # fmt: skip
        made.add_column(heading, justify="right", no_wrap=True)
    for server in findings.servers:
        peak, twice = server.peak, server.at(TWICE)
        made.add_row(
            server.server,
            _value(server.capacity_rps, ",.0f"),
            _value(peak.goodput_rps if peak else None, ",.0f"),
            f"{peak.load:g}" if peak else "-",
            _value(server.twice.ratio, ".2f"),
            _value(server.thrice.ratio, ".2f"),
            _breaks(server),
            _value(twice.p99_us if twice else None, ",.0f", 1e-3),
            ", ".join(_seconds(one) for one in server.recoveries) or "-",
            f"{sum(v.valid for v in server.levels)}/{sum(v.trials for v in server.levels)}",
        )
    return made


def _breaks(server: ServerFindings) -> str:
    if server.breaks_at:
        return f"{server.breaks_at.load:g}"
    return "never" if any(level.breaks_slo is not None for level in server.levels) else "-"


def _seconds(one: Recovery) -> str:
    return f">{one.observed_s:.1f}" if one.seconds is None else f"{one.seconds:.1f}"


def _value(interval: Interval | None, form: str, factor: float = 1.0) -> str:
    return format(interval.value * factor, form) if interval else "-"


def _rate(interval: Interval) -> str:
    return _with_limits(interval, ",.0f") + " requests/s"


def _with_limits(interval: Interval, form: str, factor: float = 1.0, unit: str = "") -> str:
    """ "0.93 [0.90, 0.95]"; one repeat has no limits and says so."""
    value, low, high = (
        format(number * factor, form) for number in (interval.value, interval.low, interval.high)
    )
    if interval.n == 1:
        return f"{value}{unit} (one repeat)"
    return f"{value} [{low}, {high}]{unit}"


def _milliseconds(interval: Interval) -> str:
    form = ",.0f" if interval.value >= 100e3 else ".1f"
    return _with_limits(interval, form, 1e-3, " ms")


def _times(load: float) -> str:
    return "the capacity" if load == 1 else f"{load:g} times the capacity"


def _named(load: float) -> str:
    return {TWICE: "twice the capacity", THRICE: "three times"}.get(load, _times(load))
