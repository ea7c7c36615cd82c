"""`sedabench run overload` and `run peers`: options to settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sedabench import completion
from sedabench.cli_run_shared import carry_out, levels, settings_options
from sedabench.errors import UserError


def _loads(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """ "0.5,1,2" as a tuple of numbers, ascending."""
    if text is None:
        return None
    try:
        return tuple(sorted(float(part) for part in text.split(",")))
    except ValueError:
        raise UserError(f"loads must be numbers, not {text!r}; write --load 0.5,1,2") from None


@click.command(short_help="Throughput, goodput, latency when more is asked for than can be done.")
@click.option("--quick", is_flag=True, help="6 loads, 2 repeats, windows of 1.2 s: under three minutes. Without it 11 loads, 5 repeats, windows of 3 s: 20 minutes.")  # fmt: skip  # noqa: E501
@click.option("--workload", metavar="NAME", help="dynamic: 300 us of computing; mixed: 70 % cached files, 20 % behind a modelled disk, 10 % 1 ms of computing; static: SPECweb99's files.  [default: dynamic]")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, shell_complete=completion.servers, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare, one of your own as path/to/file.py:ClassName; repeat it. A bare 'seda' gets queues of 64, batches of 32 and an admission target of 0.8 of the SLO. nginx and others that are not ours take no options.  [default: threaded, eventloop, seda]")  # fmt: skip  # noqa: E501
@click.option("--definitions", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with further servers for --server; repeat it.")  # fmt: skip  # noqa: E501
@click.option("--load", "loads", callback=_loads, metavar="L,L,...", help="Offered loads, as multiples of the capacity.")  # fmt: skip  # noqa: E501
@click.option("--slo", "slo_ms", type=click.FloatRange(min=0, min_open=True), metavar="MS", help="Latency within which an answer counts for goodput.  [default: 100]")  # fmt: skip  # noqa: E501
@click.option("--connections", type=click.IntRange(min=1), metavar="N", help="Connections under open loop.  [default: 1024]")  # fmt: skip  # noqa: E501
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="S", help="A request that waits longer is given up.  [default: 1]")  # fmt: skip  # noqa: E501
@settings_options("overload", "Warm-up before it, in seconds.  [default: 2; 0.6 with --quick]")
@click.pass_context
def overload(
    ctx: click.Context,
    /,
    quick: bool,
    servers: tuple[str, ...],
    definitions: tuple[Path, ...],
    out: Path | None,
    resumed: Path | None,
    **settings: Any,
) -> None:
    """What servers do when more is asked for than they can do.

    Finds the capacity (closed loop, the highest of all servers), offers 0.25 to
    3 times of it with Poisson arrivals, and ends with a spike: half the
    capacity, twice, half again. Ctrl-C keeps what is finished; --resume does
    the rest.

    \b
    Examples:
      sedabench run overload --quick
      sedabench run overload --workload mixed
      sedabench run overload --quick --load 0.9,2 --slo 50
      sedabench run overload --quick --server seda \\
                             --server 'open=seda --no-admission-controller --queue-policy block'
      sedabench run overload --workload static --server threaded --server nginx
      sedabench run overload --resume results/overload/2026-01-31T12-00-00Z

    In the folder: figures (PNG and SVG), trials.csv (a row a trial), trials/
    (what both sides said, with timelines) and manifest.json.
    """
    carry_out(
        ctx, "overload", out, resumed, settings, quick=quick, servers=servers,
        definitions=definitions,
    )  # fmt: skip


@click.command(short_help="Throughput of static files beside nginx, Apache httpd and others.")
@click.option("--quick", is_flag=True, help="64 and 1024 connections, 2 repeats, windows of 1 s: two minutes. Without it 1, 16, 64, 256, 1024, 5 repeats, windows of 3 s: 20 minutes.")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, shell_complete=completion.servers, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare, one of your own as path/to/file.py:ClassName; repeat it.  [default: our architectures and every other that is installed]")  # fmt: skip  # noqa: E501
@click.option("--definitions", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with further servers; they are compared too. Repeat it.")  # fmt: skip  # noqa: E501
@click.option("--connections", callback=levels, metavar="N,N,...", help="The levels.")
@settings_options("peers", "Warm-up before it, in seconds.  [default: 1; 0.5 with --quick]")
@click.pass_context
def peers(
    ctx: click.Context,
    /,
    quick: bool,
    servers: tuple[str, ...],
    definitions: tuple[Path, ...],
    out: Path | None,
    resumed: Path | None,
    **settings: Any,
) -> None:
    """Closed-loop throughput of SPECweb99's files, ours beside servers nobody here wrote.

    \b
    Examples:
      sedabench run peers --quick
      sedabench run peers --server seda --server nginx --connections 64
      sedabench run peers --definitions mine.toml
    """
    carry_out(
        ctx, "peers", out, resumed, settings, quick=quick, servers=servers, definitions=definitions
    )
