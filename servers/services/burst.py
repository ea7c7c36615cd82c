"""The service `burst`: N packets of S bytes are answered by one ACK of 32 bytes.

This is the server of Figure 1 of Welsh and Culler (HotOS 2001): "each client
... sends bursts of 1000 8-KB packets", and the server answers each burst with
one 32-byte acknowledgement.  TCP has no packets, so a burst is a number of
bytes, and a session is nothing but a count of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servers.options import option
from servers.service import Request, Service, Session, Step, step

ACK = (b"ACK" + b"." * 28 + b"\n",)
"""32 bytes; the paper does not say which, so they are legible."""

_NONE: tuple[Request, ...] = ()


@dataclass(frozen=True)
class BurstOptions:
    """The size of a burst."""

    packets: int = option(1000, "packets in a burst", minimum=1)
    packet_bytes: int = option(8192, "bytes in a packet", minimum=1)


class BurstSession(Session):
    """Counts the bytes down to the end of the burst."""

    __slots__ = ("_burst_bytes", "_left", "_step")

    def __init__(self, burst_bytes: int, first: Step) -> None:
        self._burst_bytes = burst_bytes
        self._left = burst_bytes
        self._step = first

    def receive(self, data: memoryview) -> Sequence[Request]:
        left = self._left - len(data)
        if left > 0:  # nearly always: nothing is allocated
            self._left = left
            return _NONE
        complete, over = divmod(-left, self._burst_bytes)
        self._left = self._burst_bytes - over
        return [Request(self._step) for _ in range(complete + 1)]

    @property
    def idle(self) -> bool:
        return self._left == self._burst_bytes


class Burst(Service):
    """One step: acknowledge."""

    name = "burst"
    summary = "N packets of S bytes are answered by one ACK of 32 bytes (the paper's Figure 1)"
    Options = BurstOptions
    options: BurstOptions

    def __init__(self, options: BurstOptions) -> None:
        super().__init__(options)
        self._burst_bytes = options.packets * options.packet_bytes

    @property
    def first(self) -> Step:
        return self.acknowledge

    def session(self) -> Session:
        return BurstSession(self._burst_bytes, self.acknowledge)

    @step
    def acknowledge(self, request: Request) -> Step | None:
        """The whole of the application."""
        request.reply = ACK
        return None
