"""The figure of the spike trials: a column a server, time downwards shared, the spike shaded.

Above, for every server: what was offered, answered, answered in time and
rejected in each bin, and the latency of its answers; the bar under the axis is
the time to recovery, as `spike` defines it.  Below, a row for every server
that has stages: queues, threads, batches and the admission limit, as the
server told them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sedabench.analysis.overload import Findings, analyse
from sedabench.analysis.spike import Spike, recovery, spikes
from sedabench.figures import style
from sedabench.figures.style import COLOURS, GREY, LINES, draws
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN_STAGES = 4
_SPIKE_COLOUR = "#F3EBD8"
_ANSWERED, _GOOD, _REJECTED = "#56B4E9", "#009E73", "#D55E00"
_TOP_IN, _ROW_IN, _GAP_IN, _BOTTOM_IN, _COLUMN_IN = 1.12, 1.75, 0.2, 0.95, 2.85
_LEFT_IN = 0.8
_HEAD_IN = 0.85
"""What stands over a row of panels inside a server: its name, legend and titles."""


@draws("spike", "phase", "load", "server")
def spike(run: Run, findings: Findings | None = None) -> Figure | None:
    """One trial a server: the first valid one, else the first; None without any."""
    from matplotlib.figure import Figure

    findings = findings or analyse(run)
    chosen: dict[str, Spike] = {}
    for one in sorted(spikes(run), key=lambda s: not s.valid):
        chosen.setdefault(one.server, one)
    shown = [chosen[s.server] for s in findings.servers if s.server in chosen]
    shown = [one for one in shown if len(one.t_s)]
    if not shown:
        return None
    staged = [one for one in shown if any((said.get("stages") or ()) for said in one.inside)]
    width_in = max(9.6, style.MARGIN_IN + 0.2 + _COLUMN_IN * len(shown))
    inside_in = (_ROW_IN + _HEAD_IN) * len(staged) + (0.2 if staged else 0)
    height_in = _TOP_IN + 2 * _ROW_IN + _GAP_IN + inside_in + _BOTTOM_IN
    figure = Figure(figsize=(width_in, height_in), layout=None, facecolor="white")
    rates = _row(figure, len(shown), _TOP_IN, share=True)
    latencies = _row(figure, len(shown), _TOP_IN + _ROW_IN + _GAP_IN, share=True)
    for axes, one in zip(rates, shown, strict=True):
        _rates(axes, one)
    for axes, one in zip(latencies, shown, strict=True):
        _latencies(axes, one, findings.slo_ms)
    _same_limits(rates, latencies, findings.slo_ms)
    for axes, one in zip(latencies, shown, strict=True):
        _recovery_mark(axes, one, findings.slo_ms)
    top_in = _TOP_IN + 2 * _ROW_IN + _GAP_IN + 1.05
    for one in staged:
        _inside(figure, one, top_in)
        top_in += _ROW_IN + _HEAD_IN
    _words(figure, run, rates, latencies, staged)
    return figure


def _row(figure: Figure, columns: int, top_in: float, *, share: bool) -> list[Axes]:
    """A row of panels; the panels after the first have no tick labels when they `share` y."""
    width_in, height_in = figure.get_size_inches()
    gap = (0.22 if share else 0.52) / width_in
    left, right = _LEFT_IN / width_in, 1 - 0.15 / width_in
    width = (right - left - gap * (columns - 1)) / columns
    made = []
    for column in range(columns):
        box = (left + column * (width + gap), 1 - (top_in + _ROW_IN) / height_in, width,
               _ROW_IN / height_in)  # fmt: skip
        axes = figure.add_axes(box)
        style.plain(axes)
        axes.tick_params(labelsize=8.5)
        if share and column:
            axes.tick_params(labelleft=False)
        made.append(axes)
    return made


def _shade(axes: Axes, one: Spike) -> None:
    if one.begin_s is not None and one.end_s is not None:
        axes.axvspan(one.begin_s, one.end_s, color=_SPIKE_COLOUR, linewidth=0, zorder=-1)
    axes.set_xlim(0, float(one.t_s[-1]) + one.bin_s)


def _rates(axes: Axes, one: Spike) -> None:
    _shade(axes, one)
    middle_s = one.t_s + one.bin_s / 2
    axes.fill_between(
        middle_s, one.offered / one.bin_s, step="mid", color="#BBBBBB", alpha=0.5, linewidth=0,
        zorder=1,
    )  # fmt: skip
    axes.plot(middle_s, one.answered / one.bin_s, color=_ANSWERED, linewidth=2.4, zorder=3)
    axes.plot(
        middle_s, one.good / one.bin_s, color=_GOOD, linewidth=1.3, linestyle=LINES[1], zorder=4
    )
    axes.plot(
        middle_s, one.rejected / one.bin_s, color=_REJECTED, linewidth=1.3, linestyle=LINES[2],
        zorder=3,
    )  # fmt: skip
    axes.tick_params(labelbottom=False)
    title = style.label(one.server, 30)
    axes.set_title(title if one.valid else f"{title}: invalid", fontsize=10.5, loc="left",
                   fontweight="bold")  # fmt: skip
    if not one.valid:
        axes.text(
            0.02, 0.97, textwrap.fill(style.label(one.invalid_reason, 120), 44),
            transform=axes.transAxes, fontsize=7.5, color=GREY, ha="left", va="top",
        )  # fmt: skip


def _latencies(axes: Axes, one: Spike, slo_ms: float) -> None:
    _shade(axes, one)
    middle_s = one.t_s + one.bin_s / 2
    axes.plot(middle_s, one.p99_us / 1e3, color="#000000", linewidth=1.3, zorder=3)
    axes.plot(
        middle_s, one.p50_us / 1e3, color="#0072B2", linewidth=1.3, linestyle=LINES[1], zorder=3
    )
    axes.axhline(slo_ms, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=2)
    axes.set_yscale("log")
    axes.set_xlabel("seconds since the start", fontsize=8.5)


def _same_limits(rates: Sequence[Axes], latencies: Sequence[Axes], slo_ms: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    top = max(axes.get_ylim()[1] for axes in rates) or 1.0
    lows, highs = zip(*(axes.get_ylim() for axes in latencies), strict=True)
    for axes in rates:
        axes.set_ylim(0, top)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for axes in latencies:
        # Room above: the recovery time stands there.
        axes.set_ylim(min(*lows, slo_ms / 2), max(*highs, slo_ms * 2) * 4)
        axes.yaxis.set_major_locator(LogLocator(10))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", color="#CCCCCC", length=2)


def _recovery_mark(axes: Axes, one: Spike, slo_ms: float) -> None:
    """A bar from the spike's end to recovery, with the time; open at the end when it never came."""
    found = recovery(one, slo_ms)
    if found is None or one.end_s is None:
        return
    seconds = found.observed_s if found.seconds is None else found.seconds
    low, high = axes.get_ylim()
    y = high / (high / low) ** 0.09
    axes.plot([one.end_s] * 2, [low, y], color=GREY, linewidth=0.8, zorder=1)
    axes.plot(
        [one.end_s, one.end_s + seconds], [y, y], color="black", linewidth=1.6,
        marker="|", markersize=7, markevery=[0] if found.seconds is None else None,
        solid_capstyle="butt", zorder=5,
    )  # fmt: skip
    if found.seconds is None:
        text = f"not recovered in {seconds:.1f} s"
    else:
        text = "recovered at once" if seconds < 0.05 else f"recovered after {seconds:.1f} s"
    # Before the bar, over the spike: there is always room there.
    axes.text(one.end_s, y, f"{text}  ", fontsize=8, ha="right", va="center", zorder=6)


# -- inside a server that has stages --------------------------------------------------------


def _inside(figure: Figure, one: Spike, top_in: float) -> None:
    """Queues, threads, batches and admission limit of one server."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    width_in, height_in = figure.get_size_inches()
    panels = _row(figure, 4, top_in, share=False)
    names, others = _ranked(one.inside)
    for axes, (key, title) in zip(
        panels,
        (("queue_length", "events in the queue"), ("threads", "threads"), ("batch", "batch limit"),
         (None, "admission limit (requests/s)")),
        strict=True,
    ):  # fmt: skip
        _shade(axes, one)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("seconds since the start", fontsize=8.5)
        if key is None:
            _admission(axes, one)
        else:
            for place, name in enumerate([*others, *names]):
                rank = place - len(others)
                t_s, values = _series(one.inside, name, key)
                axes.plot(
                    t_s, values, color="#BBBBBB" if rank < 0 else _stage_marks(rank)[0],
                    linestyle="-" if rank < 0 else _stage_marks(rank)[1],
                    linewidth=0.9 if rank < 0 else 1.4, drawstyle="steps-post", zorder=3 + rank / 9,
                )  # fmt: skip
        axes.set_ylim(bottom=0, top=1.05 * max(1.0, axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    handles = [
        Line2D([], [], color=_stage_marks(rank)[0], linestyle=_stage_marks(rank)[1], linewidth=1.4,
               label=style.label(name, 20))
        for rank, name in enumerate(names)
    ]  # fmt: skip
    if others:
        handles.append(Line2D([], [], color="#BBBBBB", linewidth=0.9, label="other stages"))
    y = 1 - (top_in - 0.36) / height_in
    figure.text(
        style.MARGIN_IN / width_in, y, f"inside {style.label(one.server, 24)}",
        fontsize=10.5, fontweight="bold", ha="left", va="center",
    )  # fmt: skip
    figure.legend(
        handles=handles, loc="center right", bbox_to_anchor=(1 - 0.15 / width_in, y),
        ncols=len(handles), frameon=False, fontsize=8.5, handlelength=2.6, columnspacing=1.4,
        borderaxespad=0, borderpad=0,
    )  # fmt: skip


def _stage_marks(rank: int) -> tuple[str, Any]:
    return (COLOURS[1], COLOURS[0], COLOURS[2], COLOURS[3])[rank], LINES[rank]


def _ranked(inside: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The stages that move most, first the longest queue; and the rest."""
    highest: dict[str, tuple[float, float]] = {}
    for said in inside:
        for stage in said.get("stages") or ():
            queue, threads = highest.get(stage["name"], (0.0, 0.0))
            highest[stage["name"]] = (
                max(queue, stage["queue_length"] or 0), max(threads, stage["threads"] or 0),
            )  # fmt: skip
    names = sorted(highest, key=lambda name: highest[name], reverse=True)
    return names[:_SHOWN_STAGES], names[_SHOWN_STAGES:]


def _series(
    inside: Sequence[Mapping[str, Any]], name: str, key: str
) -> tuple[list[float], list[float]]:
    """One number of one stage over time; NaN where the server had none to tell."""
    t_s, values = [], []
    for said in inside:
        stage = next((s for s in (said.get("stages") or ()) if s["name"] == name), None)
        value = None if stage is None else stage[key]
        t_s.append(float(said["t_s"]))
        values.append(math.nan if value is None else float(value))
    return t_s, values


def _admission(axes: Axes, one: Spike) -> None:
    limits = [(said.get("admission") or {}).get("limit_per_s") for said in one.inside]
    t_s = [float(said["t_s"]) for said in one.inside]
    if any(limit is not None for limit in limits):
        axes.plot(
            t_s, [math.nan if limit is None else float(limit) for limit in limits],
            color="black", linewidth=1.4, drawstyle="steps-post",
        )  # fmt: skip
        note = "no line: no limit" if None in limits else ""
    else:
        controlled = any(said.get("admission") for said in one.inside)
        note = "never limited" if controlled else "no admission control"
    axes.text(
        0.03, 0.05, note, transform=axes.transAxes, fontsize=8, color=GREY, ha="left", va="bottom"
    )


def _words(
    figure: Figure,
    run: Run,
    rates: Sequence[Axes],
    latencies: Sequence[Axes],
    staged: Sequence[Spike],
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    style.heading(
        figure,
        "What does a spike do, and how long does it stay?",
        f"{style.workload_text(run)}; bins of 100 ms; shaded: the spike",
    )
    rates[0].set_ylabel("requests/s", fontsize=9)
    latencies[0].set_ylabel("latency (ms, log)", fontsize=9)
    width_in, height_in = figure.get_size_inches()
    handles = [
        Patch(color="#BBBBBB", alpha=0.5, linewidth=0, label="offered"),
        Line2D([], [], color=_ANSWERED, linewidth=2.4, label="answered"),
        Line2D([], [], color=_GOOD, linewidth=1.3, linestyle=LINES[1], label="within the SLO"),
        Line2D([], [], color=_REJECTED, linewidth=1.3, linestyle=LINES[2], label="rejected"),
        Line2D([], [], color="black", linewidth=1.3, label="p99"),
        Line2D([], [], color="#0072B2", linewidth=1.3, linestyle=LINES[1], label="p50"),
        Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), label="SLO"),
    ]
    figure.legend(
        handles=handles, loc="upper left", frameon=False, fontsize=8.8, handlelength=2.4,
        bbox_to_anchor=((style.MARGIN_IN - 0.06) / width_in, 1 - 0.66 / height_in),
        ncols=len(handles), columnspacing=1.4, borderaxespad=0, borderpad=0,
    )  # fmt: skip
    style.footer(figure, run)
