"""What any run says by its columns: medians of one metric at each level, server by server.

For experiments that have no words of their own, and for runs whose experiment
is not at hand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sedabench.results.folder import Run

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("goodput_rps", "throughput_rps", "bandwidth_bps", "bursts_per_s", "latency_p99_us")
"""What is looked at first, of what there is."""
READS = {"1/s": "requests/s"}
"""Unit of a column -> what a person reads, for rates of answers."""


def sentences(run: Run, level: str, metric: str) -> list[str]:
    """Who has how much at each level."""
    if not {metric, level, "server"} <= set(run.trials):
        return []
    said = []
    for value, cell in _valid(run, metric).groupby(level):
        medians = cell.groupby("server")[metric].median().sort_values(ascending=False)
        listed = ", ".join(f"{server} {number(rate)}" for server, rate in medians.items())
        said.append(
            f"At {named(run, level, value)}, median {unit(run, metric)} over the valid trials: "
            f"{listed}."
        )
    return said


def table(run: Run, level: str, metric: str) -> Any:
    """A row a server, a column a level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        box=SIMPLE_HEAD, title_justify="left", header_style="bold",
        title=f"median {unit(run, metric)}",
    )  # fmt: skip
    made.add_column("server")
    if not {metric, level, "server"} <= set(run.trials):
        return made
    levels = sorted(run.trials[level].dropna().unique())
    for value in levels:
        made.add_column(named(run, level, value), justify="right")
    medians = _valid(run, metric).groupby(["server", level])[metric].median().to_dict()
    for server in run.trials["server"].unique():
        cells = (medians.get((server, value)) for value in levels)
        made.add_row(str(server), *("-" if cell is None else number(cell) for cell in cells))
    return made


def named(run: Run, level: str, value: Any) -> str:
    """A level for a reader: "64 connections", "load 0.5", "work 200 us"."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if level == "connections":
        return f"{text} connection{'' if value == 1 else 's'}"
    ending = str((run.manifest.get("columns") or {}).get(level, {}).get("unit") or "")
    words = level.removesuffix(f"_{ending}").replace("_", " ")
    return f"{words} {text} {ending}".strip()


def unit(run: Run, metric: str) -> str:
    said = str((run.manifest.get("columns") or {}).get(metric, {}).get("unit") or "")
    return READS.get(said, said) or metric


def words(metric: str) -> str:
    """ "throughput" of throughput_rps."""
    for ending in ("_rps", "_bps", "_us", "_s"):
        metric = metric.removesuffix(ending)
    return metric.replace("_", " ")


def number(value: float) -> str:
    """Four digits, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _valid(run: Run, metric: str) -> pd.DataFrame:
    return run.trials[run.trials["valid"] & run.trials[metric].notna()]
