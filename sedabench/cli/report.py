"""`sedabench report RUN_DIR...`: one HTML page.  How it is made is told in `sedabench.report`."""

from __future__ import annotations

from pathlib import Path

import click

from loadgen.output import tell
from sedabench.cli.notes import say_note


@click.command(short_help="Make one HTML page of runs: sedabench report RUN_DIR.")
@click.argument("folders", metavar="RUN_DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))  # fmt: skip  # noqa: E501
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html", help="Where to write the page. An older report is replaced, any other file is refused.  [default: report.html in RUN_DIR; for several runs in the current folder]")  # fmt: skip  # noqa: E501
def report(folders: tuple[Path, ...], out: Path | None) -> None:
    """Make one self-contained HTML page of a run: found, figures, trials, validity, machine.

    The page needs no network. Its figures show values under the pointer and
    can be zoomed, its table of trials can be sorted and filtered; it reads on
    a phone and in print. Several runs become sections of one page.

    \b
    Examples:
      sedabench report results/reference/figure1 --out figure1.html
      sedabench report results/reference/figure1 results/reference/overload/dynamic
      sedabench report results/quick/2026-01-31T12-00-00Z      # a suite: all its runs
    """
    from sedabench.report import write

    tell(str(write(folders, out, say_note)))
