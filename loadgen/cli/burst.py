"""`load burst`: options, and the rows of its table."""

from __future__ import annotations

from collections.abc import Iterator

import click

from loadgen.cli.command import OneLineCommand, one_line_errors
from loadgen.cli.conditions import parse_condition
from loadgen.cli.result import Summary, fail_if, print_event, show_result


@click.command(
    "burst",
    cls=OneLineCommand,
    epilog="""\b
Example, with a server in another terminal:
  python -m servers eventloop --service burst --port 8080
  sedabench load burst --target 127.0.0.1:8080 --connections 64 --duration 5

Bandwidth counts the bytes that the kernel accepted from this process within the
window. With many connections a longer --warmup is needed: until all socket
buffers are full, bytes flow that no server has read.""",
)
@click.option(
    "--target", required=True, metavar="HOST:PORT", help="Server to load; IPv6 as in [::1]:80."
)
@click.option("--connections", default=64, show_default=True, help="Concurrent connections.")
@click.option(
    "--duration",
    default=5.0,
    show_default=True,
    metavar="S",
    help="Length of the measured window in seconds.",
)
@click.option(
    "--warmup",
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds at full load before the window, not counted.",
)
@click.option(
    "--packet-bytes", default=8192, show_default=True, help="Bytes per packet (one write)."
)
@click.option("--packets", default=1000, show_default=True, help="Packets per burst (one ACK).")
@click.option(
    "--connect-rate",
    default=5000.0,
    show_default=True,
    metavar="R",
    help="Maximum connections opened per second.",
)
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds without progress after which a connection is given up.",
)
@click.option(
    "--send-buffer",
    type=int,
    metavar="BYTES",
    help="SO_SNDBUF of each connection; 0 leaves it to the kernel.  "
    "[default: 131072, less with over 8192 connections]",
)
@click.option(
    "--coalesce/--no-coalesce",
    default=True,
    show_default=True,
    help="Let the kernel join packets into full segments (MSG_MORE), or push each on its own.",
)
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="EXPR",
    help="Exit with status 1 if this holds: 'p99>50ms', 'errors>1%', invalid. Repeatable.",
)
@click.option("--allow-remote", is_flag=True, help="Allow a target on another machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option(
    "--events",
    is_flag=True,
    help="Print a line of JSON once connected, when the window begins and ends, "
    "and for the result with its timeline.",
)
@click.option(
    "--tail",
    type=float,
    metavar="S",
    help="Seconds at full load after the window, not counted.  [default: 0; 0.5 with --events]",
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

    Every connection sends --packets packets of --packet-bytes, waits for the
    ACK, and starts again.  None starts before all are connected.
    """
    from loadgen.burst.config import BurstConfig
    from loadgen.burst.loop import run
    from loadgen.net.targets import resolve

    with one_line_errors(context):
        failing = [parse_condition(text, "burst") for text in conditions]
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
    show_result(result, _rows, as_json=as_json, events=events)
    fail_if(context, failing, result.to_json())


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    latency = summary["ack_latency_us"]
    found = [
        f"{name} {latency[name]:,.0f}"
        for name in ("p50", "p90", "p99", "max")
        if latency["samples"]
    ]
    errors = [f"{kind} {n}" for kind, n in summary["errors"].items() if n]
    fairness = summary["jain_fairness"]
    yield "bandwidth", f"{summary['bandwidth_bps'] / 1e9:.3f} Gbit/s"
    yield "connections", f"{summary['connected']} of {summary['connections']}"
    yield "window", f"{summary['duration_s']:.3f} s after {summary['warmup_s']:g} s warm-up"
    yield "bytes", f"{summary['bytes']:,}"
    yield "bursts", f"{summary['bursts']:,} ({summary['bursts_per_s']:,.1f}/s)"
    yield "ACK latency, us", ", ".join(found) or "-"
    yield "fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"
    yield "errors", ", ".join(errors) or "none"
    yield "client CPU", f"{summary['client_cpu']:.0%} of a core"
