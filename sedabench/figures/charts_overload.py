"""The figures that `overload` alone has, beside its curves: tail, spike, and inside a server.

The tail stands here as latency over percentile, not as in `tail.png`: at a
percentile the repeats of a server have a median and a range, which is what a
reader asks for.  Spike and inside are of one trial a server, the first valid
one, in bins as they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sedabench.analysis.overload import Findings, analyse
from sedabench.analysis.spike import Spike, recovery, spikes
from sedabench.figures.charts import (
    LATENCIES,
    MILLISECONDS,
    POINTS,
    RATES,
    Axis,
    Chart,
    Entry,
    Mark,
    Panel,
    Series,
    chart,
    curves,
    finite,
    rounded,
    servers,
)
from sedabench.figures.overload import TAILS
from sedabench.results.folder import Run
from sedabench.results.raw_trials import raw_trial

_STEPS_A_DECADE = 12
_SHOWN_STAGES = 4
_SECONDS = Axis("seconds since the start", "s", low=0)


def overload(run: Run) -> list[Chart]:
    """Goodput, latency, tail, spike, inside, fairness."""
    findings = analyse(run)
    sweep = run.trials[run.trials["phase"] == "sweep"]
    x = Axis("offered load (multiples of the capacity)", "times the capacity", low=0)
    at_capacity = Mark("capacity", x=1.0)
    capacity = findings.capacity_rps
    rates = (at_capacity, Mark("", slope=capacity)) if capacity else (at_capacity,)
    line = " Thin line: all that is offered is answered." if capacity else ""
    slo = Mark(f"SLO {findings.slo_ms:g} ms", y=findings.slo_ms)
    fair = Axis("Jain's index", low=0, high=1)
    within = f"goodput: answered within {findings.slo_ms:g} ms"
    return [
        *chart(
            run, "goodput",
            "What is left of the peak when more is asked for than can be answered?",
            curves(run, sweep, "load", (RATES[0], ("goodput_rps", within)), x,
                   Axis("requests/s", "requests/s"), marks=rates),
            POINTS + line,
        ),
        *chart(
            run, "latency", "How long does an answer take, from the time it was due?",
            curves(run, sweep, "load", LATENCIES, x, MILLISECONDS, 1e-3, (at_capacity, slo)),
        ),
        *_tail(run, findings, slo),
        *_spike(run, findings),
        *chart(
            run, "fairness", "Is every connection served alike?",
            curves(run, sweep, "load", (("jain_fairness", "fairness"),), x, fair,
                   marks=(at_capacity,)),
        ),
    ]  # fmt: skip


# -- tail ---------------------------------------------------------------------------------


def _tail(run: Run, findings: Findings, slo: Mark) -> list[Chart]:
    sweep = run.trials[(run.trials["phase"] == "sweep") & run.trials["valid"]]
    loads = sorted({float(load) for load in sweep["load"].dropna().round(6)})
    chosen = sorted({min(loads, key=lambda load: abs(load - want)) for want in TAILS if loads})
    ticks = ((2, "p50"), (10, "p90"), (100, "p99"), (1e3, "p99.9"), (1e4, "p99.99"), (1e5, ""))
    x = Axis("percentile (logarithmic)", log=True, ticks=ticks, percentile=True)
    panels = []
    for load in chosen:
        cell = sweep[sweep["load"].round(6) == load]
        found = []
        for server in servers(run):
            numbers = cell[cell["server"] == server.label]["trial"]
            one = _distribution(run, server.label, [int(number) for number in numbers])
            if one is not None:
                found.append(one)
        shares = [
            f"{server.server} {level.answered:.0%}"
            for server in findings.servers
            if (level := server.at(load)) and level.answered is not None
        ]
        if found:
            panels.append(Panel(
                f"at {load:g} times the capacity", x, MILLISECONDS, tuple(found), (slo,),
                f"answered, of all: {', '.join(shares)}" if shares else "",
            ))  # fmt: skip
    return chart(
        run, "tail", "How long is the tail of latency?", panels,
        "Line: median over the valid trials. Band: their range.",
    )  # fmt: skip


def _distribution(run: Run, server: str, trials: Sequence[int]) -> Series | None:
    """Latency in ms at 1 / (1 - q), as far as the shortest of the trials reaches."""
    curves_ = [curve for trial in trials if (curve := _quantiles(run, trial)) is not None]
    if not curves_:
        return None
    reach = min(float(x[-1]) for x, _ in curves_)
    grid = 10 ** (np.arange(0, int(np.log10(reach) * _STEPS_A_DECADE) + 1) / _STEPS_A_DECADE)
    rows = np.array([np.exp(np.interp(np.log(grid), np.log(x), np.log(y))) for x, y in curves_])
    n = [len(curves_)] * len(grid)
    x, y, low, high = (
        [rounded(value) for value in line]
        for line in (grid, np.median(rows, axis=0), rows.min(axis=0), rows.max(axis=0))
    )
    return Series(server, x, [*y], [*low], [*high], n, n, [True] * len(grid))


def _quantiles(run: Run, trial: int) -> tuple[Any, Any] | None:
    found = ((raw_trial(run, trial) or {}).get("result") or {}).get("latency_quantiles")
    if not found:
        return None
    pairs = [
        (1 / (1 - q), us / 1e3)
        for q, us in zip(found["q"], found["latency_us"], strict=True)
        if q < 1 and us and us > 0
    ]
    if not pairs:
        return None
    x, y = np.array(sorted(pairs)).T
    return x, y


# -- spike --------------------------------------------------------------------------------

_KINDS = (
    Entry("offered", "offered", 7, 0, marker=False),
    Entry("answered", "answered", 5, 0, marker=False),
    Entry("good", "within the SLO", 2, 1, marker=False),
    Entry("rejected", "rejected", 0, 2, marker=False),
    Entry("p99", "p99", 6, 0, marker=False),
    Entry("p50", "p50", 1, 1, marker=False),
)


def _spike(run: Run, findings: Findings) -> list[Chart]:
    """Rates and latencies of one trial a server, then what staged servers said meanwhile."""
    chosen: dict[str, Spike] = {}
    for one in sorted(spikes(run), key=lambda s: not s.valid):
        if len(one.t_s):
            chosen.setdefault(one.server, one)
    shown = [chosen[s.server] for s in findings.servers if s.server in chosen]
    if not shown:
        return []
    panels = [_rates(one) for one in shown] + [_latencies(one, findings.slo_ms) for one in shown]
    note = f"One trial a server, in bins of {shown[0].bin_s * 1e3:g} ms. Shaded: the spike."
    found = [Chart("spike", "What does a spike do, and how long does it stay?", note, _KINDS,
                   tuple(panels), len(shown))]  # fmt: skip
    for one in shown:
        found += _inside(one)
    return found


def _named(one: Spike) -> str:
    return one.server if one.valid else f"{one.server} (invalid)"


def _shaded(one: Spike) -> tuple[Mark, ...]:
    return () if one.begin_s is None else (Mark("spike", x=one.begin_s, to_x=one.end_s),)


def _middles(one: Spike) -> list[float]:
    return [rounded(t) for t in one.t_s + one.bin_s / 2]


def _rates(one: Spike) -> Panel:
    x = _middles(one)
    drawn = tuple(
        Series(name, x, finite(getattr(one, name) / one.bin_s),
               style="area" if name == "offered" else "line")
        for name in ("offered", "answered", "good", "rejected")
    )  # fmt: skip
    note = "" if one.valid else one.invalid_reason
    title = f"{_named(one)}: requests/s"
    y = Axis("requests/s", "requests/s", low=0)
    return Panel(title, _SECONDS, y, drawn, _shaded(one), note)


def _latencies(one: Spike, slo_ms: float) -> Panel:
    x = _middles(one)
    drawn = tuple(
        Series(name, x, finite([v if v > 0 else None for v in getattr(one, f"{name}_us") / 1e3]))
        for name in ("p99", "p50")
    )
    found = recovery(one, slo_ms)
    note = ""
    if found is not None and found.seconds is None:
        note = f"not recovered within the {found.observed_s:.1f} s that were left"
    elif found is not None and found.seconds is not None:
        note = "recovered at once, in the first bin after the spike"
        if found.seconds >= 0.05:
            note = f"recovered {found.seconds:.1f} s after the spike"
    marks = (*_shaded(one), Mark(f"SLO {slo_ms:g} ms", y=slo_ms))
    return Panel(f"{_named(one)}: latency", _SECONDS, MILLISECONDS, drawn, marks, note)


# -- inside -------------------------------------------------------------------------------


def _inside(one: Spike) -> list[Chart]:
    """Queues, threads and batches of the stages that move most, and the admission limit."""
    names = _busiest(one.inside)
    if not names:
        return []
    slots = (1, 0, 2, 3)
    legend = [Entry(name, name, slots[rank], rank, marker=False) for rank, name in enumerate(names)]
    x = [rounded(float(said["t_s"])) for said in one.inside]
    panels = []
    for key, title, unit in (
        ("queue_length", "events in the queue", "events"), ("threads", "threads", "threads"),
        ("batch", "batch limit", "events"),
    ):  # fmt: skip
        drawn = tuple(
            Series(name, x, finite([_of_stage(s, name, key) for s in one.inside]), style="step")
            for name in names
        )
        y = Axis(title, unit, low=0)
        panels.append(Panel(title, _SECONDS, y, drawn, _shaded(one)))
    limits = finite([(said.get("admission") or {}).get("limit_per_s") for said in one.inside])
    if any(limit is not None for limit in limits):
        legend.append(Entry("limit", "admission limit", 6, 0, marker=False))
        y = Axis("requests/s", "requests/s", low=0)
        panels.append(Panel(
            "admission limit", _SECONDS, y, (Series("limit", x, limits, style="step"),),
            _shaded(one), "no line: no limit" if None in limits else "",
        ))  # fmt: skip
    note = "What the server said of its stages during the same trial; the busiest are shown."
    question = f"Inside {one.server}: what do its stages do meanwhile?"
    columns = 2 if len(panels) == 4 else len(panels)
    return [Chart(f"inside {one.server}", question, note, tuple(legend), tuple(panels), columns)]


def _of_stage(said: Mapping[str, Any], name: str, key: str) -> float | None:
    stage = next((s for s in said.get("stages") or () if s["name"] == name), None)
    value = None if stage is None else stage[key]
    return None if value is None else float(value)


def _busiest(inside: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the stages with the longest queues."""
    highest: dict[str, tuple[float, float]] = {}
    for said in inside:
        for stage in said.get("stages") or ():
            queue, threads = highest.get(stage["name"], (0.0, 0.0))
            highest[stage["name"]] = (
                max(queue, stage["queue_length"] or 0), max(threads, stage["threads"] or 0)
            )  # fmt: skip
    return sorted(highest, key=lambda name: highest[name], reverse=True)[:_SHOWN_STAGES]
