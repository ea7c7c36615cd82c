"""From what a burst run observed to its result: bandwidth, latencies, validity."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from loadgen.burst.config import BurstConfig
from loadgen.errors import LoadError
from loadgen.recorder import Timeline, jain_index, latency_summary_us

MAX_TICK_GAP_NS = 50_000_000
"""Between two ticks: 10 to 15 ms, once 25, were measured with 1 to 4096 connections.  After a
longer gap the generator had been stopped or had lost its core."""

MAX_PAUSED_SHARE = 0.01
"""Share of the window spent in such gaps above which a trial is not valid."""

SATURATED = 0.95
"""Share of a core used by the generator above which its bandwidth is a lower bound."""


@dataclass(frozen=True)
class Mark:
    """The totals at one end of the window."""

    t_ns: int
    cpu_ns: int
    bytes: int
    bursts: int
    """Also the number of latencies: those of the window are a slice."""
    shares: list[int]
    """Bytes of each connection."""


NOTHING = Mark(0, 0, 0, 0, [])


@dataclass(frozen=True)
class Observations:
    """What the loop hands over when it is done."""

    connected: int
    all_broke: bool
    """No connection was left at the end."""
    unacknowledged_ns: list[tuple[int, int]]
    """(begin, end) of the sending of each burst whose ACK was due at the end of the run."""
    begin: Mark | None
    end: Mark | None
    """Of the window; None if the run ended before."""
    errors: Mapping[str, int]
    latencies_ns: array[int]
    send_buffer_bytes: int
    unexpected: bytes
    """The first unexpected bytes, and when they came."""
    unexpected_when: str
    timeline: Timeline


@dataclass(frozen=True)
class BurstResult:
    """What was measured within the window.  Counts are over all connections."""

    target: str
    connections: int
    connected: int
    duration_s: float
    """The window as measured, from sample to sample."""
    warmup_s: float
    packet_bytes: int
    packets: int
    coalesce: bool
    bandwidth_bps: float
    """Bits per second that the kernel accepted."""
    bytes: int
    bursts: int
    bursts_per_s: float
    ack_latency_us: dict[str, float | int | None]
    """From the first byte of a burst to its complete ACK, for bursts completed in the window."""
    jain_fairness: float | None
    """Of the bytes sent per connection."""
    errors: dict[str, int]
    """By kind, over the whole run: what broke in the warm-up is missing in the window."""
    client_cpu: float
    """User and system time of this process over the window's wall time."""
    send_buffer_bytes: int
    valid: bool
    invalid_reasons: list[str]
    warnings: list[str]
    timeline: Timeline

    def to_json(self, *, timeline: bool = False) -> dict[str, Any]:
        """Ready for `json.dumps`; the timeline (100 samples per second) only on request."""
        names = [f.name for f in fields(self) if f.name != "timeline"]
        found: dict[str, Any] = {"workload": "burst"} | {n: getattr(self, n) for n in names}
        return found | {"timeline": self.timeline.to_json()} if timeline else found


def summarise(config: BurstConfig, seen: Observations) -> BurstResult:
    """The result of a run.  Raises LoadError if the target does not speak the protocol."""
    if seen.unexpected and seen.all_broke and not seen.latencies_ns:
        raise LoadError(
            f"{config.target} does not speak the burst protocol: "
            f"it sent {seen.unexpected[:24]!r} {seen.unexpected_when}; "
            f"is that the right port, with the same --packets and --packet-bytes?"
        )
    begin, end = seen.begin or NOTHING, seen.end or NOTHING
    window_s = (end.t_ns - begin.t_ns) / 1e9
    count = end.bytes - begin.bytes
    bursts = end.bursts - begin.bursts
    cpu = (end.cpu_ns - begin.cpu_ns) / 1e9 / window_s if window_s else 0.0
    latency = latency_summary_us(seen.latencies_ns[begin.bursts : end.bursts])
    paused_ns = seen.timeline.paused_ns(begin.t_ns, end.t_ns, MAX_TICK_GAP_NS)
    reasons = _why_invalid(config, seen, count, paused_ns)
    return BurstResult(
        target=str(config.target),
        connections=config.connections,
        connected=seen.connected,
        duration_s=window_s,
        warmup_s=config.warmup_s,
        packet_bytes=config.packet_bytes,
        packets=config.packets,
        coalesce=config.coalesce,
        bandwidth_bps=count * 8 / window_s if window_s else 0.0,
        bytes=count,
        bursts=bursts,
        bursts_per_s=bursts / window_s if window_s else 0.0,
        ack_latency_us=latency,
        jain_fairness=jain_index([e - b for b, e in zip(begin.shares, end.shares, strict=True)]),
        errors=dict(seen.errors),
        client_cpu=cpu,
        send_buffer_bytes=seen.send_buffer_bytes,
        valid=not reasons,
        invalid_reasons=reasons,
        warnings=_warnings(seen.timeline, begin, end, bursts, cpu),
        timeline=seen.timeline,
    )


def _why_invalid(
    config: BurstConfig, seen: Observations, window_bytes: int, paused_ns: int
) -> list[str]:
    reasons = []
    if paused_ns > MAX_PAUSED_SHARE * config.duration_s * 1e9:
        reasons.append(
            f"the load generator stood still: for {paused_ns / 1e6:.0f} ms of the window, "
            "in which it sent nothing"
        )
    if seen.connected < config.connections:
        reasons.append(f"{seen.connected} of {config.connections} connections came up")
    if any(seen.errors.values()):
        kinds = ", ".join(f"{kind}: {n}" for kind, n in seen.errors.items() if n)
        reasons.append(f"connections failed ({kinds})")
    if seen.all_broke:
        when = "before" if seen.begin is None else "in"
        reasons.append(f"every connection broke {when} the window")
    if not window_bytes:
        reasons.append("no bytes were sent in the window")
    if _never_acknowledged(seen):
        reasons.append("no burst was ever acknowledged")
    return reasons


def _never_acknowledged(seen: Observations) -> bool:
    """No ACK in the whole run, though one was due for longer than its burst took to send.

    Otherwise a server that only reads would pass for a fast one.  A later ACK may
    still be in flight: with thousands of connections in lock step the first
    bursts are sent just before the end.
    """
    if seen.latencies_ns:
        return False
    ended_ns = seen.timeline.t_ns[-1]
    return any(
        ended_ns - sent_ns > sent_ns - started_ns for started_ns, sent_ns in seen.unacknowledged_ns
    )


def _warnings(timeline: Timeline, begin: Mark, end: Mark, bursts: int, cpu: float) -> list[str]:
    found = []
    if cpu > SATURATED:
        found.append(
            f"the load generator's core was saturated ({cpu:.0%}): "
            f"bandwidth is a lower bound for the server"
        )
    if not bursts:
        found.append("no burst was completed in the window: there are no latencies")
    elif bursts < 100:
        found.append(f"percentiles rest on {bursts} bursts only: a longer window has more")
    if end.bytes > begin.bytes:
        middle = timeline.bytes_at((begin.t_ns + end.t_ns) // 2)
        change = (end.bytes - middle) / (middle - begin.bytes) - 1 if middle > begin.bytes else 1
        if abs(change) > 0.2:
            found.append(
                f"bandwidth changed by {change:+.0%} from the first half of the window to the "
                f"second: socket buffers still filling, or a noisy machine; a longer --warmup "
                f"tells which"
            )
    return found
