"""A spike trial of the `overload` experiment, read; and when a server has recovered from it.

Recovered (the definition behind every recovery time of this project): from a
bin on, for `HOLD_S`, the p99 of the answers of every bin is within the SLO,
and goodput is at least `KEPT` of what was offered.  The recovery time runs
from the spike's end to the begin of the first such bin, so its resolution is
one bin (100 ms), and 0 means that the first bin after the spike was good
already.  Goodput and offered load are compared over the whole of `HOLD_S`,
not bin by bin: a bin holds a hundred requests or so, whose Poisson noise
alone is 10 %.  Latency counts from the scheduled time, so a backlog of the
spike that is answered late keeps the server from having recovered.  A bin
in which something was offered and nothing answered is not within the SLO.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from sedabench.results.folder import Run
from sedabench.results.raw_trials import damage_is_named, raw_trial

HOLD_S = 0.5
"""How long a server must be well to be called recovered: shorter is luck, at 100 ms a bin."""
KEPT = 0.9
"""Share of the offered load that must be answered in time."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spike:
    """One trial: per bin of `bin_s` the counts of requests and the latencies of answers.

    All arrays have shape (bins,), cut after the last bin in which something was
    offered.  Times are seconds from the begin of the schedule.  Latencies are
    NaN in a bin without an answer.  `begin_s` and `end_s` are None when the
    schedule names no spike.
    """

    server: str
    trial: int
    valid: bool
    invalid_reason: str
    begin_s: float | None
    end_s: float | None
    bin_s: float
    t_s: Floats
    offered: Floats
    answered: Floats
    good: Floats
    rejected: Floats
    p50_us: Floats
    p99_us: Floats
    inside: tuple[Mapping[str, Any], ...]
    """What the server said of itself meanwhile: queues, threads, batches; may be empty."""


@dataclass(frozen=True)
class Recovery:
    """`seconds` is None when it had not come after `observed_s`, the rest of the trial."""

    seconds: float | None
    observed_s: float


def spikes(run: Run) -> list[Spike]:
    """Every spike trial that has a record with a timeline, in the order of the trials.

    Raises:
        DamagedRunError: a record cannot be understood.
    """
    found = []
    with damage_is_named(run, "a spike trial cannot be read"):
        rows = run.trials[run.trials["phase"] == "spike"].sort_values("trial")
        for row in rows.to_dict("records"):
            raw = raw_trial(run, int(row["trial"]))
            result = raw and raw.get("result")
            if raw and result and result.get("timeline"):
                found.append(_spike(cast(dict[str, Any], row), result, raw.get("server_timeline")))
    return found


def _spike(row: Mapping[str, Any], result: Mapping[str, Any], inside: Any) -> Spike:
    timeline = result["timeline"]
    count = len(timeline["t_s"])

    def values(name: str) -> Floats:
        numbers = np.array([math.nan if v is None else v for v in timeline[name]], dtype=float)
        if numbers.shape != (count,):
            raise ValueError(f"{name} of the timeline has {numbers.size} bins, not {count}")
        return numbers

    offered = values("offered")
    bins = int(np.flatnonzero(offered)[-1]) + 1 if offered.any() else 0
    spike = spike_of(str(result.get("arrivals", "")))
    return Spike(
        server=str(row["server"]),
        trial=int(row["trial"]),
        valid=bool(row["valid"]),
        invalid_reason=str(row["invalid_reason"]),
        begin_s=spike and spike[0],
        end_s=spike and spike[1],
        bin_s=float(timeline["bin_s"]),
        t_s=values("t_s")[:bins],
        offered=offered[:bins],
        **{
            name: values(name)[:bins]
            for name in ("answered", "good", "rejected", "p50_us", "p99_us")
        },
        inside=tuple(inside or ()),
    )


def spike_of(arrivals: str) -> tuple[float, float] | None:
    """Begin and end in seconds of the spike that `--arrivals` text names; None without one.

    `spike:FACTOR,AT,FOR`, or the highest step of `step:FxS,FxS,...`.
    """
    kind, _, text = arrivals.partition(":")
    try:
        if kind == "spike":
            _, at_s, for_s = (float(part) for part in text.split(","))
            return at_s, at_s + for_s
        if kind == "step":
            return _highest_step([tuple(map(float, p.split("x"))) for p in text.split(",")])
    except ValueError:
        pass
    return None


def _highest_step(steps: Sequence[tuple[float, ...]]) -> tuple[float, float] | None:
    factors, lengths_s = zip(*steps, strict=True)
    highest = int(np.argmax(factors))
    if max(factors) == min(factors):
        return None
    begin_s = float(sum(lengths_s[:highest]))
    return begin_s, begin_s + float(lengths_s[highest])


def recovery(spike: Spike, slo_ms: float) -> Recovery | None:
    """The recovery as the module defines it; None without a spike to recover from."""
    if spike.end_s is None or spike.begin_s is None:
        return None
    after = spike.t_s >= spike.end_s - 1e-6
    if not after.any():
        return None
    t_s, offered, good, p99_us = (
        values[after] for values in (spike.t_s, spike.offered, spike.good, spike.p99_us)
    )
    within = np.where(np.isnan(p99_us), offered == 0, p99_us <= slo_ms * 1e3)
    hold = max(1, round(HOLD_S / spike.bin_s))
    for first in range(len(t_s) - hold + 1):
        some = slice(first, first + hold)
        if within[some].all() and good[some].sum() >= KEPT * offered[some].sum():
            seconds = max(0.0, float(t_s[first]) - spike.end_s)
            return Recovery(seconds, _observed_s(spike))
    return Recovery(None, _observed_s(spike))


def _observed_s(spike: Spike) -> float:
    assert spike.end_s is not None
    return float(spike.t_s[-1]) + spike.bin_s - spike.end_s
