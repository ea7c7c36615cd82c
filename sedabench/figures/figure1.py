"""The figure of `figure1`: bandwidth against the number of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sedabench.analysis.figure1 import cells, servers_of
from sedabench.figures import style
from sedabench.figures.style import GREY, draws
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER_THREADS_STOP = 400
"""Connections at which the threaded server of the paper's Figure 1 could make no more threads."""

_SHIFT_OCTAVES = 0.07
"""How far apart the points of two servers stand at one level."""


@draws("figure", "connections", "bandwidth_bps")
def figure1(run: Run) -> Figure:
    """Bandwidth against connections: every repeat, the median and its 95 % interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout=None, facecolor="white")
    axes = figure.add_axes((0.085, 0.255, 0.885, 0.605))
    summaries = cells(run)
    levels = sorted({cell.connections for cell in summaries})
    titles = {s["label"]: style.title_of(s) for s in run.manifest["parameters"]["servers"]}
    handles: list[Any] = []
    present = servers_of(run)
    kinds = {s["label"]: s["architecture"] for s in run.manifest["parameters"]["servers"]}
    indexes = style.slots([(server, kinds[server]) for server in present])
    for place, server in enumerate(present):
        mine = [cell for cell in summaries if cell.server == server]
        trials = run.trials[run.trials["server"] == server]
        shift = 2 ** ((place - (len(present) - 1) / 2) * _SHIFT_OCTAVES)
        index = indexes[server]
        style.curve(axes, index, [(cell.connections, cell.bandwidth_bps) for cell in mine], 1e-9)
        x = trials["connections"] * shift  # so that equal values do not hide each other
        style.points(axes, index, x, trials["bandwidth_bps"] * 1e-9, trials["valid"])
        handles.append(style.server_handle(index, titles[server]))
    _paper_mark(axes, levels)
    _dress(axes, levels)
    kinds_of_interval = {c.bandwidth_bps.kind for c in summaries if c.bandwidth_bps}
    parameters = run.manifest["parameters"]
    style.heading(
        figure,
        "How does bandwidth change with the number of connections?",
        f"bursts of {parameters['packets']} packets of {parameters['packet_bytes']} B, closed loop"
        " over loopback; points: repeats, line: median, "
        f"band: {style.band(kinds_of_interval)}",
    )
    style.legend(figure, handles, 0.158, 9.0)
    style.legend(
        figure, style.invalid_handles(run.trials), 0.158 - 0.036 * style.legend_rows(handles), 8.2
    )
    style.footer(figure, run, _saturated(run))
    return figure


def _paper_mark(axes: Axes, levels: list[int]) -> None:
    if not levels or levels[-1] < PAPER_THREADS_STOP / 4:
        return  # far outside: the axis stays with the data
    axes.axvline(PAPER_THREADS_STOP, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
    axes.annotate(
        "threads of the paper\nstopped here (2001)", xy=(PAPER_THREADS_STOP, 0.03),
        xycoords=("data", "axes fraction"), xytext=(-5, 0), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, color=GREY, linespacing=1.25,
    )  # fmt: skip


def _dress(axes: Axes, levels: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(levels))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if levels:
        axes.set_xlim(levels[0] / 1.25, levels[-1] * 1.25)
    axes.set_ylim(bottom=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.03)
    axes.set_xlabel("connections (logarithmic)", fontsize=9.5)
    axes.set_ylabel("bandwidth (Gbit/s)", fontsize=9.5)
    style.plain(axes)


def _saturated(run: Run) -> list[str]:
    """How many cells are lower bounds, if any: a reader of the curve alone must know."""
    measured = [cell for cell in cells(run) if cell.bandwidth_bps is not None]
    count = sum(cell.load_generator_was_the_limit for cell in measured)
    text = (
        f"At {count} of {len(measured)} medians the load generator's core was saturated and the "
        "server's was not: there the figure is a lower bound of the server."
    )
    return [text] if count else []
