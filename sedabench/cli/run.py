"""`sedabench run EXPERIMENT|SUITE.toml`: options to settings.

HTTP experiments are in `cli_run_http`, suites in `cli_suite`.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click
from click.shell_completion import CompletionItem

from sedabench.cli import completion
from sedabench.cli.run_http import overload, peers
from sedabench.cli.run_shared import carry_out, finish, levels, settings_options
from sedabench.cli.suite import names_suite, suite, take_up
from sedabench.errors import UserError, unknown


class _Experiments(click.Group):
    """A group whose unknown names are unknown experiments, and whose file names are suites."""

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
        formatter.write_usage(ctx.command_path, "EXPERIMENT|SUITE.toml [OPTIONS]")
        formatter.write_usage(ctx.command_path, "--resume DIR", prefix="       ")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from sedabench.experiments.suite import known_suites

        files = [CompletionItem(path) for path in known_suites() if path.startswith(incomplete)]
        return super().shell_complete(ctx, incomplete) + files


def _unknown(name: str, experiments: list[str]) -> UserError:
    from sedabench.experiments.suite import known_suites

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

    Or a suite: the experiments of a TOML file, one after another
    (docs/suites.md; sedabench list names those that are there).

    \b
    Examples:
      sedabench run figure1 --quick
      sedabench run overload --quick
      sedabench run figure1 --help
      sedabench run suites/quick.toml
      sedabench run --resume results/quick/2026-01-31T12-00-00Z
    """
    if resumed is None:
        return
    if ctx.invoked_subcommand is not None:
        raise UserError(f"--resume takes nothing else; leave out {ctx.invoked_subcommand}")
    from sedabench.experiments.suite_run import is_suite_folder

    if is_suite_folder(resumed):
        take_up(resumed)
    else:
        finish(resumed)


@run.command(short_help="Bandwidth of bursts against connections (the paper's Figure 1).")
@click.option("--quick", is_flag=True, help="1, 16, 64, 256, 1024 connections, 2 repeats, windows of 1 s: under 90 s. Without it 1, 2, 4, ... 8192, 5 repeats, windows of 3 s: 25 minutes.")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, shell_complete=completion.servers, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare, one of your own as path/to/file.py:ClassName; repeat it. A bare name takes the paper's settings ('threaded' is 'threaded --writers 120 --blocking-writers').  [default: threaded, eventloop, seda]")  # fmt: skip  # noqa: E501
@click.option("--connections", callback=levels, metavar="N,N,...", help="The levels.")
@click.option("--packets", type=click.IntRange(min=1), help="Packets in a burst.  [default: 1000]")
@click.option("--packet-bytes", type=click.IntRange(min=1), help="Bytes in a packet.  [default: 8192]")  # fmt: skip  # noqa: E501
@settings_options(
    "figure1",
    "Warm-up before it, in seconds; to it is added a second for every 512 connections, 8 at most, "
    "while kernel buffers fill.  [default: 1; 0.3 with --quick]",
)
@click.pass_context
def figure1(
    ctx: click.Context,
    /,
    quick: bool,
    servers: tuple[str, ...],
    out: Path | None,
    resumed: Path | None,
    **settings: Any,
) -> None:
    """Bandwidth of bursts against the number of connections: the paper's Figure 1.

    Every trial starts a fresh server and a fresh load generator on cores of
    their own. Trials run in a random order drawn from --seed. Ctrl-C keeps
    what is finished; --resume does the rest.

    \b
    Examples:
      sedabench run figure1 --quick
      sedabench run figure1 --connections 1,64,512 --repeats 3 --duration 2
      sedabench run figure1 --quick --server eventloop --server 'eventloop --poller poll'
      sedabench run figure1 --quick --server 'paper=threaded --writers 120 --blocking-writers' \\
                                    --server 'plain=threaded --writers 0'
      sedabench run figure1 --resume results/figure1/2026-01-31T12-00-00Z

    In the folder: figure.png, figure.svg, trials.csv (a row a trial) and
    manifest.json (machine, versions, settings). From Python:
    sedabench.load_run(DIR).trials is a pandas DataFrame.
    """
    carry_out(ctx, "figure1", out, resumed, settings, quick=quick, servers=servers)


run.add_command(overload)
run.add_command(peers)
