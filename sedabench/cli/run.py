"""`sedabench run EXPERIMENT|SUITE.toml`: what is named becomes a command.

An experiment's command is made of its settings (`cli.options`) when it is
asked for; suites are in `cli.suite`.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click
from click.shell_completion import CompletionItem

from sedabench.cli.run_shared import carry_out, finish
from sedabench.cli.suite import names_suite, suite, take_up
from sedabench.errors import UserError, unknown


class _Experiments(click.Group):
    """A group whose names are experiments, ours or in a file, and suites."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from sedabench.experiments.registry import runnable_names

        return runnable_names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from sedabench.experiments.registry import EXPERIMENTS, find, is_own

        if is_own(name) or (name in EXPERIMENTS and find(name).command is None):
            return _Command(name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if names_suite(name):
                return name, suite, args[1:]
            raise _unknown(name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "EXPERIMENT|FILE.py:CLASS|SUITE.toml [OPTIONS]")
        formatter.write_usage(ctx.command_path, "--resume DIR", prefix="       ")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from sedabench.suites.file import known_suites

        files = [CompletionItem(path) for path in known_suites() if path.startswith(incomplete)]
        return super().shell_complete(ctx, incomplete) + files


class _Command(click.Command):
    """What runs one experiment; errors in its options are told in their names."""

    def __init__(self, name: str) -> None:
        from sedabench.cli.options import in_options, options
        from sedabench.experiments.registry import runnable

        self.experiment = runnable(name)
        self._in_options = in_options
        super().__init__(
            name, params=options(self.experiment), callback=self._run, help=self._help(),
            short_help=self.experiment.summary,
        )  # fmt: skip

    def make_context(self, *arguments: Any, **more: Any) -> click.Context:
        with self._in_options(self.experiment.Settings):
            return super().make_context(*arguments, **more)

    def _run(self, **given: Any) -> None:
        with self._in_options(self.experiment.Settings):
            carry_out(click.get_current_context(), self.experiment, **given)

    def _help(self) -> str:
        if self.experiment.help:
            return self.experiment.help
        text = (type(self.experiment).__doc__ or self.experiment.summary).strip()
        return f"{text}\n\n\b\nExample:\n  sedabench run {self.experiment.where} --quick"


def _unknown(name: str, experiments: list[str]) -> UserError:
    from sedabench.experiments.registry import EXPERIMENTS, runnable
    from sedabench.suites.file import known_suites

    if name in EXPERIMENTS:
        runnable(name)  # says which command of its own it has
    for path in (*known_suites(), *map(str, Path().glob("*.toml"))):
        if Path(path).stem == name:
            return UserError(
                f"{name!r} is a suite, named by its file: sedabench run {quote(str(path))}"
            )
    return unknown("experiment", name, experiments)


@click.group(
    cls=_Experiments,
    invoke_without_command=True,
    no_args_is_help=True,
    short_help="Run an experiment or a suite: sedabench run figure1 --quick.",
)
@click.option("--resume", "resumed", type=click.Path(path_type=Path), metavar="DIR", help="Finish an interrupted suite, or a run of any experiment, with its own settings.")  # fmt: skip  # noqa: E501
@click.pass_context
def run(ctx: click.Context, resumed: Path | None) -> None:
    """Run an experiment: a sweep of trials, kept in a folder, drawn as a figure.

    One of your own is a class in a file (docs/extending.md). Or a suite: the
    experiments of a TOML file, one after another (docs/suites.md; sedabench
    list names those that are there).

    \b
    Examples:
      sedabench run figure1 --quick
      sedabench run overload --quick
      sedabench run figure1 --help
      sedabench run examples/own_experiment.py:Work --quick
      sedabench run suites/quick.toml
      sedabench run --resume results/quick/2026-01-31T12-00-00Z
    """
    if resumed is None:
        return
    if ctx.invoked_subcommand is not None:
        raise UserError(f"--resume takes nothing else; leave out {ctx.invoked_subcommand}")
    from sedabench.suites.carry_out import is_suite_folder

    if is_suite_folder(resumed):
        take_up(resumed)
    else:
        finish(resumed)
