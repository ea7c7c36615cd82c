"""`BurstConfig`: the settings of one burst run."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.bounds import check_bounds
from loadgen.net.targets import Target

MAX_SEND_BUFFERS_BYTES = 1 << 30
"""For all send buffers together."""

MIN_SEND_BUFFER_BYTES, MAX_SEND_BUFFER_BYTES = 16 << 10, 128 << 10
"""Per connection; more than 128 KiB gained nothing with 1, 64 and 1024 connections."""


@dataclass(frozen=True)
class BurstConfig:
    """The settings of one trial.  Raises LoadError if a value is out of bounds."""

    target: Target
    connections: int = 64
    duration_s: float = 5.0
    warmup_s: float = 1.0
    packet_bytes: int = 8192
    packets: int = 1000
    connect_rate: float = 5000.0
    timeout_s: float = 10.0
    send_buffer_bytes: int | None = None
    """SO_SNDBUF of each connection; 0: left to the kernel; None: chosen by their number."""
    coalesce: bool = True
    """Let the kernel join the packets of one turn into full segments (MSG_MORE)."""
    tail_s: float = 0.0
    """How long to keep sending at full load after the window, not counted."""

    def __post_init__(self) -> None:
        check_bounds(
            self,
            (
                ("connections", 1, 1_000_000),
                ("packets", 1, 1_000_000_000),
                ("packet_bytes", 1, 1 << 24),
                ("duration_s", 0.001, 86_400),
                ("warmup_s", 0, 86_400),
                ("connect_rate", 1, 1e9),
                ("timeout_s", 0.001, 86_400),
                ("send_buffer_bytes", 0, 1 << 30),
                ("tail_s", 0, 86_400),
            ),
        )

    @property
    def burst_bytes(self) -> int:
        return self.packet_bytes * self.packets

    @property
    def chosen_send_buffer_bytes(self) -> int:
        if self.send_buffer_bytes is not None:
            return self.send_buffer_bytes
        share = MAX_SEND_BUFFERS_BYTES // self.connections
        return max(MIN_SEND_BUFFER_BYTES, min(MAX_SEND_BUFFER_BYTES, share))
