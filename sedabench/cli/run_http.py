"""`sedabench run overload` and `run peers`: options to settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click

from sedabench.cli import completion
from sedabench.cli.run_shared import carry_out, levels, settings_options
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


class _WithDefaults(click.Command):
    """Its help ends each option that is a setting with the defaults that the settings have."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = copy.copy(self)
        shown.params = [_with_default(param, str(self.name)) for param in self.params]
        click.Command.format_options(shown, ctx, formatter)


def _with_default(param: click.Parameter, experiment: str) -> click.Parameter:
    """The option with "[default: FULL; QUICK with --quick]" unless its help says it."""
    from sedabench.experiments.settings import kind_of, types_of

    if not isinstance(param, click.Option) or param.name not in types_of(experiment):
        return param
    config = kind_of(experiment).config
    full, quick = (_written(getattr(make(), param.name)) for make in (config.full, config.quick))
    if not full or "[default" in (param.help or ""):
        return param
    text = full if quick == full else f"{full}; {quick} with --quick"
    param = copy.copy(param)
    param.help = f"{param.help}  [default: {text}]"
    return param


def _written(value: Any) -> str:
    """A setting as a person writes it behind its option; "" when there is none."""
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else str(value or "")


@click.command(
    cls=_WithDefaults,
    short_help="Throughput, goodput, latency when more is asked for than can be done.",
)
@click.option("--quick", is_flag=True, help="Few loads and repeats, short windows: under a minute a server. Without it seven minutes a server.")  # fmt: skip  # noqa: E501
@click.option("--workload", metavar="NAME", help="dynamic: 300 us of computing; mixed: 70 % cached files, 20 % behind a modelled disk, 10 % 1 ms of computing; static: SPECweb99's files.")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, shell_complete=completion.servers, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare, one of your own as path/to/file.py:ClassName; repeat it. A bare 'seda' gets options that suit workload and SLO; the manifest has them. nginx and others that are not ours take no options.  [default: threaded, eventloop, seda; with static also nginx and every apache-... that is installed, with --quick of these nginx and apache-event]")  # fmt: skip  # noqa: E501
@click.option("--definitions", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with further servers: for --server, or without it compared beside the default where they offer the workload; repeat it.")  # fmt: skip  # noqa: E501
@click.option("--load", "loads", callback=_loads, metavar="L,L,...", help="Offered loads, as multiples of the capacity.")  # fmt: skip  # noqa: E501
@click.option("--slo", "slo_ms", type=click.FloatRange(min=0, min_open=True), metavar="MS", help="Latency within which an answer counts for goodput.")  # fmt: skip  # noqa: E501
@click.option("--connections", type=click.IntRange(min=1), metavar="N", help="Connections under open loop.")  # fmt: skip  # noqa: E501
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="S", help="A request that waits longer is given up.")  # fmt: skip  # noqa: E501
@settings_options("overload", "Warm-up before it, in seconds.")
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
      sedabench run overload --quick --workload static --definitions mine.toml
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


@click.command(
    cls=_WithDefaults,
    short_help="Throughput of static files beside nginx, Apache httpd and others.",
)
@click.option("--quick", is_flag=True, help="Few levels and repeats, short windows: two minutes. Without it 20 minutes.")  # fmt: skip  # noqa: E501
@click.option("--server", "servers", multiple=True, shell_complete=completion.servers, metavar="[LABEL=]NAME [OPTIONS]", help="A server to compare, one of your own as path/to/file.py:ClassName; repeat it.  [default: our architectures and every other that is installed]")  # fmt: skip  # noqa: E501
@click.option("--definitions", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with further servers: for --server, or without it compared beside the default; repeat it.")  # fmt: skip  # noqa: E501
@click.option("--connections", callback=levels, metavar="N,N,...", help="The levels.")
@settings_options("peers", "Warm-up before it, in seconds.")
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
