"""The command `load`: one subcommand a workload, mounted as `sedabench load` too.

Only options, words and exit statuses live here; each workload's engine is
imported when it is run, so that `--help` and completion stay quick.

Exit statuses: 0 measured (valid or not: the result says), 1 a --fail-if holds, 2 nothing could be
measured, with one line on stderr that says why, or the result could not be written to standard
output and is on stderr, 130 interrupted, 141 nobody reads standard output.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import click

from loadgen.interruption import number_of
from loadgen.output import NOBODY_READS, lost, tell, visible

if TYPE_CHECKING:
    from loadgen.cli.judging import Condition

Said: TypeAlias = dict[str, Any]
"""A result as it is in JSON."""


def _one_line(context: click.Context, error: click.UsageError) -> None:
    """Print `error: ...` and exit 2; click's own way takes four lines to say one thing."""
    what = visible(" ".join(error.format_message().split())).rstrip(".")
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
    epilog="""\b
Examples, each with its server in another terminal:
  sedabench load http --target http://127.0.0.1:8080/healthz --rate 1000
  sedabench load burst --target 127.0.0.1:8080 --connections 64""",
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
    help="Exit status 1 if it holds: 'p99>50ms', 'errors>1%', invalid. May be repeated.",
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
    from loadgen.burst.loop import run
    from loadgen.burst.run import BurstConfig
    from loadgen.cli.judging import parse_condition
    from loadgen.net.targets import resolve

    with one_line(context):
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
    show(result, _rows, as_json=as_json, events=events)
    fail_if(context, asked, result.to_json())


@contextmanager
def one_line(context: click.Context) -> Iterator[None]:
    """What a user can cause, Ctrl-C included, ends the command with one line on stderr."""
    from loadgen.net.targets import LoadError

    try:
        yield
    except LoadError as error:
        click.echo(f"error: {visible(str(error))}", err=True)
        context.exit(2)
    except KeyboardInterrupt as stop:
        click.echo("interrupted: nothing of what was measured is kept", err=True)
        context.exit(128 + number_of(stop))


class Result(Protocol):
    """Of any workload."""

    def to_json(self, *, timeline: bool = False) -> Said: ...


def show(
    result: Result,
    rows: Callable[[Said], Iterable[tuple[str, str]]],
    *,
    as_json: bool,
    events: bool = False,
) -> None:
    """Print a result: as the last event, as a line of JSON, or as a table of `rows` for people."""
    if events:
        print_json({"event": "result"} | result.to_json(timeline=True))
        return
    said = result.to_json()
    if as_json:
        print_json(said)
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{said['workload']} on {said['target']}"
    table = Table(title=visible(title), show_header=False, title_justify="left")
    for name, value in rows(said):
        table.add_row(name, visible(value))
    reasons = visible("; ".join(said["invalid_reasons"]))
    table.add_row("valid", "yes" if said["valid"] else f"NO: {reasons}")
    console = Console(markup=False, emoji=False)
    with console.capture() as shown:
        console.print(table)
        for warning in said["warnings"]:
            console.print(visible(f"warning: {warning}"), highlight=False)
    tell(shown.get().rstrip("\n"))


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
    """A line of JSON; whoever asked for events and no longer reads them needs no result."""
    print(json.dumps({"event": name, "t_ns": t_ns}), flush=True)
    if (failed := lost()) is not None and failed.errno == errno.EPIPE:
        raise SystemExit(NOBODY_READS)


def print_json(what: Said) -> None:
    tell(json.dumps(what))


def _rows(said: Said) -> Iterator[tuple[str, str]]:
    latency = said["ack_latency_us"]
    found = [
        f"{name} {latency[name]:,.0f}"
        for name in ("p50", "p90", "p99", "max")
        if latency["samples"]
    ]
    errors = [f"{kind} {n}" for kind, n in said["errors"].items() if n]
    fairness = said["jain_fairness"]
    yield "bandwidth", f"{said['bandwidth_bps'] / 1e9:.3f} Gbit/s"
    yield "connections", f"{said['connected']} of {said['connections']}"
    yield "window", f"{said['duration_s']:.3f} s after {said['warmup_s']:g} s warm-up"
    yield "bytes", f"{said['bytes']:,}"
    yield "bursts", f"{said['bursts']:,} ({said['bursts_per_s']:,.1f}/s)"
    yield "ACK latency, us", ", ".join(found) or "-"
    yield "fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"
    yield "errors", ", ".join(errors) or "none"
    yield "client CPU", f"{said['client_cpu']:.0%} of a core"


from loadgen.cli import http  # noqa: E402, F401  (mounts `load http`)
