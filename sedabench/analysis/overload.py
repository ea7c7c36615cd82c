"""What a run of `overload` found: capacity, peak, and what is kept of it, as values.

Computed from the rows of valid trials and, for recovery, from the records of
the spike trials; nothing is assumed.  What the words mean:

- capacity: throughput of the closed loop, median over the repeats.  Offered
  loads are multiples of the highest capacity of the compared servers.
- peak goodput: the highest of the medians over the offered loads.  A highest
  of many noisy medians is a little too high, so what is kept of it comes out
  a little too low, by about the noise of one median.
- kept: median goodput at a load over that at the peak, both resampled
  (`stats.ratio_of_medians`): the conditioning ratio.
- accepted: scheduled and not rejected.  A load breaks the SLO when the p99 of
  the answers is above it, or when more than 1 % of the accepted requests got
  no correct answer at all: then the 99th percentile of the accepted has none.
- the claim: a server keeps its peak when the whole interval of what it keeps
  at twice the capacity is at least `KEEPS`; it does not when the whole
  interval is under it; otherwise, or when no valid trial is near the capacity
  (`AROUND`), where a peak is, nothing is decided.  Of the paper's design are
  the servers of the architecture `STAGED` with admission control; those that
  have it switched off (`NO_CONTROL`) speak neither for the claim nor against it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sedabench.analysis.figure1 import servers_of
from sedabench.analysis.spike import Recovery, recovery, spikes
from sedabench.analysis.stats import Interval, median, ratio_of_medians
from sedabench.results.folder import Run
from sedabench.results.raw_trials import damage_is_named
from sedabench.results.reasons import first_kinds

if TYPE_CHECKING:
    import pandas as pd

KEEPS = 0.9
"""From this share of its peak on a server is said to keep it: a choice, as any mark is."""
AROUND = 0.75, 1.25
"""Loads, one of which must have a valid trial for a highest goodput to be called the peak."""
TWICE, THRICE = 2.0, 3.0
STAGED = "seda"
"""The architecture of which the paper claims that it is well-conditioned."""
NO_CONTROL, CONTROL = "--no-admission-controller", "--admission-controller"
"""Options of `STAGED`, on by default; the last one given holds."""
_NEAR = 0.05
"""How far, as a share, a measured load may be from the one that is asked for."""

Verdict = Literal["keeps", "loses", "undecided"]
Lacking = Literal["trial", "peak", "repeat"]
"""Why there is no ratio: no valid trial at the load, a peak of 0, a repeat of 0 at the peak."""


@dataclass(frozen=True)
class Level:
    """One server at one offered load; intervals over the valid repeats, None without any."""

    server: str
    load: float
    """Offered load in multiples of the capacity."""
    valid: int
    trials: int
    throughput_rps: Interval | None
    goodput_rps: Interval | None
    p50_us: Interval | None
    p99_us: Interval | None
    jain_fairness: Interval | None
    answered: float | None
    """Share of the scheduled requests that got a correct answer; median."""
    rejected: float | None
    """Share of the scheduled requests that got a 503; median."""
    lost: float | None
    """Share of the accepted requests that got no correct answer; median."""
    breaks_slo: bool | None


@dataclass(frozen=True)
class Kept:
    """Goodput at `load` over goodput at the peak; `ratio` is None where it cannot be had."""

    load: float
    ratio: Interval | None
    at_peak: bool
    """This load is the peak, so the ratio is 1 and says nothing."""
    peak_is_known: bool = True
    """A load near the capacity has a valid trial; else the peak may have been missed."""
    lacking: Lacking | None = None
    """None if there is a ratio."""

    @property
    def verdict(self) -> Verdict | None:
        if self.ratio is None:
            return None
        if self.ratio.n < 2 or not self.peak_is_known:
            return "undecided"
        if self.at_peak:
            return "keeps"
        if self.ratio.low >= KEEPS:
            return "keeps"
        return "loses" if self.ratio.high < KEEPS else "undecided"


@dataclass(frozen=True)
class ServerFindings:
    """What is known of one server."""

    server: str
    architecture: str
    options: tuple[str, ...]
    capacity_rps: Interval | None
    levels: tuple[Level, ...]
    """Ascending in load."""
    peak: Level | None
    twice: Kept
    thrice: Kept
    recoveries: tuple[Recovery, ...]
    """Of the valid spike trials."""

    def at(self, load: float) -> Level | None:
        """The level at that load, if it was measured and has a valid trial."""
        return _at(self.levels, load)

    @property
    def control_is_off(self) -> bool:
        """It is of the paper's architecture, without what turns requests away in time."""
        switches = [option for option in self.options if option in (NO_CONTROL, CONTROL)]
        return self.architecture == STAGED and switches[-1:] == [NO_CONTROL]

    @property
    def breaks_at(self) -> Level | None:
        """The lowest load that breaks the SLO."""
        return next((level for level in self.levels if level.breaks_slo), None)


@dataclass(frozen=True)
class Findings:
    """What is known of a run."""

    workload: str
    slo_ms: float
    capacity_rps: float | None
    servers: tuple[ServerFindings, ...]
    trials: int
    invalid: tuple[tuple[str, int], ...]
    """Reasons with the number of trials, the most frequent first."""


def analyse(run: Run) -> Findings:
    """Everything that sentences, table and figures say.

    Raises:
        DamagedRunError: manifest, rows or records cannot be understood.
    """
    with damage_is_named(run, "it cannot be analysed"):
        parameters = run.manifest["parameters"]
        slo_ms = float(parameters["slo_ms"])
        recoveries: dict[str, list[Recovery]] = {}
        for spike in spikes(run):
            found = recovery(spike, slo_ms) if spike.valid else None
            if found is not None:
                recoveries.setdefault(spike.server, []).append(found)
        capacity = run.manifest.get("capacity_rps")
        return Findings(
            workload=str(parameters["workload"]),
            slo_ms=slo_ms,
            capacity_rps=None if capacity is None else float(capacity),
            servers=tuple(
                _server(run, server, slo_ms, recoveries.get(server, []))
                for server in servers_of(run)
            ),
            trials=len(run.trials),
            invalid=tuple(first_kinds(run.trials[~run.trials["valid"]]["invalid_reason"])),
        )


def _server(run: Run, server: str, slo_ms: float, recoveries: Sequence[Recovery]) -> ServerFindings:
    mine = run.trials[run.trials["server"] == server]
    sweep = mine[mine["phase"] == "sweep"]
    levels = tuple(
        _level(server, float(load), trials, slo_ms)
        for load, trials in sorted(sweep.groupby(sweep["load"].round(6)))
    )
    measured = [level for level in levels if level.goodput_rps is not None]
    peak = max(measured, key=lambda level: level.goodput_rps.value, default=None)  # type: ignore[union-attr]
    closed = mine[(mine["phase"] == "capacity") & mine["valid"]]
    return ServerFindings(
        server=server,
        architecture=str(mine["architecture"].iloc[0]),
        options=tuple(shlex.split(str(mine["server_options"].iloc[0]))),
        capacity_rps=_interval(closed["throughput_rps"]),
        levels=levels,
        peak=peak,
        twice=_kept(sweep, levels, peak, TWICE),
        thrice=_kept(sweep, levels, peak, THRICE),
        recoveries=tuple(recoveries),
    )


def _level(server: str, load: float, trials: pd.DataFrame, slo_ms: float) -> Level:
    valid = trials[trials["valid"]]
    p99_us = _interval(valid["latency_p99_us"])
    scheduled, answered, rejected = (
        valid[name].astype(float) for name in ("scheduled", "answered", "rejected")
    )
    accepted = (scheduled - rejected).where(lambda count: count > 0)
    asked = scheduled.where(lambda count: count > 0)
    lost = _middle(1 - answered / accepted)
    breaks: bool | None = None
    if p99_us is not None or lost is not None:
        breaks = (p99_us is not None and p99_us.value > slo_ms * 1e3) or (lost or 0.0) > 0.01
    return Level(
        server=server,
        load=load,
        valid=len(valid),
        trials=len(trials),
        throughput_rps=_interval(valid["throughput_rps"]),
        goodput_rps=_interval(valid["goodput_rps"]),
        p50_us=_interval(valid["latency_p50_us"]),
        p99_us=p99_us,
        jain_fairness=_interval(valid["jain_fairness"]),
        answered=_middle(answered / asked),
        rejected=_middle(rejected / asked),
        lost=lost,
        breaks_slo=breaks,
    )


def _kept(sweep: pd.DataFrame, levels: Sequence[Level], peak: Level | None, load: float) -> Kept:
    level = _at(levels, load)
    if level is None or peak is None or level.goodput_rps is None:
        return Kept(load, None, False, lacking="trial")

    def goodputs(of: Level) -> list[float]:
        trials = sweep[(sweep["load"].round(6) == of.load) & sweep["valid"]]
        return [float(value) for value in trials["goodput_rps"].dropna()]

    below = goodputs(peak)
    if min(below) == 0:
        none_at_all = peak.goodput_rps is not None and peak.goodput_rps.value == 0
        return Kept(load, None, False, lacking="peak" if none_at_all else "repeat")
    least, most = AROUND
    known = any(v.valid and least <= v.load <= most for v in levels)
    return Kept(load, ratio_of_medians(goodputs(level), below), level is peak, known)


def _at(levels: Sequence[Level], load: float) -> Level | None:
    near = [v for v in levels if v.valid and abs(v.load - load) <= _NEAR * load]
    return min(near, key=lambda level: abs(level.load - load), default=None)


def _interval(column: pd.Series[float]) -> Interval | None:
    values = column.dropna()
    return median(values.to_numpy(float)) if len(values) else None


def _middle(column: pd.Series[float]) -> float | None:
    values = column.dropna()
    return float(values.median()) if len(values) else None
