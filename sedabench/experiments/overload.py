"""overload: what does a server do when it is asked for more than it can?

Welsh and Culler (HotOS 2001): a well-conditioned service keeps its peak under
overload, and gets slower for all alike; others fall.  So: find the capacity of
the service, offer from a quarter to three times of it, and look at what is
answered in time.

Three phases, in this order.  *capacity*: each server, closed loop.  The highest
of the medians is the run's capacity, kept in the manifest, so that all servers
face the same offered loads.  *sweep*: every server at every load, Poisson
arrivals, in blocks of random order; at one load and block all servers face the
same schedule, request by request.  *spike*: each server once, half the capacity,
then twice, then half again, with the server's own view every 100 ms.

Settings that are a choice, and why:

- 1024 connections.  A connection carries one request at a time, so what is
  beyond them waits in the generator, on the clock.  For a server's own queue to
  be what breaks the SLO, there must be more connections than capacity times
  SLO: 300 for `dynamic`, 700 for `mixed` here.  (`static` would need 5000.)
- SLO 100 ms.  What people feel as immediate, and 20 to 300 times what a request
  takes on an idle server.
- Time-out 1 s.  Ten times the SLO, so a time-out never costs goodput.  It bounds
  the queue: under overload the latency of a server without admission control
  grows with time, and with a time-out it is at its final state when the window
  begins (1 s of backlog is there after 1 s at twice the capacity, 2 s at 1.5).
- `seda` has all its controllers.  What else it is given was found by trying a few
  sizes on the machine of the reference runs, a few short repeats each, so neither
  carefully nor for others (`--server 'seda --...'` is how to try): see `SEDA`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedabench.calibration.record import load_calibration, warnings_for
from sedabench.errors import UserError, unknown
from sedabench.experiments import base as common
from sedabench.experiments.base import Bench
from sedabench.experiments.plan import Cell, Outcome, carry_out, numbered, shuffled_blocks
from sedabench.experiments.site import MIXES, Site
from sedabench.progress import Progress
from sedabench.results.folder import Run, RunWriter, check_new_folder, load_run
from sedabench.targets import servers as servers_under_test
from sedabench.targets.external import ExternalSpec, joining, load_external
from sedabench.targets.servers import AnyServer, ServerSpec
from sedabench.trials import http_columns
from sedabench.trials.trial import Measured, Workload

NAME = "overload"
SUMMARY = "throughput, goodput and latency when more is asked for than can be done"

DEFAULT_SERVERS = ("threaded", "eventloop", "seda")
ALSO = ("nginx", "apache-prefork", "apache-worker", "apache-event")
ALSO_QUICK = ("nginx", "apache-event")
"""Beside them those of these that are installed, where they offer the workload (`static`);
quick has one a program, for each server takes it most of a minute."""
SEDA: dict[str, tuple[float, str]] = {
    "dynamic": (0.5, "--queue-capacity 256 --batch 64"),
    "mixed": (0.8, "--queue-capacity 64 --batch 32 --threads read_file=40"),
    "static": (0.5, "--queue-capacity 256 --batch 64"),
}
"""By workload: the admission target as a share of the SLO, and other options of `seda`.

Median goodput/s of short trials, interleaved, on a machine whose speed changes from second to
second.  `dynamic`, six repeats at 1.1, 2 and 3 times 2,700/s: 1,924, 1,846 and 1,667 with these,
2,148, 1,807 and 1,668 with one thread for all stages (`--run shared`).  `mixed`, three repeats at
1, 2 and 3 times 5,000/s: 4,201, 3,790 and 4,119 with these (p99 170, 75 and 72 ms); 4,858, 4,332
and 2,433 with a target of 0.5; 3,711, 3,740 and 543 with the queues and batches of `dynamic`.
40 threads read files because the modelled disk serves 40 at once.
"""

QUICK_LOADS = (0.25, 0.5, 0.9, 1.2, 2, 3)
FULL_LOADS = (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.5, 3)
HIGHEST_LOAD = 100.0

SPIKE_BASE, SPIKE_PEAK = 0.5, 2.0
"""Offered load before and after the spike, and in it."""

POLL_S = 0.1
START_S = 1.3
"""About how long processes take to start, connect and stop."""


@dataclass(frozen=True)
class Overload:
    """Settings of a run; everything that decides what is measured."""

    servers: tuple[AnyServer, ...]
    workload: str = "dynamic"
    loads: tuple[float, ...] = FULL_LOADS
    repeats: int = 5
    duration_s: float = 3.0
    warmup_s: float = 1.5
    slo_ms: float = 100.0
    connections: int = 1024
    timeout_s: float = 1.0
    capacity_connections: int = 64
    """Of the closed loop: enough to keep any server busy, few enough to leave it at its best."""
    capacity_repeats: int = 5
    spike_before_s: float = 3.0
    """From the window's begin."""
    spike_s: float = 3.0
    spike_after_s: float = 6.0
    seed: int = 2001
    python: str | None = None
    """The servers' interpreter; None: that of the driver."""

    @classmethod
    def full(cls, **changes: Any) -> Overload:
        """11 loads, five repeats, windows of 3 s: about 20 minutes for three servers."""
        return _with_defaults(cls(()), changes, ALSO)

    @classmethod
    def quick(cls, **changes: Any) -> Overload:
        """6 loads, two repeats, windows of 1.2 s: under three minutes for three servers."""
        quick = cls(
            (), loads=QUICK_LOADS, repeats=2, duration_s=1.2, warmup_s=0.6, capacity_repeats=2,
            spike_before_s=1.0, spike_s=1.2, spike_after_s=2.5,
        )  # fmt: skip
        return _with_defaults(quick, changes, ALSO_QUICK)

    def estimate_s(self, cell: Cell) -> float:
        """About how long a trial takes, all in."""
        if cell["phase"] == "spike":
            return START_S + self.warmup_s + self._spike_window_s + self.timeout_s / 2
        waiting_s = self.timeout_s if cell.get("load", 0) > 1 else 0.0
        return START_S + self.warmup_s + self.duration_s + waiting_s

    @property
    def _spike_window_s(self) -> float:
        return self.spike_before_s + self.spike_s + self.spike_after_s

    def workload_of(self, site: Site, cell: Cell, capacity_rps: float) -> Workload:
        """What a trial of the plan sends; `capacity_rps` is not asked for in the first phase."""
        if cell["phase"] == "capacity":
            return site.load(self._arguments(cell, self.capacity_connections), tail_s=1.0)
        arguments = self._arguments(cell, self.connections)
        tail_s = self.timeout_s + 1.0
        if cell["phase"] == "sweep":
            rate = {"rate": f"{cell['load'] * capacity_rps:.3f}", "arrivals": "poisson"}
            return site.load({**arguments, **rate}, tail_s=tail_s)
        at_s = self.warmup_s + self.spike_before_s
        spike = {
            "rate": f"{SPIKE_BASE * capacity_rps:.3f}",
            "arrivals": f"spike:{cell['load'] / SPIKE_BASE:g},{at_s:g},{self.spike_s:g}",
            "duration": self._spike_window_s,
        }
        return site.load({**arguments, **spike}, tail_s=tail_s, poll_s=POLL_S)

    def _arguments(self, cell: Cell, connections: int) -> dict[str, object]:
        """The seed does not depend on the server: all face the same schedule."""
        key = f"{self.seed}/{cell['block']}/{cell['phase']}/{cell.get('load')}"
        return {
            "connections": connections,
            "duration": self.duration_s,
            "warmup": self.warmup_s,
            "slo": self.slo_ms,
            "timeout": self.timeout_s,
            "seed": random.Random(key).randrange(2**31),
        }


def default_options(config: Overload) -> dict[str, tuple[str, ...]]:
    """Options of an architecture that is named without any."""
    if config.workload not in SEDA:
        return {}  # `check` will say so
    share, options = SEDA[config.workload]
    return {"seda": ("--admission-target-ms", f"{share * config.slo_ms:g}", *options.split())}


def _with_defaults(config: Overload, changes: Mapping[str, Any], also: Sequence[str]) -> Overload:
    config = replace(config, **changes)
    if config.servers:
        return config
    ours = servers_under_test.parse_specs(DEFAULT_SERVERS, default_options(config))
    return replace(config, servers=(*ours, *joining(load_external(), config.workload, also)))


def with_theirs(config: Overload, external: Mapping[str, ExternalSpec]) -> tuple[AnyServer, ...]:
    """The default servers of a person who brings definitions: those that offer it join."""
    known = {spec.label for spec in config.servers}
    theirs = joining(external, config.workload, known)
    ours = (spec for spec in config.servers if isinstance(spec, ServerSpec))
    return (*ours, *theirs)


def check(config: Overload) -> None:
    """Find out before the first trial what would make trials fail.

    Raises:
        UserError: a setting that cannot be, or that this machine's limits do not allow.
    """
    if config.workload not in MIXES:
        raise unknown("workload", config.workload, MIXES)
    common.check_external(config.servers, config.workload)
    if not config.loads or not all(0 < load <= HIGHEST_LOAD for load in config.loads):
        raise UserError(
            f"loads must be over 0 and at most {HIGHEST_LOAD:g}, as multiples of the capacity; "
            "write --load 0.5,1,2"
        )
    if len(set(config.loads)) < len(config.loads):
        raise UserError("a load is named twice in --load; name each once")
    for name in ("slo_ms", "timeout_s", "spike_before_s", "spike_s", "spike_after_s"):
        if not 0 < getattr(config, name) <= 3.6e6:
            raise UserError(f"{name} must be over 0 and finite")
    if config.timeout_s * 1e3 < config.slo_ms:
        raise UserError(
            f"the time-out ({config.timeout_s * 1e3:g} ms) is under the SLO "
            f"({config.slo_ms:g} ms); raise --timeout"
        )
    if min(config.connections, config.capacity_connections, config.capacity_repeats) < 1:
        raise UserError("--connections must be at least 1")
    common.check_shared(config, max(config.connections, config.capacity_connections))


def plan_of(config: Overload) -> list[dict[str, Any]]:
    """Capacity, sweep, spike: each in blocks of random order."""
    labels = [spec.label for spec in config.servers]
    source = random.Random(config.seed)
    capacity = [{"phase": "capacity", "server": label} for label in labels]
    sweep = [
        {"phase": "sweep", "server": label, "load": load}
        for label in labels
        for load in map(plain, config.loads)
    ]
    spike = [{"phase": "spike", "server": label, "load": plain(SPIKE_PEAK)} for label in labels]
    return numbered(
        [
            *shuffled_blocks(capacity, config.capacity_repeats, source),
            *shuffled_blocks(sweep, config.repeats, source),
            *shuffled_blocks(spike, 1, source),
        ]
    )


def plain(load: float) -> float:
    """A load as it is written in a row and in a plan alike: 2, not 2.0."""
    rounded = float(f"{load:.9g}")
    return int(rounded) if rounded == int(rounded) else rounded


def run(config: Overload, out: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure a new run into the folder `out`, which must not exist or be empty.

    Raises:
        UserError: see `check`; or a server cannot be started; or `out` cannot be used;
            or no server has a valid capacity trial, and then what was measured is kept.
    """
    check(config)
    check_new_folder(out)
    progress = progress or Progress()
    bench = Bench.of(config.python)
    site = Site.prepare(config.workload, bench, {})
    plan = plan_of(config)
    common.try_servers(config.servers, config.workload_of(site, plan[0], 0.0), bench)
    common.import_readers()
    more: dict[str, Any] = {
        "compute_loops_per_us": site.loops_per_us,
        "capacity_rps": None,
        "capacity_by_server_rps": {},
        "calibration": load_calibration(),
    }
    manifest = common.manifest(NAME, config, bench, plan, more)
    with RunWriter.create(out, manifest, http_columns.COLUMNS) as writer:
        return _finish(writer, config, bench, site, progress)


def resume(path: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure what an interrupted run lacks, with its own settings, order and capacity.

    Finished trials stay as they are, invalid ones too: to repeat only what
    displeased would bias the run.

    Raises:
        DamagedRunError: see `sedabench.results.folder.read_folder`.
        UserError: it is no run of overload, or another process is writing it.
    """
    progress = progress or Progress()
    with RunWriter.reopen(path) as writer:
        config = common.recorded_settings(Overload, NAME, plan_of, path, writer.manifest)
        check(config)
        site = Site.prepare(config.workload, Bench.of(config.python), writer.manifest)
        workload = config.workload_of(site, writer.manifest["plan"][0], 0.0)
        bench = common.reopened(writer, config, workload, progress)
        return _finish(writer, config, bench, site, progress)


def _finish(
    writer: RunWriter, config: Overload, bench: Bench, site: Site, progress: Progress
) -> tuple[Run, Outcome]:
    specs = {spec.label: spec for spec in config.servers}

    def measure_cell(cell: Cell) -> Measured:
        capacity_rps = 0.0 if cell["phase"] == "capacity" else _capacity(writer)
        measured = bench.measure(
            specs[cell["server"]], config.workload_of(site, cell, capacity_rps)
        )
        measured.row.update(workload=config.workload)
        return measured

    outcome = carry_out(writer, measure_cell, describe, config.estimate_s, progress)
    finished = load_run(writer.path)
    if len(finished.trials):
        common.draw(draw, finished)
    return finished, outcome


def _capacity(writer: RunWriter) -> float:
    """The run's capacity; computed once, when every capacity trial has its row.

    Raises:
        UserError: no capacity trial is valid.
    """
    if (known := writer.manifest["capacity_rps"]) is not None:
        return float(known)
    found = capacities(load_run(writer.path))
    if not found:
        reasons = load_run(writer.path).trials["invalid_reason"]
        raise UserError(
            f"no capacity trial is valid ({reasons.iloc[0]}), so no load can be offered; "
            f"see {writer.path / 'trials.csv'}"
        )
    highest = max(found.values())
    asked_rps = highest * max((cell.get("load", 1) for cell in writer.manifest["plan"]), default=1)
    writer.update(
        capacity_rps=highest,
        capacity_by_server_rps=found,
        warnings=[
            *(writer.manifest.get("warnings") or []),
            *warnings_for(asked_rps, writer.manifest.get("calibration")),
        ],
    )
    return highest


def capacities(finished: Run) -> dict[str, float]:
    """Median closed-loop throughput of each server that has a valid capacity trial."""
    rows = finished.trials
    rows = rows[(rows["phase"] == "capacity") & rows["valid"] & (rows["throughput_rps"] > 0)]
    medians = rows.groupby("server")["throughput_rps"].median()
    return {str(server): float(value) for server, value in medians.items()}


def draw(finished: Run) -> list[Path]:
    """Draw every figure of a run into its folder; return the files."""
    from sedabench.figures import overload as plots_overload

    return plots_overload.draw(finished)


def show(finished: Run, console: Any) -> None:
    """Table and sentences."""
    from sedabench.analysis import overload_findings as findings_overload

    findings_overload.show(finished, console)


def describe(row: Mapping[str, Any]) -> str:
    """A finished trial in one line."""
    load = "" if row["load"] is None else f" {row['load']:g}"
    cell = f"{row['server']} {row['phase']}{load}"
    if row["throughput_rps"] is None:
        return f"{cell}  no result: {row['invalid_reason']}"
    invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
    p99_us = row["latency_p99_us"]
    p99 = "" if p99_us is None else f", p99 {p99_us / 1e3:.1f} ms"
    return (
        f"{cell}  {row['throughput_rps']:.0f} answers/s, "
        f"{row['goodput_rps'] or 0.0:.0f} in time{p99}{invalid}"
    )
