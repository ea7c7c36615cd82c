"""`sedabench run EXPERIMENT`: options to settings.  HTTP experiments are in `cli_run_http`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sedabench.cli_run_http import overload, peers
from sedabench.cli_run_shared import carry_out, levels, settings_options
from sedabench.errors import unknown


class _Experiments(click.Group):
    """A group whose unknown names are unknown experiments."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise unknown("experiment", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=_Experiments, short_help="Run an experiment: sedabench run figure1 --quick.")
def run() -> None:
    """Run an experiment: a sweep of trials, kept in a folder, drawn as a figure.

    \b
    Examples:
      sedabench run figure1 --quick
      sedabench run overload --quick
      sedabench run figure1 --help
    """


@run.command(short_help="Bandwidth of bursts against connections (the paper's Figure 1).")
@click.option("--quick", is_flag=True, help="1, 16, 64, 256, 1024 connections, 2 repeats, windows of 1 s: under 90 s. Without it 1, 2, 4, ... 8192, 5 repeats, windows of 3 s: 25 minutes.")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare; repeat it. A bare name takes the paper's settings ('threaded' is 'threaded --writers 120').  [default: threaded, eventloop, seda]")  # fmt: skip  # noqa: E501
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
      sedabench run figure1 --quick --server 'paper=threaded --writers 120' \\
                                    --server 'plain=threaded --writers 0'
      sedabench run figure1 --resume results/figure1/2026-01-31T12-00-00Z

    In the folder: figure.png, figure.svg, trials.csv (a row a trial) and
    manifest.json (machine, versions, settings). From Python:
    sedabench.load_run(DIR).trials is a pandas DataFrame.
    """
    carry_out(ctx, "figure1", out, resumed, settings, quick=quick, servers=servers)


run.add_command(overload)
run.add_command(peers)
