"""What a figure of the page is, and those that are curves over a level.

A figure is data, no drawing: panels with axes, series and marks, and a legend
whose entries hide and show the series of one key in every panel.  `chart.js`
draws it.  Medians and intervals come from `sedabench.stats`, so they are those
of the sentences and of the figures in the folder.  Numbers are rounded to five
digits: more nobody can read off a screen, and they make the page larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sedabench.analysis.stats import Interval, median
from sedabench.figures import plots
from sedabench.results.folder import Run

if TYPE_CHECKING:
    import pandas as pd

Number = float | None


@dataclass(frozen=True)
class Axis:
    """`ticks` are (value, text) pairs, or none to let the page choose them."""

    label: str
    unit: str = ""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    percentile: bool = False
    """Values are 1 / (1 - q) and read as "p99"."""
    low: Number = None
    high: Number = None


@dataclass(frozen=True)
class Point:
    """One trial."""

    x: float
    y: float
    valid: bool
    trial: int
    reason: str = ""


@dataclass(frozen=True)
class Series:
    """One curve: all lists as long as `x`, or empty.  `style`: line, step or area.

    Where `y` is None no trial was valid: there curve and band are broken.
    """

    key: str
    x: list[float]
    y: list[Number]
    low: list[Number] = field(default_factory=list)
    high: list[Number] = field(default_factory=list)
    valid: list[int] = field(default_factory=list)
    trials: list[int] = field(default_factory=list)
    ranged: list[bool] = field(default_factory=list)
    """The limits are the range of the repeats, not an interval."""
    points: list[Point] = field(default_factory=list)
    style: str = "line"


@dataclass(frozen=True)
class Mark:
    """A line at `x` or `y`, a band from `x` to `to_x`, or a line from 0, 0 with a slope."""

    text: str
    x: Number = None
    to_x: Number = None
    y: Number = None
    slope: Number = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Entry:
    """A legend entry: the series of `key`, and which colour, dashes and marker they have."""

    key: str
    title: str
    slot: int
    dashes: int
    marker: bool = True


@dataclass(frozen=True)
class Chart:
    """A figure: its question, what is drawn, and its panels."""

    name: str
    question: str
    note: str
    legend: tuple[Entry, ...]
    panels: tuple[Panel, ...]
    columns: int
    """Panels side by side, where there is room."""

    @property
    def data(self) -> dict[str, Any]:
        """For the page, as JSON."""
        return {
            "legend": [asdict(entry) for entry in self.legend],
            "panels": [asdict(panel) for panel in self.panels],
        }


@dataclass(frozen=True)
class Server:
    """A server of the run with the marks that it has in every figure."""

    label: str
    title: str
    slot: int

    @property
    def entry(self) -> Entry:
        return Entry(self.label, self.title, self.slot, self.slot)


def servers(run: Run) -> list[Server]:
    """Those that have a trial, in the order in which the run names them."""
    if "server" not in run.trials:
        return []
    present = [str(label) for label in run.trials["server"].unique()]
    specs = {spec["label"]: spec for spec in run.manifest["parameters"].get("servers") or ()}
    order = [label for label in specs if label in present]
    order += [label for label in present if label not in specs]
    marks = plots.slots([(k, specs[k]["architecture"] if k in specs else "") for k in order])
    return [
        Server(label, plots.title_of(specs[label]) if label in specs else label, marks[label])
        for label in order
    ]


def rounded(value: float) -> float:
    return float(f"{value:.5g}")


def series(
    trials: pd.DataFrame, server: str, level: str, column: str, factor: float, *, log: bool
) -> Series:
    """One server's median and interval of `column` at every level, and every trial."""
    mine = trials[(trials["server"] == server) & trials[level].notna()]
    made = Series(server, [], [])
    for value, cell in sorted(mine.groupby(mine[level].astype(float).round(6)), key=lambda v: v[0]):
        kept = cell[cell["valid"]][column].dropna()
        interval = median(kept.to_numpy(float)) if len(kept) else None
        if interval is not None and log and interval.low <= 0:
            interval = None
        _append(made, float(value), interval, factor, len(kept), len(cell))
    rows = mine[mine[column].notna()]
    reasons = rows.get("invalid_reason", [""] * len(rows))
    for x, y, valid, trial, reason in zip(
        rows[level], rows[column], rows["valid"], rows["trial"], reasons, strict=True
    ):
        if not log or y > 0:
            made.points.append(
                Point(rounded(x), rounded(y * factor), bool(valid), int(trial), str(reason))
            )
    return made


def _append(
    made: Series, x: float, interval: Interval | None, factor: float, valid: int, trials: int
) -> None:
    made.x.append(rounded(x))
    for name, values in (("value", made.y), ("low", made.low), ("high", made.high)):
        values.append(None if interval is None else rounded(getattr(interval, name) * factor))
    made.ranged.append(interval is not None and interval.kind == "range")
    made.valid.append(valid)
    made.trials.append(trials)


def curves(
    run: Run, trials: pd.DataFrame, level: str, columns: Sequence[tuple[str, str]],
    x: Axis, y: Axis, factor: float = 1.0, marks: tuple[Mark, ...] = (),
) -> tuple[Panel, ...]:  # fmt: skip
    """A panel for each (column, title) that has a value in any trial; axes are shared."""
    panels = []
    for column, title in columns:
        if column not in trials or not trials[column].notna().any():
            continue
        found = (
            series(trials, server.label, level, column, factor, log=y.log)
            for server in servers(run)
        )
        some = tuple(one for one in found if any(y is not None for y in one.y) or one.points)
        if some:
            panels.append(Panel(title, x, y, some, marks))
    return tuple(panels)


POINTS = (
    "Points: trials (hollow: invalid). Line: median. Band: 95 % bootstrap interval, or the range "
    "where fewer than 3 are valid."
)
MILLISECONDS = Axis("latency (ms)", "ms", log=True)


def chart(
    run: Run, name: str, question: str, panels: Sequence[Panel], note: str = POINTS
) -> list[Chart]:
    """The figure over the servers of the run, if it has a panel."""
    if not panels:
        return []
    legend = tuple(server.entry for server in servers(run))
    return [Chart(name, question, note, legend, tuple(panels), len(panels))]


# -- the figures of an experiment -----------------------------------------------------------


def connections_axis(trials: pd.DataFrame) -> Axis:
    levels = sorted({int(level) for level in trials["connections"].dropna() if level > 0})
    ticks = tuple((float(level), str(level)) for level in levels)
    return Axis("connections (logarithmic)", "connections", log=True, ticks=ticks)


def figure1(run: Run) -> list[Chart]:
    """Bandwidth, latency, fairness and CPU against connections."""
    x = connections_axis(run.trials)
    trials = run.trials[run.trials["connections"] > 0]
    paper = (Mark("threads of the paper stopped here", x=float(plots.PAPER_THREADS_STOP)),)
    most = max((value for value, _ in x.ticks), default=0.0)
    marks = paper if most >= plots.PAPER_THREADS_STOP / 4 else ()

    def made(
        y: Axis, factor: float, *columns: tuple[str, str], marks: tuple[Mark, ...] = ()
    ) -> Any:
        return curves(run, trials, "connections", columns, x, y, factor, marks)

    return [
        *chart(
            run, "bandwidth", "How does bandwidth change with the number of connections?",
            made(Axis("bandwidth (Gbit/s)", "Gbit/s"), 1e-9, ("bandwidth_bps", "bandwidth"),
                 marks=marks),
        ),
        *chart(
            run, "latency", "How long does a burst take, from its first byte to its ACK?",
            made(MILLISECONDS, 1e-3, ("ack_p50_us", "median"), ("ack_p99_us", "99th percentile")),
        ),
        *chart(
            run, "shared", "Is every connection served alike, and what does it cost?",
            (*made(Axis("Jain's index", low=0, high=1), 1.0, ("jain_fairness", "fairness")),
             *made(Axis("cores", "cores", low=0), 1.0, ("server_cpu", "CPU of the server"))),
        ),
    ]  # fmt: skip


def peers(run: Run) -> list[Chart]:
    """Throughput and latency against connections."""
    x = connections_axis(run.trials)
    trials = run.trials[run.trials["connections"] > 0]

    def made(y: Axis, factor: float, *columns: tuple[str, str]) -> tuple[Panel, ...]:
        return curves(run, trials, "connections", columns, x, y, factor)

    return [
        *chart(
            run, "throughput", "How much does each answer?",
            made(Axis("requests/s", "requests/s"), 1.0, ("throughput_rps", "throughput")),
        ),
        *chart(
            run, "latency", "How long does an answer take?",
            made(MILLISECONDS, 1e-3, ("latency_p50_us", "median"),
                 ("latency_p99_us", "99th percentile")),
        ),
    ]  # fmt: skip


RATES = (("throughput_rps", "throughput"), ("goodput_rps", "goodput"))
LATENCIES = (("latency_p50_us", "median"), ("latency_p99_us", "99th percentile"))


def of_any(run: Run) -> list[Chart]:
    """Of an experiment that this file does not know: what its columns allow."""
    trials = run.trials
    level = next((name for name in ("load", "connections") if name in trials), None)
    if level is None or "server" not in trials or not trials[level].notna().any():
        return []
    if level == "connections":
        trials = trials[trials["connections"] > 0]
    x = connections_axis(trials) if level == "connections" else Axis("offered load (of capacity)")
    rates = curves(run, trials, level, RATES, x, Axis("requests/s", "requests/s"))
    bandwidth = curves(
        run, trials, level, (("bandwidth_bps", "bandwidth"),), x, Axis("Gbit/s", "Gbit/s"), 1e-9
    )
    latencies = curves(run, trials, level, LATENCIES, x, MILLISECONDS, 1e-3)
    return [
        *chart(run, "throughput", "How much is answered?", rates),
        *chart(run, "bandwidth", "How does bandwidth change?", bandwidth),
        *chart(run, "latency", "How long does an answer take?", latencies),
    ]


def charts(run: Run) -> list[Chart]:
    """Every figure that the run has something for."""
    from sedabench.report import swarm
    from sedabench.report.charts_overload import overload

    known: Mapping[str, Callable[[Run], list[Chart]]] = {
        "figure1": figure1, "overload": overload, "peers": peers, "swarm": swarm.charts,
    }  # fmt: skip
    return known.get(run.manifest["experiment"], of_any)(run)


def finite(values: Sequence[Number]) -> list[Number]:
    """Rounded; None where there is no number."""
    return [None if v is None or not math.isfinite(v) else rounded(v) for v in values]
