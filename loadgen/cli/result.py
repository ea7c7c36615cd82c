"""How a result is shown, and what it means for the exit status."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import click

from loadgen.cli.conditions import Condition
from loadgen.output import NOBODY_READS, lost, tell, visible

Summary: TypeAlias = dict[str, Any]
"""A result as it is in JSON."""

Rows: TypeAlias = Iterable[tuple[str, str]]


class Result(Protocol):
    """The result of any workload."""

    def to_json(self, *, timeline: bool = False) -> Summary: ...


def show_result(
    result: Result,
    rows: Callable[[Summary], Rows],
    *,
    as_json: bool,
    events: bool = False,
) -> None:
    """Print a result: as the last event, as a line of JSON, or as a table of `rows`."""
    if events:
        print_json({"event": "result"} | result.to_json(timeline=True))
        return
    summary = result.to_json()
    if as_json:
        print_json(summary)
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{summary['workload']} on {summary['target']}"
    table = Table(title=visible(title), show_header=False, title_justify="left")
    for name, value in rows(summary):
        table.add_row(name, visible(value))
    reasons = visible("; ".join(summary["invalid_reasons"]))
    table.add_row("valid", "yes" if summary["valid"] else f"NO: {reasons}")
    console = Console(markup=False, emoji=False)
    with console.capture() as shown:
        console.print(table)
        for warning in summary["warnings"]:
            console.print(visible(f"warning: {warning}"), highlight=False)
    tell(shown.get().rstrip("\n"))


def fail_if(
    context: click.Context, conditions: Sequence[Condition], result: Mapping[str, Any]
) -> None:
    """Print which conditions hold; exit with status 1 if any does."""
    broken = [why for condition in conditions if (why := condition.why_failed(result))]
    for why in broken:
        click.echo(f"failed: {why}", err=True)
    if broken:
        context.exit(1)


def print_event(name: str, t_ns: int) -> None:
    """Print a line of JSON; a reader of events that has gone away needs no result either."""
    print(json.dumps({"event": name, "t_ns": t_ns}), flush=True)
    if (failed := lost()) is not None and failed.errno == errno.EPIPE:
        raise SystemExit(NOBODY_READS)


def print_json(what: Summary) -> None:
    """Print a line of JSON."""
    tell(json.dumps(what))
