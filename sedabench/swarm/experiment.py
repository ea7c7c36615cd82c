"""The experiment `swarm` for those who read run folders; `sedabench swarm` carries it out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sedabench.analysis.compare import Question
from sedabench.errors import one_line
from sedabench.experiments.base import Experiment
from sedabench.figures.charts import Chart
from sedabench.figures.swarm import timeline
from sedabench.results.folder import Run
from sedabench.swarm import charts
from sedabench.swarm.folder import COLUMNS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Swarms(Experiment):
    """One load from many machines."""

    name = "swarm"
    summary = "one load from many machines, through Locust's master and workers"
    columns = COLUMNS
    level = "load"
    question = Question(("load",), ("goodput_rps", "latency_p99_us"), "workload", "offered_rps")
    command = "sedabench swarm"

    def sentences(self, run: Run) -> list[str]:
        return charts.sentences(run)

    def figures(self, run: Run) -> Mapping[str, Callable[[Run], Figure | None]]:
        return {"timeline": timeline}

    def charts(self, run: Run) -> list[Chart]:
        return charts.charts(run)

    def show(self, run: Run, console: Any) -> None:
        show(run, console)


def show(run: Run, console: Console) -> None:
    """Print the table of trials, and what is to be known about them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in (
        "trial", "load", "workers", "asked/s", "offered/s", "answered/s", "good/s", "p50 ms",
        "p99 ms", "valid",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in run.trials.to_dict("records"):
        table.add_row(
            str(trial["trial"]), f"{trial['load']:g}", str(trial["workers"]),
            *(f"{trial[name]:,.1f}" for name in
              ("asked_rps", "offered_rps", "throughput_rps", "goodput_rps")),
            *(_ms(trial[name]) for name in ("latency_p50_us", "latency_p99_us")),
            "yes" if trial["valid"] else "NO",
        )  # fmt: skip
    console.print(table)
    said = list(run.manifest["warnings"])
    for trial in run.trials.to_dict("records"):
        lines = [] if trial["valid"] else [f"not valid: {trial['invalid_reason']}"]
        failed = ", ".join(f"{trial[name]:,} {words}" for name, words in FAILED if trial[name])
        if failed:
            lines.append(f"of {trial['scheduled']:,} requests: {failed}")
        own = trial["warnings"].split(" | ") if isinstance(trial["warnings"], str) else []
        lines += [f"warning: {text}" for text in own if text and text not in said]
        for line in lines:
            console.print(f"trial {trial['trial']}: {line}", markup=False, highlight=False)
    for warning in said:
        console.print(f"warning: {one_line(warning)}", markup=False, highlight=False)


FAILED = (
    ("rejected", "rejected (503)"), ("wrong", "wrong replies"), ("timeouts", "timed out"),
    ("connection_errors", "lost with their connection"), ("never_sent", "never sent"),
)  # fmt: skip


def _ms(latency_us: float) -> str:
    return "-" if math.isnan(latency_us) else f"{latency_us / 1e3:,.3f}"
