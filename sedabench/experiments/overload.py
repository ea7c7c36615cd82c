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
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from sedabench.analysis import overload_findings as summary
from sedabench.analysis.compare import Question
from sedabench.analysis.overload import analyse
from sedabench.calibration.record import load_calibration, warnings_for
from sedabench.errors import SettingError, UserError
from sedabench.experiments.base import START_S, Rig
from sedabench.experiments.bench import check_shared
from sedabench.experiments.plan import Cell, numbered, shuffled_blocks
from sedabench.experiments.settings import Settings, setting
from sedabench.experiments.site import MIXES, Site, SiteExperiment
from sedabench.figures import charts_overload, overload, spike
from sedabench.figures.charts import Chart
from sedabench.results.folder import Run, RunWriter, load_run
from sedabench.targets.external import ExternalSpec, joining
from sedabench.targets.servers import AnyServer
from sedabench.trials.trial import Measured, Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

MAX_LOAD = 100.0

SPIKE_BASE, SPIKE_PEAK = 0.5, 2.0
"""Offered load before and after the spike, and in it."""

POLL_S = 0.1
MAX_MS = 3.6e6

HELP = """What servers do when more is asked for than they can do.

Finds the capacity (closed loop, the highest of all servers), offers 0.25 to
3 times of it with Poisson arrivals, and ends with a spike: half the
capacity, twice, half again. Ctrl-C keeps what is finished; --resume does
the rest.

\b
Examples:
  sedabench run overload --quick
  sedabench run overload --workload mixed
  sedabench run overload --quick --workload static --definitions mine.toml
  sedabench run overload --quick --load 0.9,2 --slo 50
  sedabench run overload --quick --server seda \\
                         --server 'open=seda --no-admission-controller --queue-policy block'
  sedabench run overload --workload static --server threaded --server nginx
  sedabench run overload --resume results/overload/2026-01-31T12-00-00Z

In the folder: figures (PNG and SVG), trials.csv (a row a trial), trials/
(what both sides said, with timelines) and manifest.json.
"""


class OverloadSettings(Settings):
    """In full about 20 minutes for three servers; quick under three."""

    QUICK: ClassVar[Mapping[str, Any]] = {
        "loads": (0.25, 0.5, 0.9, 1.2, 2, 3), "repeats": 2, "duration_s": 1.2, "warmup_s": 0.6,
        "capacity_repeats": 2, "spike_before_s": 1.0, "spike_s": 1.2, "spike_after_s": 2.5,
    }  # fmt: skip
    QUICK_HELP: ClassVar[str] = (
        "Few loads and repeats, short windows: under a minute a server. Without it seven minutes "
        "a server."
    )

    servers: tuple[Any, ...] = setting(
        (),
        "A server to compare, one of your own as path/to/file.py:ClassName; repeat it. A bare "
        "'seda' gets options that suit workload and SLO; the manifest has them. nginx and others "
        "that are not ours take no options.  [default: threaded, eventloop, seda; with static "
        "also nginx and every apache-... that is installed, with --quick of these nginx and "
        "apache-event]",
        option="--server",
        metavar="[LABEL=]NAME [OPTIONS]",
    )
    workload: str = setting(
        "dynamic",
        "dynamic: 300 us of computing; mixed: 70 % cached files, 20 % behind a modelled disk, "
        "10 % 1 ms of computing; static: SPECweb99's files.",
        metavar="NAME",
        known=MIXES,
    )
    loads: tuple[float, ...] = setting(
        (0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.5, 3),
        "Offered loads, as multiples of the capacity.",
        option="--load", metavar="L,L,...", gt=0, le=MAX_LOAD,
    )  # fmt: skip
    slo_ms: float = setting(
        100.0, "Latency within which an answer counts for goodput.",
        unit="ms", metavar="MS", gt=0, le=MAX_MS,
    )  # fmt: skip
    connections: int = setting(1024, "Connections under open loop.", metavar="N", ge=1)
    timeout_s: float = setting(
        1.0, "A request that waits longer is given up.", unit="s", metavar="S", gt=0, le=MAX_MS
    )
    capacity_connections: int = setting(
        64,
        "Connections of the closed loop that finds the capacity: enough to keep any server busy, "
        "few enough to leave it at its best.",
        metavar="N", ge=1,
    )  # fmt: skip
    capacity_repeats: int = setting(5, "Its repeats.", metavar="N", ge=1)
    spike_before_s: float = setting(
        3.0, "Seconds before the spike at the end, from the window's begin.",
        unit="s", metavar="S", gt=0, le=MAX_MS,
    )  # fmt: skip
    spike_s: float = setting(
        3.0, "Seconds that the spike lasts.", unit="s", metavar="S", gt=0, le=MAX_MS
    )
    spike_after_s: float = setting(6.0, "Seconds after it.", unit="s", metavar="S", gt=0, le=MAX_MS)
    warmup_s: float = setting(1.5, "Warm-up before it, in seconds.", unit="s", metavar="S", ge=0)

    @property
    def spike_window_s(self) -> float:
        return self.spike_before_s + self.spike_s + self.spike_after_s


class Overload(SiteExperiment):
    """What is left of the peak when more is asked for than can be done."""

    name = "overload"
    summary = "throughput, goodput and latency when more is asked for than can be done"
    help = HELP
    Settings = OverloadSettings
    level = "load"
    question = Question(
        ("load",), ("goodput_rps", "latency_p99_us"), "workload", "offered_rps", "sweep"
    )
    definitions = True

    def offered(self, settings: OverloadSettings) -> str:
        return settings.workload

    def usual_options(self, settings: OverloadSettings) -> Mapping[str, tuple[str, ...]]:
        share, options = SEDA[settings.workload]
        target = f"{share * settings.slo_ms:g}"
        return {"seda": ("--admission-target-ms", target, *options.split())}

    def usual_servers(
        self, settings: OverloadSettings, external: Mapping[str, ExternalSpec], *, quick: bool
    ) -> tuple[AnyServer, ...]:
        mine = super().usual_servers(settings, external, quick=quick)
        return (*mine, *joining(external, settings.workload, ALSO_QUICK if quick else ALSO))

    def check(self, settings: OverloadSettings) -> None:
        if settings.timeout_s * 1e3 < settings.slo_ms:
            raise SettingError(
                "timeout_s",
                f"is {settings.timeout_s:g} s, which is under the SLO ({settings.slo_ms:g} ms); "
                "raise the time-out",
            )
        super().check(settings)
        check_shared(settings, settings.capacity_connections)

    def plan(self, settings: OverloadSettings) -> list[dict[str, Any]]:
        """Capacity, sweep, spike: each in blocks of random order."""
        labels = [spec.label for spec in settings.servers]
        source = random.Random(settings.seed)
        capacity = [{"phase": "capacity", "server": label} for label in labels]
        sweep = [
            {"phase": "sweep", "server": label, "load": load}
            for label in labels
            for load in map(plain, settings.loads)
        ]
        spike = [{"phase": "spike", "server": label, "load": plain(SPIKE_PEAK)} for label in labels]
        return numbered(
            [
                *shuffled_blocks(capacity, settings.capacity_repeats, source),
                *shuffled_blocks(sweep, settings.repeats, source),
                *shuffled_blocks(spike, 1, source),
            ]
        )

    def estimate_s(self, settings: OverloadSettings, cell: Cell) -> float:
        """About how long a trial takes, all in."""
        if cell["phase"] == "spike":
            return START_S + settings.warmup_s + settings.spike_window_s + settings.timeout_s / 2
        waiting_s = settings.timeout_s if cell.get("load", 0) > 1 else 0.0
        return START_S + settings.warmup_s + settings.duration_s + waiting_s

    def manifest(self, settings: OverloadSettings, shared: Site) -> dict[str, Any]:
        return {
            **super().manifest(settings, shared),
            "capacity_rps": None,
            "capacity_by_server_rps": {},
            "calibration": load_calibration(),
        }

    def workload(self, settings: OverloadSettings, site: Site, cell: Cell) -> Workload:
        """That of a trial whose load needs no capacity; a server is tried with it too."""
        return workload_at(settings, site, {**cell, "phase": "capacity"}, 0.0)

    def measure(self, rig: Rig, cell: Cell) -> Measured:
        settings: OverloadSettings = rig.settings
        capacity_rps = 0.0 if cell["phase"] == "capacity" else _capacity(rig.writer)
        workload = workload_at(settings, rig.shared, cell, capacity_rps)
        measured = rig.bench.measure(rig.server(cell["server"]), workload)
        measured.row.update(workload=settings.workload)
        return measured

    def describe(self, row: Mapping[str, Any]) -> str:
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

    def sentences(self, run: Run) -> list[str]:
        return summary.sentences(run)

    def table(self, run: Run) -> Any:
        return summary.table(analyse(run))

    def show(self, run: Run, console: Any) -> None:
        summary.show(run, console)  # both from one analysis

    def figures(self, run: Run) -> Mapping[str, Callable[[Run], Figure | None]]:
        findings = analyse(run)
        makers = (
            ("goodput", overload.goodput), ("latency", overload.latency), ("spike", spike.spike),
            ("tail", overload.tail), ("fairness", overload.fairness),
        )  # fmt: skip
        return {name: partial(_with, make, findings) for name, make in makers}

    def charts(self, run: Run) -> list[Chart]:
        return charts_overload.overload(run)


def _with(make: Callable[..., Figure | None], findings: Any, run: Run) -> Figure | None:
    return make(run, findings)


def workload_at(
    settings: OverloadSettings, site: Site, cell: Cell, capacity_rps: float
) -> Workload:
    """What a trial of the plan sends; `capacity_rps` is not asked for in the first phase."""
    if cell["phase"] == "capacity":
        return site.load(_arguments(settings, cell, settings.capacity_connections), tail_s=1.0)
    arguments = _arguments(settings, cell, settings.connections)
    tail_s = settings.timeout_s + 1.0
    if cell["phase"] == "sweep":
        rate = {"rate": f"{cell['load'] * capacity_rps:.3f}", "arrivals": "poisson"}
        return site.load({**arguments, **rate}, tail_s=tail_s)
    at_s = settings.warmup_s + settings.spike_before_s
    spike = {
        "rate": f"{SPIKE_BASE * capacity_rps:.3f}",
        "arrivals": f"spike:{cell['load'] / SPIKE_BASE:g},{at_s:g},{settings.spike_s:g}",
        "duration": settings.spike_window_s,
    }
    return site.load({**arguments, **spike}, tail_s=tail_s, poll_s=POLL_S)


def _arguments(settings: OverloadSettings, cell: Cell, connections: int) -> dict[str, object]:
    """The seed does not depend on the server: all face the same schedule."""
    key = f"{settings.seed}/{cell['block']}/{cell['phase']}/{cell.get('load')}"
    return {
        "connections": connections,
        "duration": settings.duration_s,
        "warmup": settings.warmup_s,
        "slo": settings.slo_ms,
        "timeout": settings.timeout_s,
        "seed": random.Random(key).randrange(2**31),
    }


def plain(load: float) -> float:
    """A load as it is written in a row and in a plan alike: 2, not 2.0."""
    rounded = float(f"{load:.9g}")
    return int(rounded) if rounded == int(rounded) else rounded


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
