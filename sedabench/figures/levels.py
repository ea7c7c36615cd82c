"""The figure of an experiment that has none of its own: one metric over its levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sedabench.analysis import medians
from sedabench.analysis.figure1 import servers_of
from sedabench.analysis.stats import median
from sedabench.figures import style
from sedabench.figures.charts import level_axis
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHIFT = 0.006
"""How far apart the points of two servers stand at one level, as a share of the axis."""


def over_level(run: Run, level: str, metric: str) -> Figure | None:
    """Every repeat, the median and its interval; None when no trial has a value."""
    return style.draws(metric, "server", level, metric)(_draw)(run, level, metric)


def _draw(run: Run, level: str, metric: str) -> Figure | None:
    from matplotlib.figure import Figure

    if run.trials[metric].isna().all():
        return None
    figure = Figure(figsize=(8.4, 5.2), layout=None, facecolor="white")
    axes = figure.add_axes((0.105, 0.255, 0.865, 0.605))
    specs = {s["label"]: s for s in run.manifest["parameters"].get("servers") or ()}
    servers = servers_of(run) if specs else sorted(run.trials["server"].unique())
    marks = style.slots([(s, specs[s]["architecture"] if s in specs else "") for s in servers])
    scale = level_axis(run, level)
    found_levels = sorted(float(value) for value in run.trials[level].dropna().unique())
    handles: list[Any] = []
    kinds: set[str] = set()
    for place, server in enumerate(servers):
        mine = run.trials[run.trials["server"] == server]
        cells = []
        for value in found_levels:
            kept = mine[(mine[level] == value) & mine["valid"]][metric].dropna()
            cells.append((value, median(kept.to_numpy(float)) if len(kept) else None))
        kinds |= {interval.kind for _, interval in cells if interval}
        style.curve(axes, marks[server], cells, 1)
        aside = (place - (len(servers) - 1) / 2) * _SHIFT
        x = mine[level] * (1 + 8 * aside) if scale.log else mine[level] + aside * found_levels[-1]
        style.points(axes, marks[server], x, mine[metric], mine["valid"])
        title = style.title_of(specs[server]) if server in specs else str(server)
        handles.append(style.server_handle(marks[server], title))
    if scale.log:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(found_levels))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(style.label(scale.label), fontsize=9.5)
    axes.set_ylabel(
        style.label(f"{medians.words(metric)} ({medians.unit(run, metric)})"), fontsize=9.5
    )
    style.plain(axes)
    what, over = medians.words(metric), scale.label.partition(" (")[0]
    style.heading(
        figure,
        style.label(f"How does {what} change with {over}?", 70),
        f"points: repeats, line: median, band: {style.band(kinds)}",
    )
    style.legend(figure, handles, 0.158, 9.0)
    below = 0.158 - 0.036 * style.legend_rows(handles)
    style.legend(figure, style.invalid_handles(run.trials), below, 8.2)
    style.footer(figure, run)
    return figure
