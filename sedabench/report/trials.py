"""The trials of a run as the page's table has them, and what is odd about them, counted.

Values are those of `trials.csv` in units that a person reads (ms, Gbit/s, MB),
with four digits; the heading says the unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sedabench.results.folder import TRIALS, Run
from sedabench.results.reasons import kind, split

if TYPE_CHECKING:
    import pandas as pd

SCALES = {"us": (1e-3, "ms"), "bit/s": (1e-9, "Gbit/s"), "B": (1e-6, "MB")}
"""unit of `trials.csv` -> factor and unit of the page's table."""

MAIN = frozenset((
    "trial", "block", "phase", "server", "connections", "load",
    "offered_rps", "valid", "invalid_reason", "warnings", "bandwidth_bps",
    "ack_p50_us", "ack_p99_us", "throughput_rps", "goodput_rps", "rejected",
    "latency_p50_us", "latency_p99_us", "jain_fairness", "client_cpu", "server_cpu",
))  # fmt: skip
"""Columns that the table shows before somebody asks for all."""

LONG = ("invalid_reason", "warnings")
"""Columns of long text, which stand last."""


@dataclass(frozen=True)
class Column:
    """A column of the trials table."""

    name: str
    unit: str
    factor: float
    """From the unit of `trials.csv` to `unit`."""
    meaning: str
    number: bool
    main: bool


@dataclass(frozen=True)
class Row:
    """A trial; `cells` in the order of the columns."""

    valid: bool
    warned: bool
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Reason:
    """A kind of reason or warning: how often, an example as it stands, and in which trials."""

    count: int
    text: str
    trials: str


def number(value: float) -> str:
    """Four digits, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def columns_of(run: Run) -> tuple[Column, ...]:
    made = []
    for name, column in run.manifest["columns"].items():
        raw = str(column.get("unit") or "")
        factor, unit = SCALES.get(raw, (1.0, raw))
        meaning = str(column.get("meaning") or "")
        if raw in SCALES:
            meaning += f" (in {TRIALS}: {raw})"
        is_number = column["type"] in ("int", "float")
        made.append(Column(name, unit, factor, meaning.strip(), is_number, name in MAIN))
    return tuple(sorted(made, key=lambda column: column.name in LONG))


def rows_of(trials: pd.DataFrame, columns: Sequence[Column]) -> tuple[Row, ...]:
    shown = {}
    for column in columns:
        values = trials[column.name]
        shown[column.name] = [
            "" if missing else _cell(value, column.factor)
            for value, missing in zip(values, values.isna(), strict=True)
        ]
    valid = [bool(v) for v in trials["valid"]]
    warned = [bool(text) for text in shown.get("warnings", [""] * len(trials))]
    cells = zip(*shown.values(), strict=True)
    return tuple(Row(*row) for row in zip(valid, warned, cells, strict=True))


def _cell(value: Any, factor: float) -> str:
    if isinstance(value, str):
        return value
    if value is True or value is False or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, Integral) and factor == 1.0:
        return str(value)
    return number(float(value) * factor)


def reasons(trials: pd.DataFrame, column: str) -> tuple[Reason, ...]:
    """The kinds of text in a column, the most frequent first."""
    if column not in trials:
        return ()
    counted: Counter[str] = Counter()
    examples: dict[str, str] = {}
    where: dict[str, list[int]] = {}
    for trial, text in zip(trials["trial"], trials[column], strict=True):
        for reason in split(text):
            counted[kind(reason)] += 1
            examples.setdefault(kind(reason), reason)
            where.setdefault(kind(reason), []).append(int(trial))
    return tuple(
        Reason(count, examples[one], _listed(where[one])) for one, count in counted.most_common()
    )


def _listed(trials: Sequence[int], most: int = 8) -> str:
    numbers = ", ".join(str(trial) for trial in sorted(trials)[:most])
    return numbers + (f" and {len(trials) - most} more" if len(trials) > most else "")
