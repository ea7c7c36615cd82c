"""What the page says and draws of a swarm: its trials one by one, and its time line.

A swarm has few trials, often one, of one server.  So no median stands here:
each trial has a sentence, and the figure is what happened second by second, in
the bins in which workers report (`timeline.json`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sedabench.figures.charts import (
    LATENCIES,
    MILLISECONDS,
    RATES,
    Axis,
    Chart,
    Entry,
    Mark,
    Panel,
    Series,
    chart,
    curves,
    finite,
    rounded,
)
from sedabench.figures.swarm import TIMELINE
from sedabench.results.folder import Run

if TYPE_CHECKING:
    import pandas as pd

_LEGEND = (
    Entry("offered", "offered", 7, 0, marker=False),
    Entry("answered", "answered", 5, 0, marker=False),
    Entry("good", "within the SLO", 2, 1, marker=False),
    Entry("rejected", "rejected", 0, 2, marker=False),
    Entry("errors", "errors", 3, 3, marker=False),
    Entry("p99", "p99", 6, 0, marker=False),
    Entry("p50", "p50", 1, 1, marker=False),
    Entry("workers", "workers", 4, 0, marker=False),
)
_TIMES_THE_RATE = Axis("load (times the rate asked for)", "times the rate", low=0)


def sentences(run: Run) -> list[str]:
    """A sentence a trial."""
    slo_ms = float(run.manifest["parameters"]["slo"])
    return [_sentence(row, slo_ms) for row in run.trials.to_dict("records")]


def _sentence(row: Mapping[Any, Any], slo_ms: float) -> str:
    name = f"Trial {row['trial']}"
    if not row["valid"]:
        return f"{name} is invalid: {row['invalid_reason']}."
    rates = [f"{row[key]:,.0f}" for key in
             ("asked_rps", "offered_rps", "throughput_rps", "goodput_rps")]  # fmt: skip
    p50_ms, p99_ms = (row[f"latency_{name}_us"] / 1e3 for name in ("p50", "p99"))
    text = (
        f"{name}: {rates[0]} requests/s were asked of {row['workers']} "
        f"worker{'' if row['workers'] == 1 else 's'}, {rates[1]} were offered, {rates[2]} answered "
        f"and {rates[3]} answered within {slo_ms:g} ms"
    )
    return f"{text}; " + (
        f"latency: median {p50_ms:.3g} ms, 99th percentile {p99_ms:.4g} ms."
        if p99_ms == p99_ms
        else "no latency, for none of those due was answered."
    )


def charts(run: Run) -> list[Chart]:
    """The time line; with several loads, rates and latencies over them."""
    return [*_timeline(run), *_loads(run, run.trials)]


def _timeline(run: Run) -> list[Chart]:
    try:
        said = json.loads((run.path / TIMELINE).read_bytes())
    except FileNotFoundError:  # shared without it
        return []
    if not said["t_s"]:
        return []
    width_s = float(said["bin_s"])
    t_s = [rounded(float(t) + width_s / 2) for t in said["t_s"]]
    seconds = Axis("seconds since all workers were ready", "s", low=0)
    slo_ms = float(run.manifest["parameters"]["slo"])

    def made(name: str, factor: float, style: str = "line") -> Series:
        values = [None if v is None else v * factor for v in said[name]]
        return Series(name.removesuffix("_us"), t_s, finite(values), style=style)

    rates = [made("offered", 1 / width_s, "area")]
    rates += [
        made(name, 1 / width_s)
        for name in ("answered", "good", "rejected", "errors")
        if name == "answered" or any(said[name])
    ]
    panels = [
        Panel("requests/s", seconds, Axis("requests/s", "requests/s", low=0), tuple(rates)),
        Panel(
            "latency", seconds, MILLISECONDS, (made("p99_us", 1e-3), made("p50_us", 1e-3)),
            (Mark(f"SLO {slo_ms:g} ms", y=slo_ms),),
        ),
    ]  # fmt: skip
    if len(set(said["workers"])) > 1:
        y = Axis("workers", "workers", low=0)
        panels.append(Panel("workers", seconds, y, (made("workers", 1.0, "step"),)))
    drawn = {one.key for panel in panels for one in panel.series}
    legend = tuple(entry for entry in _LEGEND if entry.key in drawn)
    note = f"All workers together, in bins of {width_s * 1e3:g} ms, warm-up included."
    question = "What was offered and answered, and how fast?"
    return [Chart("timeline", question, note, legend, tuple(panels), len(panels))]


def _loads(run: Run, trials: pd.DataFrame) -> list[Chart]:
    if trials["load"].nunique() < 2:
        return []
    note = "A point is a trial (hollow: invalid)."
    rates = curves(run, trials, "load", RATES, _TIMES_THE_RATE, Axis("requests/s", "requests/s"))
    latencies = curves(run, trials, "load", LATENCIES, _TIMES_THE_RATE, MILLISECONDS, 1e-3)
    return [
        *chart(run, "throughput", "How much is answered?", rates, note),
        *chart(run, "latency", "How long does an answer take?", latencies, note),
    ]
