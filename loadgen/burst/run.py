"""What a burst run is told, and what it tells: the settings, and the result."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from loadgen.net.targets import LoadError, Target
from loadgen.recorder import Timeline

SEND_BUFFERS_BYTES = 1 << 30
"""For all send buffers together; one of more than 128 KiB gained nothing at 1, 64, 1024."""


@dataclass(frozen=True)
class BurstConfig:
    """One trial's worth of settings; `LoadError` on nonsense."""

    target: Target
    connections: int = 64
    duration_s: float = 5.0
    warmup_s: float = 1.0
    packet_bytes: int = 8192
    packets: int = 1000
    connect_rate: float = 5000.0
    timeout_s: float = 10.0
    send_buffer_bytes: int | None = None
    """SO_SNDBUF of each connection; 0: left to the kernel; `None`: chosen by their number."""
    coalesce: bool = True
    """Let the kernel fill segments from the packets of one turn (MSG_MORE)."""
    tail_s: float = 0.0
    """How long sending goes on at full load after the window, counted nowhere."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("connections", 1, 1_000_000),
            ("packets", 1, 1_000_000_000),
            ("packet_bytes", 1, 1 << 24),
            ("duration_s", 0.001, 86_400),
            ("warmup_s", 0, 86_400),
            ("connect_rate", 1, 1e9),
            ("timeout_s", 0.001, 86_400),
            ("send_buffer_bytes", 0, 1 << 30),
            ("tail_s", 0, 86_400),
        ):
            value = getattr(self, name)
            if value is None or (math.isfinite(value) and low <= value <= high):
                continue
            option = name.removesuffix("_s" if name.endswith("_s") else "").replace("_", "-")
            raise LoadError(f"--{option} must be from {low:g} to {high:g}, not {value:g}")

    @property
    def burst_bytes(self) -> int:
        return self.packet_bytes * self.packets

    @property
    def chosen_send_buffer_bytes(self) -> int:
        if self.send_buffer_bytes is not None:
            return self.send_buffer_bytes
        return max(16 << 10, min(128 << 10, SEND_BUFFERS_BYTES // self.connections))


@dataclass(frozen=True)
class BurstResult:
    """What was measured inside the window.  Counts are over all connections."""

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
    """Bits per second that the kernel took from us."""
    bytes: int
    bursts: int
    bursts_per_s: float
    ack_latency_us: dict[str, float | int | None]
    """From a burst's first byte to its whole ACK, for bursts completed in the window."""
    jain_fairness: float | None
    """Of the bytes of each connection that came up."""
    errors: dict[str, int]
    """By kind, over the whole run: a connection that broke in the warm-up is missing later."""
    client_cpu: float
    """User and system time of this process over the window's wall time."""
    send_buffer_bytes: int
    valid: bool
    invalid_reasons: list[str]
    warnings: list[str]
    timeline: Timeline

    def to_json(self, *, timeline: bool = False) -> dict[str, Any]:
        """Ready for `json.dumps`; the timeline (100 samples a second) only if asked for."""
        names = [f.name for f in fields(self) if f.name != "timeline"]
        found: dict[str, Any] = {"workload": "burst"} | {n: getattr(self, n) for n in names}
        return found | {"timeline": self.timeline.to_json()} if timeline else found
