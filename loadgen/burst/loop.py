"""The closed loop of bursts: every connection sends one, waits for its ACK, sends the next.

The workload of Figure 1 of Welsh and Culler ("Virtualization Considered
Harmful: OS Design Directions for Well-Conditioned Services", HotOS 2001): a
burst is 1000 packets of 8 KB, answered by one ACK of 32 bytes.

One thread, one level-triggered epoll, nonblocking sockets.  The plan:

- `_Run.pump` is the hot loop.  It does only what happens once per packet or
  per turn; it knows no phase, no window and no statistics.  Totals only grow.
- `_Run._tick` runs about every 10 ms.  It samples the totals and moves the
  run from warm-up to window to tail to end.  A window is the difference
  between two samples, so nothing in the hot loop asks whether it is open.
- `_Run._receive` runs once per burst: the ACK, or what came instead of it.
- A connection that breaks is counted by kind, closed, and never reopened: a
  load generator that reconnects hides the failure that it should report.
- What the samples add up to is computed afterwards (`result.py`).

The amount in flight matters as much as the rate.  "Bytes" are what the kernel
accepted; they may still be in socket buffers, ours or the server's, and with
8192 connections these hold a gigabyte.  Therefore the send buffers are fixed
(`send_buffer_bytes`) rather than grown by the kernel to 4 MB each, and
`timeline` lets others compare both ends at one instant.  The server's receive
buffers are the server's: only a long enough warm-up fills them before the
window.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from loadgen.burst.config import BurstConfig
from loadgen.burst.result import BurstResult, Mark, Observations, summarise
from loadgen.collector import no_garbage_collection
from loadgen.net.connecting import error_kind, nothing_connected, open_connections
from loadgen.net.limits import ensure_room_for
from loadgen.recorder import Timeline

ACK_BYTES = 32

ERROR_KINDS = ("refused", "reset", "closed", "timeout", "short_ack", "unexpected_bytes")
"""Always in a result, even if 0; other errnos appear under their own name."""

TURN_BYTES, LONG_TURN_BYTES, FEW_CONNECTIONS = 128 * 1024, 256 * 1024, 16
"""What one connection may send before the next has its turn.

Without a bound, one connection sends until its buffer is full, which against
a fast server is its whole burst, and the others wait: 8 MB per turn gave 10 %
less bandwidth and unfair windows.  With 64 / 128 / 256 KB per turn, 1024
connections reach 16.7 / 19.4 / 18.4 Gbit/s and 8192 reach 14.6 / 15.8 / 14.9,
and Jain's index of a 2 s window over 8192 is 0.997 / 0.984 / 0.939: a round of
8192 turns takes half a second.  With few connections none waits long, and
longer turns mean fewer calls of epoll: one connection reaches 17.5 / 19.3 /
19.1 Gbit/s with 128 / 256 / 512 KB (`iperf3 -l 8K` in the same minutes: 19.5).
"""

SEGMENT_BYTES = 64 * 1024
"""Maximum size of a segment, on loopback or with segmentation offload."""

EVENTS_PER_POLL = 64
"""Events taken from epoll at once: 64 turns take 4 ms, so a tick is never later than that."""

MAX_SLEEP_S = 0.005
"""So that ticks go on when no socket is ready.

Sleeping, not spinning: while there is anything to send epoll returns at once,
and what a closed loop waits for is the server's work, not a clock.
"""

TICK_NS = 10_000_000

OnEvent: TypeAlias = Callable[[str, int], None]
"""Called with (`connected` | `window_begin` | `window_end`, t_ns) as they happen."""


def run(config: BurstConfig, on_event: OnEvent | None = None) -> BurstResult:
    """Open the connections, warm up, measure, close.  Raises LoadError if the run cannot begin."""
    ensure_room_for(config.connections)
    errors: Counter[str] = Counter(dict.fromkeys(ERROR_KINDS, 0))
    sockets = open_connections(
        config.target,
        config.connections,
        rate=config.connect_rate,
        timeout_s=config.timeout_s,
        send_buffer_bytes=config.chosen_send_buffer_bytes,
        failures=errors,
    )
    if not sockets:
        raise nothing_connected(config.target, config.connections, errors)
    this = _Run(config, sockets, errors, on_event)
    with no_garbage_collection():
        try:
            this.pump()
        finally:
            this.close()
    return summarise(config, this.observations())


class _Connection:
    """`left`, the bytes of the burst not yet sent, is its whole state.

    `left % packet_bytes` is the rest of a packet sent in part; 0 means that the
    ACK is due.
    """

    __slots__ = ("acked", "bytes", "left", "progress_ns", "send", "sock", "started_ns")

    def __init__(self, sock: socket.socket, burst_bytes: int) -> None:
        self.sock = sock
        self.send = sock.send
        self.left = burst_bytes
        self.acked = 0  # bytes of the ACK that have come
        self.bytes = 0
        self.started_ns = 0
        self.progress_ns = 0


class _Run:
    """One run.  Phases follow each other in `_tick`; everything else is the same in all."""

    def __init__(
        self,
        config: BurstConfig,
        sockets: list[socket.socket],
        errors: Counter[str],
        on_event: OnEvent | None,
    ) -> None:
        self.config = config
        self.errors = errors
        self.on_event: OnEvent = on_event or (lambda name, t_ns: None)
        self.all = [_Connection(sock, config.burst_bytes) for sock in sockets]
        self.open = {c.sock.fileno(): c for c in self.all}
        self.epoll = select.epoll(len(sockets))
        self.latencies_ns: array[int] = array("q")
        self.timeline = Timeline()
        self.begin: Mark | None = None
        self.end: Mark | None = None
        self.next_boundary_ns = 0
        self.next_scan_ns = 0
        self.unexpected = b""  # the first unexpected bytes, to show what protocol is spoken there
        self.unexpected_when = ""
        self.send_buffer_bytes = 0
        if config.chosen_send_buffer_bytes:
            # The kernel doubles what it is asked for and caps it at net.core.wmem_max.
            self.send_buffer_bytes = sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    # The hot loop: at 16 Gbit/s a packet every 4 us and a turn every 64, most of it
    # the kernel's copy and its loopback, which delivers on the sender's core.
    def pump(self) -> None:
        size = self.config.packet_bytes
        burst_bytes = self.config.burst_bytes
        packet = memoryview(bytes(size))
        turn_bytes = LONG_TURN_BYTES if self.config.connections <= FEW_CONNECTIONS else TURN_BYTES
        max_packets = max(1, min(256, turn_bytes // size))
        turns = [self._flags(n) for n in range(max_packets + 1)]
        connections, poll, clock = self.open, self.epoll.poll, time.monotonic_ns
        receive, tick = self._receive, self._tick
        total = 0
        next_tick_ns = self._start()
        while True:
            now = clock()
            if now >= next_tick_ns:
                next_tick_ns = tick(now, total)
                if not next_tick_ns:
                    return
            for fd, events in poll(MAX_SLEEP_S, EVENTS_PER_POLL):
                connection = connections[fd]
                if events != select.EPOLLOUT and not receive(connection, fd):
                    continue
                send = connection.send
                left = before = connection.left
                if left == burst_bytes:
                    connection.started_ns = clock()
                try:
                    if rest := left % size:  # the rest of a packet comes first
                        left -= send(packet[-rest:])
                    if not left % size:
                        # Not range() and a test for the last one: the flags of a turn
                        # are computed once, and iterating over them counts the packets as well.
                        for flags in turns[min(left // size, max_packets)]:
                            taken = send(packet, flags)
                            left -= taken
                            if taken != size:
                                break
                except BlockingIOError:
                    pass  # the buffer is full; epoll reports when it is not
                except OSError as error:
                    self._io_failed(connection, fd, error)
                if taken := before - left:
                    connection.left = left
                    connection.bytes += taken
                    connection.progress_ns = now
                    total += taken
                    if not left:  # once per burst: from now on only the ACK matters
                        self.epoll.modify(fd, select.EPOLLIN)

    def _flags(self, packets: int) -> tuple[int, ...]:
        """The `send` flags of each packet of a turn: joined into segments, or each pushed.

        Each packet is a write of its own, and MSG_MORE lets the kernel join them
        into 64 KB segments: 9.5 Gbit/s without, 19-21 with it (64 connections; 9
        and 18 on one).  Nagle's algorithm does the same for `iperf3 -l 8K`, but
        would delay the end of each burst until a delayed ACK.

        A packet without MSG_MORE pushes what was held back, so the last of a
        turn has none: nothing stays corked until the next turn.  And no segment
        takes more than half of the send buffer: if one fills it, the receiver
        delays its ACK, waiting for a second segment that has no room
        (0.01 Gbit/s with a buffer of 32 KiB, and 8 with MSG_MORE off).
        """
        if not self.config.coalesce:
            return (0,) * packets
        room = self.send_buffer_bytes // 2 if self.send_buffer_bytes else SEGMENT_BYTES
        joined = max(1, min(SEGMENT_BYTES, room) // self.config.packet_bytes)
        return tuple(
            0 if n % joined == 0 or n == packets else socket.MSG_MORE for n in range(1, packets + 1)
        )

    def _receive(self, connection: _Connection, fd: int) -> bool:
        """Read; True if that completes the ACK and the next burst may begin.

        Also True for a connection that is still sending and has nothing to read.
        """
        try:
            data = connection.sock.recv(ACK_BYTES + 1)  # one more: an ACK may be too long
        except BlockingIOError:
            return connection.left > 0
        except OSError as error:
            self._io_failed(connection, fd, error)
            return False
        if not data:
            self._drop(connection, fd, "short_ack" if connection.acked else "closed")
            return False
        connection.acked += len(data)
        if connection.left or connection.acked > ACK_BYTES:
            self._note_unexpected(connection, data)
            self._drop(connection, fd, "unexpected_bytes")
            return False
        now = connection.progress_ns = time.monotonic_ns()
        if connection.acked < ACK_BYTES:
            return False
        self.latencies_ns.append(now - connection.started_ns)
        connection.acked = 0
        connection.left = self.config.burst_bytes
        self.epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        return True

    def _io_failed(self, connection: _Connection, fd: int, error: OSError) -> None:
        # What the peer sent before it reset says more than the reset does: an HTTP
        # server, say, answers 400 and closes while we are still sending.
        try:
            last_words = connection.sock.recv(ACK_BYTES + 1)
        except OSError:
            last_words = b""
        if last_words:
            self._note_unexpected(connection, last_words)
            self._drop(connection, fd, "unexpected_bytes")
        else:
            self._drop(connection, fd, error_kind(error.errno))

    def _note_unexpected(self, connection: _Connection, data: bytes) -> None:
        if not self.unexpected:
            self.unexpected = data
            self.unexpected_when = (
                "before a whole burst had been sent to it"
                if connection.left
                else f"where an ACK of {ACK_BYTES} bytes was due"
            )

    def _drop(self, connection: _Connection, fd: int, kind: str) -> None:
        self.errors[kind] += 1
        del self.open[fd]  # epoll forgets a closed descriptor by itself
        connection.sock.close()

    def _start(self) -> int:
        now = time.monotonic_ns()
        self.on_event("connected", now)
        for fd, connection in self.open.items():
            connection.progress_ns = now
            self.epoll.register(fd, select.EPOLLIN | select.EPOLLOUT)
        now = time.monotonic_ns()
        self.timeline.add(now, 0, 0)
        self.next_boundary_ns = now + round(self.config.warmup_s * 1e9)
        self.next_scan_ns = now
        return now + 1  # the first tick; later than now, so that no two samples share a time

    def _tick(self, now: int, total: int) -> int:
        """Sample, and begin the next phase if it is time; the time of the next tick, 0 to end."""
        self.timeline.add(now, total, len(self.latencies_ns))
        if now >= self.next_scan_ns:
            self._scan_for_timeouts(now)
        if not self.open:
            if self.begin is not None and self.end is None:
                self._mark("window_end", now, total)
            return 0
        if now >= self.next_boundary_ns:
            if self.begin is None:
                self._mark("window_begin", now, total)
                self.next_boundary_ns = now + round(self.config.duration_s * 1e9)
            elif self.end is None:
                self._mark("window_end", now, total)
                self.next_boundary_ns = now + round(self.config.tail_s * 1e9)
            if self.end is not None and now >= self.next_boundary_ns:
                return 0
        return min(now + TICK_NS, self.next_boundary_ns)

    def _mark(self, name: str, now: int, total: int) -> None:
        mark = Mark(
            t_ns=now,
            cpu_ns=time.process_time_ns(),
            bytes=total,
            bursts=len(self.latencies_ns),
            shares=[c.bytes for c in self.all],
        )
        if name == "window_begin":
            self.begin = mark
        else:
            self.end = mark
        self.on_event(name, now)

    def _scan_for_timeouts(self, now: int) -> None:
        timeout_ns = round(self.config.timeout_s * 1e9)
        late = [(fd, c) for fd, c in self.open.items() if now - c.progress_ns > timeout_ns]
        for fd, connection in late:
            self._drop(connection, fd, "timeout")
        self.next_scan_ns = now + min(timeout_ns // 4, 250_000_000)

    def close(self) -> None:
        self.epoll.close()
        for connection in self.open.values():
            connection.sock.close()

    def observations(self) -> Observations:
        return Observations(
            connected=len(self.all),
            all_broke=not self.open,
            unacknowledged_ns=[
                (c.started_ns, c.progress_ns) for c in self.open.values() if not c.left
            ],
            begin=self.begin,
            end=self.end,
            errors=self.errors,
            latencies_ns=self.latencies_ns,
            send_buffer_bytes=self.send_buffer_bytes,
            unexpected=self.unexpected,
            unexpected_when=self.unexpected_when,
            timeline=self.timeline,
        )
