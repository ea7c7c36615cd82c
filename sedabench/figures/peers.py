"""The figure of `peers`: what every server answers, a panel for each number of connections.

A line a server rather than curves: there are nine servers and two to five
levels, and the question is who stands where.  A hollow point is a trial that
failed a check.  Of the fastest servers that is often one in which the load
generator was the limit: then the server can do at least as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sedabench.analysis.figure1 import servers_of
from sedabench.analysis.stats import Interval, median
from sedabench.figures import style
from sedabench.figures.style import draws
from sedabench.results.folder import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _TOP_IN, _BOTTOM_IN, _LINE_IN, _ROW_IN = 9.6, 1.05, 0.97, 0.3, 0.19
_LETTER_IN = 0.075
_LONGEST_LABEL = 30


@draws("throughput", "connections", "workload", "throughput_rps")
def throughput(run: Run) -> Figure | None:
    """Median, interval and every trial of each server; None when no trial has a throughput."""
    from matplotlib.figure import Figure

    if not len(run.trials) or run.trials["throughput_rps"].isna().all():
        return None
    specs = {spec["label"]: spec for spec in run.manifest["parameters"]["servers"]}
    servers = servers_of(run)
    marks = style.slots([(server, specs[server]["architecture"]) for server in servers])
    names = [style.label(style.title_of(specs[server]), _LONGEST_LABEL) for server in servers]
    levels = sorted({int(level) for level in run.trials["connections"]})
    invalid = style.invalid_handles(run.trials)
    bottom_in = _BOTTOM_IN + _ROW_IN * style.legend_rows(invalid)
    height_in = bottom_in + _LINE_IN * len(servers) + _TOP_IN
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout=None, facecolor="white")
    left = (style.MARGIN_IN + 0.2 + _LETTER_IN * max(map(len, names))) / _WIDTH_IN
    gap = 0.02
    width = (0.985 - left - gap * (len(levels) - 1)) / len(levels)
    most = float(run.trials["throughput_rps"].max())
    kinds: set[str] = set()
    for number, level in enumerate(levels):
        axes = figure.add_axes(
            (left + number * (width + gap), bottom_in / height_in, width,
             _LINE_IN * len(servers) / height_in)
        )  # fmt: skip
        trials = run.trials[run.trials["connections"] == level]
        for place, server in enumerate(servers):
            found = _server(axes, marks[server], place, trials[trials["server"] == server])
            kinds |= {found.kind} if found else set()
        axes.set_title(f"{level} connection{'' if level == 1 else 's'}", fontsize=10, loc="left")
        _dress(axes, names if number == 0 else [""] * len(names), most, len(levels))
    style.heading(
        figure,
        "How much does each server answer?",
        f"workload {style.label(run.trials['workload'].dropna().iloc[0])}, closed loop over "
        f"loopback; points: repeats, stroke: median, bar: {style.band(kinds)}",
    )
    style.legend(figure, invalid, (bottom_in - 0.52) / height_in, 8.2)
    style.footer(figure, run)
    return figure


def _server(axes: Axes, index: int, place: int, trials: pd.DataFrame) -> Interval | None:
    """Draw one server's line of a panel; returns the interval, None without a valid trial."""
    values = trials[trials["valid"]]["throughput_rps"].dropna()
    found = median(values.to_numpy(float)) if len(values) else None
    colour, _, _ = style.marks(index)
    if found:
        axes.plot(
            [found.low, found.high], [place, place], color=colour, linewidth=9, alpha=0.2,
            solid_capstyle="butt", zorder=1,
        )  # fmt: skip
        axes.plot([found.value] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=1.8)
    level = trials["throughput_rps"] * 0 + place
    style.points(axes, index, trials["throughput_rps"], level, trials["valid"])
    return found


def _dress(axes: Axes, names: list[str], most: float, panels: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    style.plain(axes)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axes.set_xlim(0, most * 1.06)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    for text in axes.get_yticklabels():  # whoever shows the figure may do so outside of `style`
        text.set_parse_math(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(2 if panels > 3 else 5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("requests/s", fontsize=9.5)
