"""peers: how fast are servers that nobody here wrote at the same work?

The static workload (SPECweb99's files), closed loop, at a few numbers of
connections: our architectures beside nginx, Apache httpd and whatever else is
installed or defined.  Throughput only; what happens beyond it is the question
of `overload --workload static`, which takes the same servers.  The loads of an
overload run are multiples of the fastest server's capacity, so nginx and a
server in Python in one such run would show the one at rest and the other
always flooded; here each is asked for what it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sedabench.experiments import base as common
from sedabench.experiments.base import Bench
from sedabench.experiments.plan import Cell, Outcome, blocked_order, carry_out
from sedabench.experiments.site import Site
from sedabench.progress import Progress
from sedabench.results.folder import Run, RunWriter, check_new_folder, load_run
from sedabench.results.reasons import first_kinds, split
from sedabench.targets import servers as servers_under_test
from sedabench.targets.external import ExternalSpec, joining, load_external
from sedabench.targets.servers import AnyServer
from sedabench.trials import http_columns
from sedabench.trials.trial import Measured, Workload

NAME = "peers"
SUMMARY = "throughput of static files beside nginx, Apache httpd and others"

WORKLOAD = "static"
START_S = 1.3
"""About how long processes take to start, connect and stop."""
MOST_WITH_RANGE = 3
"""Levels in the table; with more there is room for the medians only."""


@dataclass(frozen=True)
class Peers:
    """Settings of a run; everything that decides what is measured."""

    servers: tuple[AnyServer, ...]
    connections: tuple[int, ...] = (1, 16, 64, 256, 1024)
    repeats: int = 5
    duration_s: float = 3.0
    warmup_s: float = 1.0
    seed: int = 2001
    python: str | None = None
    """The servers' interpreter; None: that of the driver."""

    @classmethod
    def full(cls, **changes: Any) -> Peers:
        """Five levels, five repeats, windows of 3 s: about 20 minutes for nine servers."""
        return _with_defaults(cls(()), changes)

    @classmethod
    def quick(cls, **changes: Any) -> Peers:
        """Two levels, two repeats, windows of 1 s: about two minutes for nine servers."""
        quick = cls((), connections=(64, 1024), repeats=2, duration_s=1.0, warmup_s=0.5)
        return _with_defaults(quick, changes)

    def workload_of(self, site: Site, connections: int) -> Workload:
        """A closed loop."""
        arguments = {
            "connections": connections, "duration": self.duration_s, "warmup": self.warmup_s,
            "seed": self.seed,
        }  # fmt: skip
        return site.load(arguments, tail_s=1.0)

    def estimate_s(self, _cell: Cell) -> float:
        """About how long a trial takes, all in."""
        return START_S + self.warmup_s + self.duration_s


def _with_defaults(config: Peers, changes: Mapping[str, Any]) -> Peers:
    config = replace(config, **changes)
    return config if config.servers else replace(config, servers=everything(load_external()))


def everything(external: Mapping[str, ExternalSpec]) -> tuple[AnyServer, ...]:
    """Our architectures, and the others that serve static files: see `joining`."""
    ours = servers_under_test.parse_specs(tuple(servers_under_test.architectures()), {})
    return (*ours, *joining(external, WORKLOAD))


def check(config: Peers) -> None:
    """Find out before the first trial what would make trials fail.

    Raises:
        UserError: a setting that cannot be, or that this machine's limits do not allow.
    """
    common.check_levels(config.connections)
    common.check_external(config.servers, WORKLOAD)
    common.check_shared(config, max(config.connections))


def plan_of(config: Peers) -> list[dict[str, Any]]:
    """Every server at every level, in the order in which they are measured."""
    labels = [spec.label for spec in config.servers]
    plan = blocked_order(labels, config.connections, config.repeats, config.seed)
    return [{**cell, "phase": "capacity"} for cell in plan]


def run(config: Peers, out: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure a new run into the folder `out`, which must not exist or be empty.

    Raises:
        UserError: see `check`; or a server cannot be started; or `out` cannot be used.
    """
    check(config)
    check_new_folder(out)
    bench = Bench.of(config.python)
    site = Site.prepare(WORKLOAD, bench, {})
    common.try_servers(config.servers, config.workload_of(site, 1), bench)
    common.import_readers()
    more = {"compute_loops_per_us": site.loops_per_us}
    manifest = common.manifest(NAME, config, bench, plan_of(config), more)
    with RunWriter.create(out, manifest, http_columns.COLUMNS) as writer:
        return _finish(writer, config, bench, site, progress or Progress())


def resume(path: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure what an interrupted run lacks, with its own settings and order.

    Raises:
        DamagedRunError: see `sedabench.results.folder.read_folder`.
        UserError: it is no run of peers, or another process is writing it.
    """
    progress = progress or Progress()
    with RunWriter.reopen(path) as writer:
        config = common.recorded_settings(Peers, NAME, plan_of, path, writer.manifest)
        check(config)
        site = Site.prepare(WORKLOAD, Bench.of(config.python), writer.manifest)
        bench = common.reopened(writer, config, config.workload_of(site, 1), progress)
        return _finish(writer, config, bench, site, progress)


def _finish(
    writer: RunWriter, config: Peers, bench: Bench, site: Site, progress: Progress
) -> tuple[Run, Outcome]:
    specs = {spec.label: spec for spec in config.servers}

    def measure_cell(cell: Cell) -> Measured:
        measured = bench.measure(
            specs[cell["server"]], config.workload_of(site, cell["connections"])
        )
        measured.row.update(workload=WORKLOAD)
        return measured

    outcome = carry_out(writer, measure_cell, describe, config.estimate_s, progress)
    return load_run(writer.path), outcome


def draw(finished: Run) -> list[Path]:
    """Draw figure.png and figure.svg; nothing when no trial has a throughput.

    Raises:
        DamagedRunError: what the folder holds cannot be drawn.
    """
    from sedabench.figures import plots
    from sedabench.results.raw_trials import damage_is_named

    with damage_is_named(finished, "its figure cannot be drawn"):
        figure = plots.throughput(finished)
    return plots.save(figure, finished.path / "figure") if figure else []


def show(finished: Run, console: Any) -> None:
    """Table and sentences."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    levels = sorted(int(level) for level in finished.manifest["parameters"]["connections"])
    with_range = len(levels) <= MOST_WITH_RANGE
    table = Table(
        box=SIMPLE_HEAD, title_justify="left", header_style="bold",
        title="requests/s: median" + (" (lowest to highest trial)" if with_range else ""),
    )  # fmt: skip
    table.add_column("server")
    for level in levels:
        table.add_column(_connections(level), justify="right")
    for spec in finished.manifest["parameters"]["servers"]:
        rates = (_rate(finished, spec["label"], level) for level in levels)
        table.add_row(
            spec["label"], *("-" if rate is None else rate.text(with_range) for rate in rates)
        )
    console.print(table)
    for text in sentences(finished):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@dataclass(frozen=True)
class Rate:
    """Requests/s of a server at a level: of its valid trials; without any, the least it can do."""

    median: float
    low: float
    high: float
    is_bound: bool

    def text(self, with_range: bool) -> str:
        least = "at least " if self.is_bound else ""
        with_range = with_range and self.low < self.high
        spread = f" ({self.low:,.0f} to {self.high:,.0f})" if with_range else ""
        return f"{least}{self.median:,.0f}{spread}"


def _rate(finished: Run, server: str, connections: int) -> Rate | None:
    """None without a trial that says anything."""
    rows = finished.trials
    rows = rows[(rows["server"] == server) & (rows["connections"] == connections)]
    is_bound = not rows["valid"].any()
    counted = rows[rows["invalid_reason"].map(_is_bound) if is_bound else rows["valid"]]
    rates = counted["throughput_rps"]
    if not len(rates):
        return None
    return Rate(float(rates.median()), float(rates.min()), float(rates.max()), is_bound)


def _is_bound(invalid_reason: str) -> bool:
    """Whether nothing is wrong with a trial but that the load generator was the limit."""
    return all("lower bound" in reason for reason in split(invalid_reason))


def sentences(finished: Run) -> list[str]:
    """What was found: trials left out, and at each level who is fastest, the others beside it."""
    trials = finished.trials
    invalid = trials[~trials["valid"]]
    said = []
    if len(invalid):
        why = "; ".join(f"{reason} ({n})" for reason, n in first_kinds(invalid["invalid_reason"]))
        are = "is" if len(invalid) == 1 else "are"
        said.append(f"{len(invalid)} of {len(trials)} trials {are} invalid: {why}.")
    for level in sorted(set(trials["connections"])):
        servers = trials[trials["connections"] == level]["server"].unique()
        said += _at(level, {server: _rate(finished, server, level) for server in servers})
    return said


def _at(level: int, rates: Mapping[str, Rate | None]) -> list[str]:
    known = {server: rate for server, rate in rates.items() if rate is not None}
    said = []
    if known:
        (first, best), *others = sorted(known.items(), key=lambda item: -item[1].median)
        text = f"With {_connections(level)} {first} answers "
        text += f"{'at least ' if best.is_bound else ''}{best.median:,.0f} requests/s"
        if best.is_bound:
            text += ", for the load generator was the limit"
        if others:
            shares = (
                f"{server} {rate.median / best.median:.2f}{' or more' if rate.is_bound else ''}"
                for server, rate in others
            )
            text += f"; as a share of that: {', '.join(shares)}"
        said.append(f"{text}.")
    if nothing := [server for server, rate in rates.items() if rate is None]:
        said.append(f"With {_connections(level)} no trial is valid of {', '.join(nothing)}.")
    return said


def _connections(level: int) -> str:
    return f"{level} connection{'' if level == 1 else 's'}"


def describe(row: Mapping[str, Any]) -> str:
    """A finished trial in one line."""
    cell = f"{row['server']} {row['connections']}"
    if row["throughput_rps"] is None:
        return f"{cell}  no result: {row['invalid_reason']}"
    invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
    return f"{cell}  {row['throughput_rps']:.0f} requests/s{invalid}"
