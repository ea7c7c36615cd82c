"""The figure of a swarm: what was offered and answered over time, and how fast."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sedabench.figures import style
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMELINE = "timeline.json"
"""In a swarm's folder: what happened second by second."""


def timeline(run: Run) -> Figure | None:
    """None when the folder has no timeline, or an empty one."""
    with style.drawing():
        return _timeline(run)


def _timeline(run: Run) -> Figure | None:
    from matplotlib.figure import Figure

    try:
        told = json.loads((run.path / TIMELINE).read_text())
    except (OSError, ValueError):
        return None
    if not told["t_s"]:
        return None
    figure = Figure(figsize=(8.4, 5.6), facecolor="white")
    rates, latencies = figure.subplots(2, 1, sharex=True)
    at_s, per_s = told["t_s"], 1 / told["bin_s"]
    for name, colour in zip(("offered", "answered", "rejected", "errors"), style.COLOURS[::-1],
                            strict=False):  # fmt: skip
        values = [number * per_s for number in told[name]]
        if any(values) or name in ("offered", "answered"):
            rates.step(at_s, values, where="post", label=name, color=colour, linewidth=1.4)
    rates.set_ylabel("requests/s")
    rates.set_ylim(bottom=0)
    rates.legend(frameon=False, ncols=4, loc="lower center", fontsize=9)
    for name, colour in zip(("p50_us", "p99_us"), style.COLOURS, strict=False):
        values = [None if us is None else us / 1e3 for us in told[name]]
        latencies.plot(at_s, values, label=name[:3], color=colour, linewidth=1.4)
    latencies.set_yscale("log")
    style.decades(latencies.yaxis)
    latencies.set_ylabel("latency, ms")
    latencies.set_xlabel("seconds since all workers were ready")
    latencies.legend(frameon=False, ncols=2, fontsize=9)
    for axes in (rates, latencies):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
    parameters = run.manifest["parameters"]
    figure.suptitle(
        f"{parameters['workers']} workers, {parameters['rate']:,g} requests/s to "
        f"{style.label(parameters['target'])}", fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    figure.subplots_adjust(top=0.92, bottom=0.09, left=0.1, right=0.98, hspace=0.1)
    return figure
