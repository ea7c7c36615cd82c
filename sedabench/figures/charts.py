"""What a figure of the page is, and how one is made of curves over a level.

A figure is data, no drawing: panels with axes, series and marks, and a legend
whose entries hide and show the series of one key in every panel.  `chart.js`
of the report draws it.  Medians and intervals come from `analysis.stats`, so
they are those of the sentences and of the figures in the folder.  Numbers are
rounded to five digits: more nobody can read off a screen, and they make the
page larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sedabench.analysis.stats import Interval, median
from sedabench.figures import style
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
    marks = style.slots([(k, specs[k]["architecture"] if k in specs else "") for k in order])
    return [
        Server(label, style.title_of(specs[label]) if label in specs else label, marks[label])
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


LOG_FROM = 16
"""An axis whose largest level is so many times its smallest is logarithmic."""
RATES = (("throughput_rps", "throughput"), ("goodput_rps", "goodput"))
LATENCIES = (("latency_p50_us", "median"), ("latency_p99_us", "99th percentile"))


def of_columns(run: Run, level: str) -> list[Chart]:
    """Of any experiment: what its columns allow, over the column `level`."""
    trials = run.trials
    if not {level, "server"} <= set(trials) or not trials[level].notna().any():
        return []
    x = level_axis(run, level)
    if x.log:
        trials = trials[trials[level] > 0]
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


def level_axis(run: Run, level: str) -> Axis:
    """The axis of a column; powers apart, it is logarithmic."""
    if level == "connections":
        return connections_axis(run.trials)
    if level == "load":
        return Axis("offered load (of capacity)")
    unit = str(run.manifest["columns"].get(level, {}).get("unit") or "")
    words = level.removesuffix(f"_{unit}").replace("_", " ")
    found = sorted({float(value) for value in run.trials[level].dropna()})
    log = len(found) > 2 and found[0] > 0 and found[-1] / found[0] >= LOG_FROM
    ticks = tuple((value, f"{value:g}") for value in found) if log else ()
    return Axis(f"{words} ({unit})" if unit else words, unit, log=log, ticks=ticks)


def finite(values: Sequence[Number]) -> list[Number]:
    """Rounded; None where there is no number."""
    return [None if v is None or not math.isfinite(v) else rounded(v) for v in values]
