"""The command `load`: one subcommand a workload, mounted as `sedabench load` too.

Only options, words and exit statuses live here; each workload's engine is
imported when it is run, so that `--help` and completion stay quick.

Exit statuses: 0 measured (valid or not: the result says), 1 a --fail-if holds, 2 nothing could be
measured, with one line on stderr that says why, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadgen.burst_run import BurstResult
    from loadgen.judge import Condition


def _one_line(context: click.Context, error: click.UsageError) -> None:
    """Print `error: ...` and exit 2; click's own way takes four lines to say one thing."""
    what = " ".join(error.format_message().split()).rstrip(".")
    click.echo(f"error: {what}; see `{context.command_path} --help`", err=True)
    context.exit(2)


class OneLine(click.Command):
    """Its mistakes are one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _one_line(ctx, error)
            raise


class _Group(OneLine, click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            _one_line(ctx, error)
            raise


@click.group(
    "load",
    cls=_Group,
    epilog="Example: sedabench load burst --target 127.0.0.1:8080 --connections 64",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def load() -> None:
    """Load a server that already runs, and say what it carried.

    Each WORKLOAD is a command with its own --help.
    """


@load.command(
    "burst",
    cls=OneLine,
    epilog="""\b
Example, with a server in another terminal:
  python -m servers eventloop --service burst --port 8080
  sedabench load burst --target 127.0.0.1:8080 --connections 64 --duration 5

Bandwidth counts the bytes that the kernel took from this process inside the
window. With many connections a longer --warmup is needed: until all socket
buffers are full, bytes flow that no server has read.""",
)
@click.option("--target", required=True, metavar="HOST:PORT", help="Server to load; [::1]:80 too.")
@click.option("--connections", default=64, show_default=True, help="How many at once.")
@click.option(
    "--duration", default=5.0, show_default=True, metavar="S", help="Seconds in the window."
)
@click.option(
    "--warmup",
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds at full load before the window, not counted.",
)
@click.option(
    "--packet-bytes", default=8192, show_default=True, help="Bytes of a packet: one write each."
)
@click.option("--packets", default=1000, show_default=True, help="Packets of a burst: one ACK.")
@click.option(
    "--connect-rate",
    default=5000.0,
    show_default=True,
    metavar="R",
    help="Connections begun per second, at most.",
)
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    metavar="S",
    help="A connection without any progress for this long is given up.",
)
@click.option(
    "--send-buffer",
    type=int,
    metavar="BYTES",
    help="SO_SNDBUF of each connection; 0 leaves it to the kernel.  "
    "[default: 131072, less beyond 8192 connections]",
)
@click.option(
    "--coalesce/--no-coalesce",
    default=True,
    show_default=True,
    help="Let the kernel join packets into full segments (MSG_MORE), or push each by itself.",
)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="EXPR",
    help="Exit status 1 if it holds: 'p99>50ms', 'errors>1%'. May be repeated.",
)
@click.option("--allow-remote", is_flag=True, help="Allow a target that is not this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option(
    "--events",
    is_flag=True,
    help="Print a line of JSON as the connections are up, as the window begins and ends, "
    "and for the result with its timeline.",
)
@click.option(
    "--tail",
    type=float,
    metavar="S",
    help="Seconds of full load after the window, not counted.  [default: 0; 0.5 with --events]",
)
@click.pass_context
def burst(
    context: click.Context,
    target: str,
    connections: int,
    duration: float,
    warmup: float,
    packet_bytes: int,
    packets: int,
    connect_rate: float,
    timeout: float,
    send_buffer: int | None,
    coalesce: bool,
    allow_remote: bool,
    as_json: bool,
    events: bool,
    tail: float | None,
    conditions: tuple[str, ...],
) -> None:
    """Closed loop: bursts of packets, each answered by one 32-byte ACK.

    Every connection sends --packets writes of --packet-bytes, waits for the
    ACK, and begins again.  None starts before all are up.
    """
    from loadgen.burst import run
    from loadgen.burst_run import BurstConfig
    from loadgen.judge import parse_condition
    from loadgen.target import LoadError, resolve

    try:
        asked = [parse_condition(text, "burst") for text in conditions]
        config = BurstConfig(
            target=resolve(target, allow_remote=allow_remote),
            connections=connections,
            duration_s=duration,
            warmup_s=warmup,
            packet_bytes=packet_bytes,
            packets=packets,
            connect_rate=connect_rate,
            timeout_s=timeout,
            send_buffer_bytes=send_buffer,
            coalesce=coalesce,
            tail_s=(0.5 if events else 0.0) if tail is None else tail,
        )
        result = run(config, print_event if events else None)
    except LoadError as error:
        click.echo(f"error: {error}", err=True)
        context.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing measured", err=True)
        context.exit(130)
    if events:
        print_json({"event": "result"} | result.to_json(timeline=True))
    elif as_json:
        print_json(result.to_json())
    else:
        _print_table(result)
    fail_if(context, asked, result.to_json())


def fail_if(
    context: click.Context, conditions: Sequence[Condition], result: Mapping[str, Any]
) -> None:
    """Say which conditions hold; exit status 1 if one does."""
    broken = [why for condition in conditions if (why := condition.broken_by(result))]
    for why in broken:
        click.echo(f"failed: {why}", err=True)
    if broken:
        context.exit(1)


def print_event(name: str, t_ns: int) -> None:
    print_json({"event": name, "t_ns": t_ns})


def print_json(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _print_table(result: BurstResult) -> None:
    from rich.console import Console
    from rich.table import Table

    latency = result.ack_latency_us
    found = [
        f"{name} {latency[name]:,.0f}"
        for name in ("p50", "p90", "p99", "max")
        if latency["samples"]
    ]
    errors = [f"{kind} {n}" for kind, n in result.errors.items() if n]
    fairness = result.jain_fairness
    table = Table(title=f"burst on {result.target}", show_header=False, title_justify="left")
    for name, value in (
        ("bandwidth", f"{result.bandwidth_bps / 1e9:.3f} Gbit/s"),
        ("connections", f"{result.connected} of {result.connections}"),
        ("window", f"{result.duration_s:.3f} s after {result.warmup_s:g} s warm-up"),
        ("bytes", f"{result.bytes:,}"),
        ("bursts", f"{result.bursts:,} ({result.bursts_per_s:,.1f}/s)"),
        ("ACK latency, us", ", ".join(found) or "-"),
        ("fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"),
        ("errors", ", ".join(errors) or "none"),
        ("client CPU", f"{result.client_cpu:.0%} of a core"),
        ("valid", "yes" if result.valid else "NO: " + "; ".join(result.invalid_reasons)),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table, markup=False)
    for warning in result.warnings:
        console.print(f"warning: {warning}", markup=False, highlight=False)


from loadgen import cli_http  # noqa: E402, F401  (mounts `load http`)
