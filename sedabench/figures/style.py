"""How every matplotlib figure of this project looks: marks, legends, heading, footer, files.

No pyplot and no global state, so a figure can be made anywhere, by a notebook
too.  Marks and colours mean the same in every figure: a server is told by
colour, marker and line style together, so each survives a black-and-white
printer; a filled point is a valid trial, a hollow one is not.

Everything is drawn inside `drawing`, which makes text of a person's text and nothing else.
"""

from __future__ import annotations

import functools
import math
import shlex
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedabench.analysis.stats import Interval
from sedabench.errors import UserError, one_line
from sedabench.results.folder import Run
from sedabench.results.raw_trials import damage_is_named
from sedabench.results.reasons import first_kinds
from sedabench.targets.servers import ServerSpec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008), without yellow, which paper swallows.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Nine beside seven colours: the eighth server has the colour of the first and another marker.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = (
    "-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 2)), (0, (3, 1)), "-.",
)  # fmt: skip

_OWN = ("threaded", "eventloop", "seda")
"""Architectures with marks of their own, in the order of `COLOURS`."""

GREY = "#555555"
MARGIN_IN = 0.714
"""Where text begins, from the left edge of a figure, in inches."""


def marks(index: int) -> tuple[str, str, Any]:
    """Colour, marker and line style of the server that the run names at `index`, from 0."""
    return COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], LINES[index % len(LINES)]


def slots(servers: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Which marks each server has: label -> index for `marks`, from (label, architecture).

    The first server of an architecture of the paper has that architecture's
    marks, whoever else is in the figure; the others take what is free.
    """
    found: dict[str, int] = {}
    for label, architecture in servers:
        if architecture in _OWN and _OWN.index(architecture) not in found.values():
            found[label] = _OWN.index(architecture)
    free = iter(n for n in range(len(_OWN), len(_OWN) + len(servers)))
    for label, _ in servers:
        if label not in found:
            found[label] = next(free)
    return found


def point(colour: str, valid: bool) -> dict[str, Any]:
    """How a trial's point looks: filled when it is valid, hollow when it is not."""
    return {
        "markersize": 4.6 if valid else 6.5,
        "markerfacecolor": colour if valid else "white",
        "markeredgecolor": "white" if valid else colour,
        "markeredgewidth": 0.4 if valid else 1.2,
        "alpha": 0.85 if valid else 1.0,
    }


def label(text: object, longest: int = 44) -> str:
    """Text of a run folder as one short line that matplotlib draws as it is."""
    line = "".join(c if c.isprintable() else " " for c in one_line(str(text)))
    line = line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
    return f" {line}" if line.startswith("_") else line  # a legend leaves out "_..."


@contextmanager
def drawing() -> Iterator[None]:
    """Around all drawing: a label's "$" is a dollar; an odd glyph is a box, and no warning.

    matplotlib reads the setting when a text is made, and makes those of ticks late.
    Numbers on axes are formatted by ourselves, never as powers in its mathematics.
    """
    import matplotlib

    # The salt: the same data, the same bytes.
    with (
        matplotlib.rc_context({"text.parse_math": False, "svg.hashsalt": "sedabench"}),
        warnings.catch_warnings(action="ignore", category=UserWarning),
    ):
        yield


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg into a run folder.

    Raises:
        UserError: it cannot be drawn or written; what was there before stays.
    """
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with drawing():
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else {"Software": "sedabench"}
            temporary = path.with_name(f".{path.name}.tmp")
            try:
                figure.savefig(temporary, format=path.suffix[1:], dpi=200, metadata=metadata)
                temporary.replace(path)
            except Exception as error:  # of matplotlib's own, and of the disk
                temporary.unlink(missing_ok=True)
                raise UserError(not_drawn(stem.parent, error)) from error
    return paths


def not_drawn(folder: Path, error: Exception) -> str:
    """What to say when a figure of the run in `folder` cannot be drawn."""
    why = one_line(str(error)) or type(error).__name__
    again = f"sedabench plot {shlex.quote(str(folder))}"
    return f"a figure cannot be drawn ({why}); the data is kept, try again with: {again}"


Maker = Callable[..., "Figure | None"]


def draws(name: str, *columns: str) -> Callable[[Maker], Maker]:
    """Of a function that draws a run: what it needs, and what is said when it cannot.

    The function raises:
        UserError: the run has not these columns, so it is one of something else.
        DamagedRunError: what the folder holds cannot be drawn.
    """

    def decorate(make: Maker) -> Maker:
        @functools.wraps(make)
        def drawn(run: Run, *more: Any) -> Figure | None:
            if lacking := [column for column in columns if column not in run.trials]:
                raise UserError(
                    f"{run.path} is a run of {run.manifest['experiment']}; it has no column "
                    f"{lacking[0]!r}, which {name} is drawn from"
                )
            if not len(run.trials):
                return None
            with drawing(), damage_is_named(run, f"its figure {name!r} cannot be drawn"):
                return make(run, *more)

        return drawn

    return decorate


def draw_all(run: Run, makers: Mapping[str, Callable[[Run], Figure | None]]) -> list[Path]:
    """Draw every figure that the run has something for, as PNG and SVG in its folder.

    Nothing is written before all of them are made.

    Raises:
        UserError: what the folder holds cannot be drawn, or a figure cannot be written.
    """
    made = {name: make(run) for name, make in makers.items()}
    return [
        path
        for name, figure in made.items()
        if figure is not None
        for path in save(figure, run.path / name)
    ]


def curve(
    axes: Axes, index: int, found: Sequence[tuple[float, Interval | None]], factor: float
) -> None:
    """Band and median line of a server, from (level, interval); broken where that is None."""
    colour, _, line = marks(index)
    x = [level for level, _ in found]
    low, value, high = (
        [getattr(interval, name) * factor if interval else math.nan for _, interval in found]
        for name in ("low", "value", "high")
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=1)
    axes.plot(x, value, color=colour, linestyle=line, linewidth=1.8, zorder=3)


def points(axes: Axes, index: int, x: Any, y: Any, valid: Any) -> None:
    """A server's trials, as three pandas Series; those without a value are left out."""
    colour, marker, _ = marks(index)
    for filled in (True, False):
        some = (valid == filled) & x.notna() & y.notna()
        axes.plot(
            x[some].to_numpy(float), y[some].to_numpy(float), linestyle="none", marker=marker,
            clip_on=False, zorder=4 if filled else 5, **point(colour, filled),
        )  # fmt: skip


def band(kinds: Collection[str]) -> str:
    """What the band of a figure is, by the kinds of its intervals."""
    if len(kinds) > 1:
        return "95 % interval (of 2: range)"
    return "range of the repeats" if "range" in kinds else "95 % bootstrap interval"


def server_handle(index: int, title: str) -> Any:
    """The entry of a server in a legend."""
    from matplotlib.lines import Line2D

    colour, marker, line = marks(index)
    return Line2D(
        [], [], color=colour, linestyle=line, linewidth=1.8, marker=marker, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.4, label=label(title, 90),
    )  # fmt: skip


def legend(figure: Figure, handles: list[Any], top: float, size: float) -> None:
    """A legend under the axes, where it covers no data; `top` is a share of the figure's height."""
    if handles:
        left = (MARGIN_IN - 0.06) / float(figure.get_size_inches()[0])
        columns = legend_columns(handles)
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(left, top),
            ncols=columns, frameon=False, fontsize=size, handlelength=3.2,
            columnspacing=1.6, borderaxespad=0, borderpad=0,
        )  # fmt: skip


def legend_columns(handles: Sequence[Any]) -> int:
    """Three, or as many as there is room for beside the longest entry."""
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    return min(len(handles), 3 if longest <= 44 else 2 if longest <= 66 else 1) or 1


def legend_rows(handles: Sequence[Any]) -> int:
    return -(-len(handles) // legend_columns(handles))


def invalid_handles(trials: pd.DataFrame) -> list[Any]:
    """One hollow legend entry a reason of `trials`, the most frequent first, three at most."""
    from matplotlib.lines import Line2D

    drawn = trials[~trials["valid"]]
    if not len(drawn):
        return []
    kinds = first_kinds(drawn["invalid_reason"])
    entries = [f"invalid ({count}): {label(kind, 40)}" for kind, count in kinds[:3]]
    if len(kinds) > 3:
        others = sum(count for _, count in kinds[2:])
        entries[2] = f"invalid ({others}): other reasons, see trials.csv"
    return [
        Line2D([], [], linestyle="none", marker="o", markersize=6, markerfacecolor="none",
               markeredgecolor=GREY, label=entry)
        for entry in entries
    ]  # fmt: skip


def plain(axes: Axes) -> None:
    """Ticks, grid and spines as in every figure: light, and none that says nothing."""
    axes.tick_params(labelsize=9, color="#999999", length=3)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")


def decades(axis: Any, factor: float = 1, unit: str = "") -> None:
    """Labels at powers of ten only, as numbers and not as powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(10))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * factor:,g}{unit}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", color="#CCCCCC", length=2)


def heading(figure: Figure, title: str, subtitle: str) -> None:
    """The question that the figure answers, and under it what was measured."""
    width_in, height_in = figure.get_size_inches()
    left, top = MARGIN_IN / width_in, 1 - 0.286 / height_in
    figure.text(left, top, title, fontsize=13.5, fontweight="bold", ha="left", va="center")
    top -= 0.26 / height_in
    figure.text(left, top, label(subtitle, 300), fontsize=8.8, color=GREY, ha="left", va="center")


def workload_text(run: Run) -> str:
    """What was asked of the servers, for a subtitle."""
    parameters = run.manifest["parameters"]
    return (
        f"workload {label(parameters['workload'])}, open loop over loopback, "
        f"{parameters['connections']} connections"
    )


def title_of(spec: dict[str, Any]) -> str:
    """A server of the manifest, for a legend: label and options."""
    return ServerSpec(spec["label"], spec["architecture"], tuple(spec.get("options", ()))).title


def footer(figure: Figure, run: Run, notes: Sequence[str] = ()) -> None:
    """At the bottom: machine, code and settings behind the figure; a line for each of `notes`."""
    manifest, machine = run.manifest, run.manifest["machine"]
    where = machine.get("virtual_machine")
    parts = [
        f"{machine['cpu']}, {machine['cores_logical']} cores" + (" (VM)" if where else ""),
        machine["kernel"],
        manifest["interpreters"]["server"]["title"],
    ]
    valid, total = int(run.trials["valid"].sum()), len(run.trials)
    parameters = manifest["parameters"]
    commit = manifest.get("git")
    code = f" ({commit['commit'][:7]}{'+' if commit['dirty'] else ''})" if commit else ""
    parts.append(f"sedabench {manifest['versions'].get('sedabench', '?')}{code}")
    planned = len(manifest["plan"])
    second = [
        manifest["started_utc"],
        f"{parameters['repeats']} repeat{'s' if parameters['repeats'] > 1 else ''}",
        f"window {parameters['duration_s']:g} s",
        f"seed {manifest['seed']}",
        f"{valid} of {total} trials valid" + ("" if total == planned else f", {planned} planned"),
    ]
    lines = ["  ·  ".join(label(part, 120) for part in line) for line in (parts, second)]
    lines += notes
    width_in, height_in = figure.get_size_inches()
    figure.text(
        MARGIN_IN / width_in, 0.083 / height_in, "\n".join(lines),
        fontsize=6.8, color=GREY, ha="left", va="bottom", linespacing=1.35,
    )  # fmt: skip
