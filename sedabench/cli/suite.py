"""`sedabench run SUITE.toml` and `sedabench run --resume DIR`: plan, progress, one summary.

What a suite may say is told in `sedabench.suites.file`, how it is carried out in
`sedabench.suites.carry_out`.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.output import tell
from sedabench.errors import UserError
from sedabench.progress import about

if TYPE_CHECKING:
    from rich.console import Console

    from sedabench.suites.carry_out import SuiteOutcome
    from sedabench.suites.file import Suite

METAVAR = "SUITE.toml"


def names_suite(word: str) -> bool:
    """Whether a word behind `sedabench run` is a file rather than an experiment."""
    return word.endswith(".toml") or "/" in word


@click.command(short_help="Run the experiments of a TOML file.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The suite's folder, new or empty.  [default: ./results/NAME/<UTC time>]")  # fmt: skip  # noqa: E501
@click.option("--resume", "resumed", type=click.Path(path_type=Path), metavar="DIR", help="Finish an interrupted suite; the same as sedabench run --resume DIR.")  # fmt: skip  # noqa: E501
@click.option("--check", is_flag=True, help="Check the file, print plan and time estimate; start no server, measure nothing.")  # fmt: skip  # noqa: E501
@click.pass_context
def suite(ctx: click.Context, /, out: Path | None, resumed: Path | None, check: bool) -> None:
    """Run the experiments of a suite, one after another, into one folder.

    A suite is a TOML file: a list of runs, each an experiment and its
    settings. All of it is checked before the first trial. Ctrl-C keeps what is
    finished; --resume does the rest. docs/suites.md has every key.

    \b
    Examples:
      sedabench run suites/quick.toml
      sedabench run suites/paper.toml --check
      sedabench run --resume results/quick/2026-01-31T12-00-00Z
    """
    from sedabench.progress import standard_output
    from sedabench.results.folder import new_folder_path
    from sedabench.suites.carry_out import start
    from sedabench.suites.file import SUITE, read

    path = Path(str(ctx.info_name))
    if resumed is not None:
        if out is not None or check:
            raise UserError("--resume takes no other option; its folder says the rest")
        if (resumed / SUITE).exists() and path.read_bytes() != (resumed / SUITE).read_bytes():
            raise UserError(
                f"{path} is not, or no longer, the suite of {resumed}; continue that with: "
                f"sedabench run --resume {_word(resumed)}"
            )
        take_up(resumed)
        return
    asked = read(path)
    console = standard_output()
    show_plan(asked, console)
    if check:
        return
    folder = out if out is not None else new_folder_path(Path("results"), asked.name)
    _report(asked, folder, start(asked, folder, console), console)


def take_up(folder: Path) -> None:
    """Finish an interrupted suite and report on all of it.

    Raises:
        UserError: it is not the folder of a suite, or the suite cannot be carried out here.
    """
    from sedabench.progress import standard_output
    from sedabench.suites.carry_out import left_s, reopen, resume

    console = standard_output()
    asked, record = reopen(folder)
    if left := left_s(asked, folder):
        click.echo(f"suite {asked.name}: {about(left)} left to measure")
    _report(asked, folder, resume(asked, record, folder, console), console)


def show_plan(asked: Suite, console: Console) -> None:
    """What will be run, and how long it will take."""
    table = _table("run", "experiment", "servers", "!trials", "!about")
    for run in asked.runs:
        servers = ", ".join(spec.label for spec in run.config.servers)
        table.add_row(
            run.name, run.experiment.name, servers, str(run.trials), about(run.estimate_s)
        )
    console.print(table)
    trials = sum(run.trials for run in asked.runs)
    runs = f"{len(asked.runs)} run{'s' if len(asked.runs) > 1 else ''}"
    total_s = sum(run.estimate_s for run in asked.runs)
    click.echo(f"suite {asked.name}: {runs}, {trials} trials, about {about(total_s)}")


def _report(asked: Suite, folder: Path, outcome: SuiteOutcome, console: Console) -> None:
    """What was found in each run, then the table of runs and, last, where it all is."""
    from sedabench.api import findings
    from sedabench.results.folder import load_run

    for state in outcome.runs:
        if state.finished and state.status != "failed":
            run = load_run(folder / state.name)
            click.echo(f"\n{state.name}")
            for text in (*findings(run), *map(_warning, run.manifest.get("warnings") or ())):
                console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)
    table = _table("run", "status", "!trials", "!valid", "folder")
    for state in outcome.runs:
        where = str(folder / state.name) if state.finished else "-"
        counted = f"{state.finished}/{state.trials}"
        table.add_row(state.name, state.status, counted, str(state.valid), where)
    console.print(table)
    if outcome.signum is not None:
        finished = sum(state.finished for state in outcome.runs)
        trials = sum(state.trials for state in outcome.runs)
        tell(
            f"interrupted: {finished} of {trials} trials are kept; finish with: "
            f"sedabench run --resume {_word(folder)}"
        )
        sys.exit(128 + outcome.signum)
    if outcome.failed:
        first = outcome.failed[0]
        others = f" (and {len(outcome.failed) - 1} more)" if len(outcome.failed) > 1 else ""
        raise UserError(
            f"run {first.name!r} of suite {asked.name} failed{others}: {first.error}; "
            f"when that is mended: sedabench run --resume {_word(folder)}"
        )
    page = f"sedabench report {_word(folder)} --out report.html"
    tell(f"{folder}  (one page of it: {page})")


def _word(path: Path) -> str:
    """A path as it can be pasted into a shell."""
    return shlex.quote(str(path))


def _warning(text: Any) -> str:
    return f"warning: {text}"


def _table(*headings: str) -> Any:
    """A table; a heading after "!" is that of a column of numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in headings:
        number = heading.startswith("!")
        table.add_column(
            heading.lstrip("!"), justify="right" if number else "left",
            no_wrap=heading != "servers", overflow="fold",
        )  # fmt: skip
    return table
