"""What a run of `peers` says, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sedabench.results.folder import Run
from sedabench.results.reasons import first_kinds, split

if TYPE_CHECKING:
    from rich.table import Table

MOST_WITH_RANGE = 3
"""Levels in the table; with more there is room for the medians only."""


def table(finished: Run) -> Table:
    """A row a server, a column a level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    levels = sorted(int(level) for level in finished.manifest["parameters"]["connections"])
    with_range = len(levels) <= MOST_WITH_RANGE
    made = Table(
        box=SIMPLE_HEAD, title_justify="left", header_style="bold",
        title="requests/s: median" + (" (lowest to highest trial)" if with_range else ""),
    )  # fmt: skip
    made.add_column("server")
    for level in levels:
        made.add_column(_connections(level), justify="right")
    for spec in finished.manifest["parameters"]["servers"]:
        rates = (_rate(finished, spec["label"], level) for level in levels)
        made.add_row(
            spec["label"], *("-" if rate is None else rate.text(with_range) for rate in rates)
        )
    return made


@dataclass(frozen=True)
class Rate:
    """Requests/s of a server at a level: of its valid trials; without any, the least it can do."""

    median: float
    low: float
    high: float
    is_bound: bool

    def text(self, with_range: bool) -> str:
        least = "at least " if self.is_bound else ""
        with_range = with_range and self.low < self.high
        spread = f" ({self.low:,.0f} to {self.high:,.0f})" if with_range else ""
        return f"{least}{self.median:,.0f}{spread}"


def _rate(finished: Run, server: str, connections: int) -> Rate | None:
    """None without a trial that says anything."""
    rows = finished.trials
    rows = rows[(rows["server"] == server) & (rows["connections"] == connections)]
    is_bound = not rows["valid"].any()
    counted = rows[rows["invalid_reason"].map(_is_bound) if is_bound else rows["valid"]]
    rates = counted["throughput_rps"]
    if not len(rates):
        return None
    return Rate(float(rates.median()), float(rates.min()), float(rates.max()), is_bound)


def _is_bound(invalid_reason: str) -> bool:
    """Whether nothing is wrong with a trial but that the load generator was the limit."""
    return all("lower bound" in reason for reason in split(invalid_reason))


def sentences(finished: Run) -> list[str]:
    """What was found: trials left out, and at each level who is fastest, the others beside it."""
    trials = finished.trials
    invalid = trials[~trials["valid"]]
    said = []
    if len(invalid):
        why = "; ".join(f"{reason} ({n})" for reason, n in first_kinds(invalid["invalid_reason"]))
        are = "is" if len(invalid) == 1 else "are"
        said.append(f"{len(invalid)} of {len(trials)} trials {are} invalid: {why}.")
    for level in sorted(set(trials["connections"])):
        servers = trials[trials["connections"] == level]["server"].unique()
        said += _at(level, {server: _rate(finished, server, level) for server in servers})
    return said


def _at(level: int, rates: Mapping[str, Rate | None]) -> list[str]:
    known = {server: rate for server, rate in rates.items() if rate is not None}
    said = []
    if known:
        (first, best), *others = sorted(known.items(), key=lambda item: -item[1].median)
        text = f"With {_connections(level)} {first} answers "
        text += f"{'at least ' if best.is_bound else ''}{best.median:,.0f} requests/s"
        if best.is_bound:
            text += ", for the load generator was the limit"
        if others:
            shares = (
                f"{server} {rate.median / best.median:.2f}{' or more' if rate.is_bound else ''}"
                for server, rate in others
            )
            text += f"; as a share of that: {', '.join(shares)}"
        said.append(f"{text}.")
    if nothing := [server for server, rate in rates.items() if rate is None]:
        said.append(f"With {_connections(level)} no trial is valid of {', '.join(nothing)}.")
    return said


def _connections(level: int) -> str:
    return f"{level} connection{'' if level == 1 else 's'}"
