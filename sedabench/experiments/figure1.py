"""figure1: how does bandwidth change with the number of connections?

The experiment behind Figure 1 of Welsh and Culler, "Virtualization Considered
Harmful: OS Design Directions for Well-Conditioned Services" (HotOS 2001): N
clients send bursts of 1000 packets of 8 KB, closed loop, and wait for one
32-byte acknowledgement a burst.  The paper's claim: a thread per connection
degrades with N and stops at about 400; events do not.

`run` and `resume` are the whole interface; the command line is a thin layer
over them:

    >>> from sedabench.experiments import figure1
    >>> run = figure1.run(figure1.Figure1.quick(repeats=1), Path("results/try"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedabench.errors import UserError
from sedabench.experiments import base as common
from sedabench.experiments.base import Bench
from sedabench.experiments.plan import Cell, Outcome, blocked_order, carry_out
from sedabench.progress import Progress
from sedabench.results.folder import Run, RunWriter, check_new_folder, load_run
from sedabench.targets import servers as servers_under_test
from sedabench.targets.servers import AnyServer
from sedabench.trials import burst_columns
from sedabench.trials.trial import Measured, Workload

NAME = "figure1"
SUMMARY = "bandwidth of bursts against the number of connections (the paper's Figure 1)"

DEFAULT_OPTIONS: dict[str, tuple[str, ...]] = {
    "threaded": ("--writers", "120", "--blocking-writers")
}
"""Options of a server that is named without any: the paper's variant of threads."""
DEFAULT_SERVERS = ("threaded", "eventloop", "seda")

QUICK_CONNECTIONS = (1, 16, 64, 256, 1024)
FULL_CONNECTIONS = tuple(2**power for power in range(14))

FILLING, LONGEST_FILLING_S = 512, 8.0
"""Connections a second is added to the warm-up for, and how many seconds at most.

Before the flow is steady, the buffers of all connections have filled in the
first rush, and the server has caught up: with 1024 connections and 0.6 s of
warm-up the server's count was up to 8 % off the client's, with 2.3 s under
0.1 % in most trials; with 8192 and 9 s, 0.1 %.
"""

ANSWERING = 2048
"""Connections a second of load after the window is added for.

A server with a thread for each of 8192 connections answers `/stats` 2 to 3 s
after it was asked; the load must last until then, or the counts of the two
sides cannot be compared.
"""

LARGEST_BUFFER, SMALLEST_BUFFER, BUFFERS = 128 << 10, 16 << 10, 1 << 30
"""Bytes of a receive buffer, and of all together: what the load generator's send buffers have."""


@dataclass(frozen=True)
class Figure1:
    """Settings of a run; everything that decides what is measured."""

    servers: tuple[AnyServer, ...]
    connections: tuple[int, ...] = FULL_CONNECTIONS
    repeats: int = 5
    duration_s: float = 3.0
    warmup_s: float = 1.0
    """The base of the warm-up: see `warmup_for`."""
    seed: int = 2001
    packets: int = 1000
    packet_bytes: int = 8192
    python: str | None = None
    """The servers' interpreter; None: that of the driver."""

    @classmethod
    def full(cls, **changes: Any) -> Figure1:
        """14 levels, five repeats, windows of 3 s: about 25 minutes."""
        return replace(cls(default_servers()), **changes)

    @classmethod
    def quick(cls, **changes: Any) -> Figure1:
        """5 levels, two repeats, windows of 1 s: a minute and a bit."""
        quick = cls(default_servers(), QUICK_CONNECTIONS, 2, 1.0, 0.3)
        return replace(quick, **changes)

    def warmup_for(self, connections: int) -> float:
        """The warm-up of a level, in seconds: the base, and one for every `FILLING`, to a limit."""
        return round(self.warmup_s + min(LONGEST_FILLING_S, connections / FILLING), 3)

    def tail_for(self, connections: int) -> float:
        """How long load goes on after the window, in seconds: 0.5, and 1 for every `ANSWERING`."""
        return round(0.5 + connections / ANSWERING, 3)

    def receive_buffer_for(self, connections: int) -> int:
        """SO_RCVBUF of the server's connections in bytes, the same for every server.

        Left to itself the kernel grows each to megabytes while a trial runs;
        then the client hands over bytes that no server has read, and bandwidth
        depends on how long one waits.
        """
        return max(SMALLEST_BUFFER, min(LARGEST_BUFFER, BUFFERS // connections))

    def workload(self, connections: int) -> Workload:
        warmup_s = self.warmup_for(connections)
        size = ("--packets", str(self.packets), "--packet-bytes", str(self.packet_bytes))
        return Workload(
            name="burst",
            columns=burst_columns,
            arguments=(
                "--connections", str(connections), "--duration", str(self.duration_s),
                "--warmup", str(warmup_s), "--tail", str(self.tail_for(connections)),
                *size, "--events",
            ),
            service="burst",
            service_options=(*size, "--receive-buffer", str(self.receive_buffer_for(connections))),
            connections=connections,
            warmup_s=warmup_s,
            duration_s=self.duration_s,
            tail_s=self.tail_for(connections),
        )  # fmt: skip

    def estimate_s(self, cell: Cell) -> float:
        """About how long a trial takes, all in: 0.7 s are start and stop."""
        connections = int(cell["connections"])
        flowing = self.warmup_for(connections) + self.duration_s + self.tail_for(connections)
        return 0.7 + connections / 4000 + flowing


def default_servers() -> tuple[AnyServer, ...]:
    """The three that the figure is about."""
    return servers_under_test.parse_specs(DEFAULT_SERVERS, DEFAULT_OPTIONS)


def check(config: Figure1) -> None:
    """Find out before the first trial what would make trials fail.

    Raises:
        UserError: a setting that cannot be, or that this machine's limits do not allow.
    """
    common.check_levels(config.connections)
    if config.packets < 1 or config.packet_bytes < 1:
        raise UserError("--packets and --packet-bytes must be at least 1")
    common.check_shared(config, max(config.connections))


def plan_of(config: Figure1) -> list[dict[str, Any]]:
    """Every server at every level, in the order in which they are measured."""
    labels = [spec.label for spec in config.servers]
    return blocked_order(labels, config.connections, config.repeats, config.seed)


def run(config: Figure1, out: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure a new run into the folder `out`, which must not exist or be empty.

    Raises:
        UserError: see `check`; or a server cannot be started; or `out` cannot be used.
    """
    check(config)
    check_new_folder(out)
    bench = Bench.of(config.python)
    common.try_servers(config.servers, config.workload(1), bench)
    common.import_readers()
    by_level = {
        "warmup_by_connections_s": {str(n): config.warmup_for(n) for n in config.connections},
        "receive_buffer_by_connections_bytes": {
            str(n): config.receive_buffer_for(n) for n in config.connections
        },
    }
    manifest = common.manifest(NAME, config, bench, plan_of(config), by_level)
    with RunWriter.create(out, manifest, burst_columns.COLUMNS) as writer:
        return _finish(writer, config, bench, progress or Progress())


def resume(path: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure what an interrupted run lacks, with its own settings and order.

    Finished trials stay as they are, invalid ones too: to repeat only what
    displeased would bias the run.

    Raises:
        DamagedRunError: see `sedabench.results.folder.read_folder`.
        UserError: it is no run of figure1, or another process is writing it.
    """
    progress = progress or Progress()
    with RunWriter.reopen(path) as writer:
        config = common.recorded_settings(Figure1, NAME, plan_of, path, writer.manifest)
        check(config)
        bench = common.reopened(writer, config, config.workload(1), progress)
        return _finish(writer, config, bench, progress)


def draw(run: Run) -> list[Path]:
    """Draw figure.png and figure.svg; nothing when no trial has a bandwidth."""
    from sedabench.figures import plots
    from sedabench.results.raw_trials import damage_is_named

    if not len(run.trials) or run.trials["bandwidth_bps"].isna().all():
        return []
    with damage_is_named(run, "its figure cannot be drawn"):
        figure = plots.figure1(run)
    return plots.save(figure, run.path / "figure")


def show(run: Run, console: Any) -> None:
    """Table and sentences."""
    from sedabench.analysis import figure1 as summary

    summary.show(run, console)


def _finish(
    writer: RunWriter, config: Figure1, bench: Bench, progress: Progress
) -> tuple[Run, Outcome]:
    specs = {spec.label: spec for spec in config.servers}

    def measure_cell(cell: Cell) -> Measured:
        return bench.measure(specs[cell["server"]], config.workload(cell["connections"]))

    outcome = carry_out(writer, measure_cell, describe, config.estimate_s, progress)
    run = load_run(writer.path)
    common.draw(draw, run)
    return run, outcome


def describe(row: Mapping[str, Any]) -> str:
    """A finished trial in one line."""
    cell = f"{row['server']} {row['connections']}"
    if row["bandwidth_bps"] is None:
        return f"{cell}  no result: {row['invalid_reason']}"
    invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
    return f"{cell}  {row['bandwidth_bps'] / 1e9:.2f} Gbit/s{invalid}"
