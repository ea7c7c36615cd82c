"""The figures of `overload`: goodput, latency, tail and fairness; `spike.py` draws the spike.

Each function takes a run, and what `analysis.overload` found in it where the
caller has it already, and gives a `Figure`, or None when the run has nothing
to show in it.  Colour, marker and
line style tell a server as in every figure of this project; a hollow point is
an invalid trial.  Rates and fairness begin at 0; latencies are logarithmic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sedabench.analysis.overload import Findings, Level, analyse
from sedabench.analysis.stats import Interval
from sedabench.figures import style
from sedabench.figures.style import GREY, draws
from sedabench.results.folder import Run
from sedabench.results.raw_trials import raw_trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAILS = (0.9, 2.0)
"""Loads whose distributions are shown: the nearest that were measured."""
_SHIFT = 0.006
"""How far apart the points of two servers stand at one load, as a share of the axis."""
_WIDTH_IN, _LEFT_IN, _TOP_IN, _ROW_IN = 9.6, 0.8, 1.0, 0.19


@draws("goodput", "phase", "load", "throughput_rps", "goodput_rps")
def goodput(run: Run, findings: Findings | None = None) -> Figure | None:
    """Throughput and goodput against offered load."""
    findings = findings or analyse(run)
    page = _Page(run, findings, 2)
    if not page.has("throughput_rps", "goodput_rps"):
        return None
    for axes, column in zip(page.axes, ("throughput_rps", "goodput_rps"), strict=True):
        page.curves(axes, column)
    top = max(axes.get_ylim()[1] for axes in page.axes) * 1.04
    for axes in page.axes:
        axes.set_ylim(0, top)
        _thousands(axes)
        _offered_is_answered(axes, findings.capacity_rps, top, label=axes is page.axes[0])
    page.axes[0].set_title("throughput: answered", fontsize=10, loc="left")
    page.axes[1].set_title(
        f"goodput: answered within {findings.slo_ms:g} ms", fontsize=10, loc="left"
    )
    page.axes[0].set_ylabel("requests/s", fontsize=9.5)
    return page.finish("What is left of the peak when more is asked for than can be answered?")


@draws("latency", "phase", "load", "latency_p50_us", "latency_p99_us")
def latency(run: Run, findings: Findings | None = None) -> Figure | None:
    """Median and 99th percentile of the answers' latency against offered load, logarithmic."""
    findings = findings or analyse(run)
    page = _Page(run, findings, 2)
    if not page.has("latency_p50_us", "latency_p99_us"):
        return None
    for axes, column, name in zip(
        page.axes, ("latency_p50_us", "latency_p99_us"), ("p50", "p99"), strict=True
    ):
        page.curves(axes, column, 1e-3)
        axes.set_yscale("log")
        axes.set_title(f"{name} of the answered requests", fontsize=10, loc="left")
    limits = [limit for axes in page.axes for limit in axes.get_ylim()]
    for axes in page.axes:
        axes.set_ylim(min(*limits, findings.slo_ms / 1.5), max(*limits, findings.slo_ms * 1.5))
        style.decades(axes.yaxis)
        _slo_line(axes, findings.slo_ms, label=axes is page.axes[0])
    page.axes[0].set_ylabel("latency (ms, log)", fontsize=9.5)
    return page.finish("How long does an answer take, from the time it was due?")


@draws("fairness", "phase", "load", "jain_fairness")
def fairness(run: Run, findings: Findings | None = None) -> Figure | None:
    """Jain's index over the connections against offered load."""
    findings = findings or analyse(run)
    page = _Page(run, findings, 1)
    if not page.has("jain_fairness"):
        return None
    (axes,) = page.axes
    page.curves(axes, "jain_fairness")
    axes.set_ylim(0, 1.04)
    axes.set_ylabel("Jain's index of answers over connections", fontsize=9.5)
    return page.finish("Is every connection served alike?")


@draws("tail", "phase", "load")
def tail(run: Run, findings: Findings | None = None) -> Figure | None:
    """The share of answers that took longer, at the loads nearest `TAILS`, log-log."""
    findings = findings or analyse(run)
    sweep = run.trials[run.trials["phase"] == "sweep"]
    loads = sorted(sweep["load"].dropna().round(6).unique())
    chosen = sorted({min(loads, key=lambda load: abs(load - want)) for want in TAILS if loads})
    trials = sweep[sweep["load"].round(6).isin(chosen)]
    page = _Page(run, findings, max(1, len(chosen)), trials, _TOP_IN + 0.2)
    drawn: list[tuple[float, float]] = []
    for axes, load in zip(page.axes, chosen, strict=False):
        for server in page.servers:
            mine = page.trials[page.trials["server"] == server]
            drawn += _tails(axes, run, page.marks[server], mine[mine["load"].round(6) == load])
    if not drawn:
        return None
    longest_ms = max(findings.slo_ms, *(x for x, _ in drawn))
    lowest = min(y for _, y in drawn)
    for axes, load in zip(page.axes, chosen, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(min(x for x, _ in drawn) / 1.2, longest_ms * 1.4)
        axes.set_ylim(lowest / 1.5, 1.25)
        axes.axvline(findings.slo_ms, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        style.plain(axes)
        style.decades(axes.xaxis)
        style.decades(axes.yaxis, 100, " %")
        axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
        axes.set_xlabel("latency from the scheduled time (ms, log)", fontsize=9.5)
        axes.set_title(
            f"at {load:g} times the capacity\n", fontsize=10, loc="left", linespacing=1.5
        )
        axes.text(
            0, 1.015, style.label(_answered(findings, float(load)), 84), transform=axes.transAxes,
            fontsize=8, color=GREY, ha="left", va="bottom",
        )  # fmt: skip
        axes.text(
            findings.slo_ms / 1.04, 0.8, f"SLO {findings.slo_ms:g} ms", fontsize=8,
            color=GREY, rotation=90, va="top", ha="right", zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )  # fmt: skip
    page.axes[0].set_ylabel("share of the answers that took longer (log)", fontsize=9.5)
    return page.finish(
        "How long is the tail of latency?", "lines: one a repeat, ended by a point at its longest"
    )


class _Page:
    """A figure of `columns` panels side by side, with legend and footer under them."""

    def __init__(
        self,
        run: Run,
        findings: Findings,
        columns: int,
        trials: pd.DataFrame | None = None,
        top_in: float = _TOP_IN,
    ) -> None:
        from matplotlib.figure import Figure

        self.run, self.findings = run, findings
        self.trials = run.trials[run.trials["phase"] == "sweep"] if trials is None else trials
        self.servers = [server.server for server in findings.servers]
        self.levels = {server.server: server.levels for server in findings.servers}
        self.marks = style.slots([(s.server, s.architecture) for s in findings.servers])
        specs = {spec["label"]: spec for spec in run.manifest["parameters"]["servers"]}
        self.handles = [
            style.server_handle(self.marks[server], style.title_of(specs[server]))
            for server in self.servers
        ]
        self.invalid = style.invalid_handles(self.trials)
        rows = style.legend_rows(self.handles) + style.legend_rows(self.invalid)
        self.bottom_in = 0.52 + _ROW_IN * rows + 0.45
        height_in = 3.1 + top_in + self.bottom_in
        self.figure = Figure(figsize=(_WIDTH_IN, height_in), layout=None, facecolor="white")
        gap, left, right = 0.035, _LEFT_IN / _WIDTH_IN, 0.985
        width = (right - left - gap * (columns - 1)) / columns
        bottom = self.bottom_in / height_in
        self.axes: list[Axes] = []
        for column in range(columns):
            box = (left + column * (width + gap), bottom, width, 1 - bottom - top_in / height_in)
            axes = self.figure.add_axes(box)
            if column:
                axes.tick_params(labelleft=False)
            self.axes.append(axes)

    def has(self, *columns: str) -> bool:
        """Any trial of the sweep has a value in one of these columns."""
        return bool(self.trials[list(columns)].notna().any(axis=None))

    def curves(self, axes: Axes, column: str, factor: float = 1.0) -> None:
        """Band, median line and points of every server, over the offered load."""
        field = column.removeprefix("latency_")
        most = float(self.trials["load"].max())
        for place, server in enumerate(self.servers):
            index = self.marks[server]
            found = [(level, _interval(level, field)) for level in self.levels[server]]
            style.curve(axes, index, [(v.load, i) for v, i in found], factor)
            shift = (place - (len(self.servers) - 1) / 2) * _SHIFT * most
            mine = self.trials[self.trials["server"] == server]
            style.points(axes, index, mine["load"] + shift, mine[column] * factor, mine["valid"])
        axes.axvline(1, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        axes.set_xlim(0, most * 1.03)
        capacity = self.findings.capacity_rps
        of = f", {capacity:,.0f} requests/s" if capacity else ""
        axes.set_xlabel(f"offered load (multiples of the capacity{of})", fontsize=9.5)
        style.plain(axes)

    def finish(self, question: str, marks: str | None = None) -> Figure:
        """Heading, legends and footer."""
        kinds = {
            level.goodput_rps.kind
            for levels in self.levels.values()
            for level in levels
            if level.goodput_rps is not None
        }
        subtitle = marks or f"points: repeats, line: median, band: {style.band(kinds)}"
        style.heading(self.figure, question, f"{style.workload_text(self.run)}; {subtitle}")
        height_in = float(self.figure.get_size_inches()[1])
        top_in = self.bottom_in - 0.52
        style.legend(self.figure, self.handles, top_in / height_in, 9.0)
        top_in -= _ROW_IN * style.legend_rows(self.handles)
        style.legend(self.figure, self.invalid, top_in / height_in, 8.2)
        style.footer(self.figure, self.run)
        return self.figure


def _interval(level: Level, field: str) -> Interval | None:
    found: Interval | None = getattr(level, field)
    return found


def _tails(axes: Axes, run: Run, index: int, trials: pd.DataFrame) -> list[tuple[float, float]]:
    """One line a trial that has a distribution; returns every point (ms, share)."""
    colour, marker, line = style.marks(index)
    drawn: list[tuple[float, float]] = []
    for number, valid in zip(trials["trial"], trials["valid"], strict=True):
        found = ((raw_trial(run, int(number)) or {}).get("result") or {}).get("latency_quantiles")
        if not found:
            continue
        pairs = zip(found["q"], found["latency_us"], strict=True)
        curve = [(us / 1e3, 1 - q) for q, us in pairs if q < 1 and us and us > 0]
        if not curve:
            continue
        axes.plot(*zip(*curve, strict=True), color=colour, linestyle=line, linewidth=0.9,
                  alpha=0.85, zorder=3)  # fmt: skip
        axes.plot(
            *curve[-1], linestyle="none", marker=marker, zorder=4 if valid else 5,
            **style.point(colour, bool(valid)),
        )  # fmt: skip
        drawn += curve
    return drawn


def _answered(findings: Findings, load: float) -> str:
    """Which share of the offered requests the distribution is about: a tail without it flatters."""
    shares = [
        f"{server.server} {level.answered * 100:.0f} %"
        for server in findings.servers
        if (level := server.at(load)) and level.answered is not None
    ]
    return f"answered, of all: {', '.join(shares)}" if shares else ""


def _offered_is_answered(
    axes: Axes, capacity_rps: float | None, top: float, *, label: bool
) -> None:
    if not capacity_rps:
        return
    right = axes.get_xlim()[1]
    axes.plot(
        [0, right], [0, right * capacity_rps], color=GREY, linewidth=0.9, linestyle="-", zorder=0
    )
    axes.plot([1], [capacity_rps], marker="+", color=GREY, markersize=7, zorder=0)
    if label:
        axes.text(
            right * 0.015, top * 0.985, "line: all that is\noffered is answered", fontsize=8,
            color=GREY, ha="left", va="top", linespacing=1.2,
        )  # fmt: skip


def _slo_line(axes: Axes, slo_ms: float, *, label: bool) -> None:
    axes.axhline(slo_ms, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    if label:
        axes.text(
            axes.get_xlim()[1], slo_ms, f"SLO {slo_ms:g} ms ", fontsize=8, color=GREY,
            ha="right", va="bottom",
        )  # fmt: skip


def _thousands(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
