"""`load samples`: the result of a past `load http`, from the file it saved."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from loadgen.cli.command import OneLineCommand, one_line_errors
from loadgen.cli.http_rows import rows
from loadgen.cli.result import show_result
from loadgen.errors import LoadError


@click.command(
    "samples",
    cls=OneLineCommand,
    epilog="""\b
Examples:
  sedabench load http --target 127.0.0.1:8080 --rate 2000 --samples a.parquet
  sedabench load samples a.parquet
  sedabench load samples a.parquet --slo 20 --json""",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.parquet")
@click.option("--slo", type=float, metavar="MS", help="Maximum latency of a good reply.  [default: that of the run]")  # fmt: skip  # noqa: E501
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.pass_context
def samples(context: click.Context, /, file: Path, slo: float | None, as_json: bool) -> None:
    """Show the result of a past `load http` again, computed from its saved requests.

    FILE.parquet is a file written with --samples: the requests, and the window, the SLO and
    whatever else the result needs. Any tool that reads Parquet can read the requests too.
    """
    from loadgen.http.result import summarise_records
    from loadgen.http.samples import read_parquet

    with one_line_errors(context):
        if slo is not None and not 1e-3 <= slo <= 86_400_000:
            raise LoadError(f"--slo must be from 0.001 to 86400000 ms, not {slo:g}")
        facts, records, classes = read_parquet(file)
        if slo is not None:
            facts = dataclasses.replace(facts, slo_ms=slo)
        result = summarise_records(facts, records, classes)
    show_result(result, rows, as_json=as_json)
