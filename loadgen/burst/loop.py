"""The closed loop of bursts: every connection sends one, waits for its ACK, sends the next.

The workload of Figure 1 of Welsh and Culler ("Virtualization Considered
Harmful: OS Design Directions for Well-Conditioned Services", HotOS 2001): a
burst is 1000 packets of 8 KB, answered by one ACK of 32 bytes.

One thread, one level-triggered epoll, nonblocking sockets.  The plan:

- `_Burst.pump` is the hot loop.  It does only what happens once a packet or
  once a turn; it knows no phase, no window and no statistics.  Totals only
  ever grow.
- `_Burst._tick` runs about every 10 ms.  It samples the totals and moves the
  run from warm-up to window to tail to end.  A window is the difference
  between two samples, so nothing in the hot loop asks whether it is open.
- `_Burst._receive` runs once a burst: the ACK, or what came instead of it.
- A connection that breaks is counted by kind, closed, and never reopened: a
  load generator that reconnects hides the failure that it should report.

How much is under way matters as much as how fast it goes.  "Bytes" are what
the kernel took from us; they may still lie in socket buffers, ours or the
server's, and with 8192 connections these hold a gigabyte.  Therefore the send
buffers are fixed (`send_buffer_bytes`) rather than grown by the kernel to 4 MB
each, and `timeline` lets others compare both ends at one instant.  What the
server's receive buffers take in is the server's: only a long enough warm-up
fills them before the window.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from loadgen.burst.run import BurstConfig, BurstResult
from loadgen.collector import no_garbage_collection
from loadgen.net.connecting import error_kind, open_connections
from loadgen.net.limits import ensure_room_for
from loadgen.net.targets import LoadError
from loadgen.recorder import Timeline, jain_index, latency_summary_us

ACK_BYTES = 32

ERROR_KINDS = ("refused", "reset", "closed", "timeout", "short_ack", "unexpected_bytes")
"""Always in a result, with 0 if need be; other errnos appear under their own name."""

TURN_BYTES, LONG_TURN_BYTES, FEW = 128 * 1024, 256 * 1024, 16
"""What one connection may send before the next has its turn.

Without a bound, one connection sends until its buffer is full, which against
a fast server is its whole burst, and the others wait: all 8 MB in one turn
gave 10 % less and unfair windows.  With 64 / 128 / 256 KB a turn, 1024
connections reach 16.7 / 19.4 / 18.4 Gbit/s and 8192 reach 14.6 / 15.8 / 14.9,
and Jain's index of a 2 s window over 8192 is 0.997 / 0.984 / 0.939: a round of
8192 turns is itself half a second.  Up to `FEW` connections nobody waits long,
and a longer turn is fewer looks at epoll: one connection reaches 17.5 / 19.3 /
19.1 Gbit/s with 128 / 256 / 512 KB (`iperf3 -l 8K` in the same minutes: 19.5).
"""

SEGMENT_BYTES = 64 * 1024
"""The most that one segment carries, on loopback or with segmentation offload."""

BATCH = 64
"""Events taken from epoll at once: 64 turns are 4 ms, so a tick is never later than that."""

IDLE_S = 0.005
"""Longest sleep, so that ticks go on when no socket is ready.

Sleeping, not spinning: while there is anything to send epoll returns at once,
and what a closed loop waits for is the server's work, not a clock.
"""

TICK_NS = 10_000_000

PAUSE_NS, PAUSED_SHARE = 50_000_000, 0.01
"""Between two ticks: 10 to 15 ms, once 25, were measured with 1 to 4096 connections.  More, and the
generator was stopped or had lost its core; a trial of which that took over 1 % is not valid."""

OnEvent: TypeAlias = Callable[[str, int], None]
"""Called with (`connected` | `window_begin` | `window_end`, t_ns) as they happen."""


def run(config: BurstConfig, on_event: OnEvent | None = None) -> BurstResult:
    """Open the connections, warm up, measure, close; `LoadError` if it makes no sense to."""
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
        raise LoadError(_nobody_home(config, errors))
    burst = _Burst(config, sockets, errors, on_event)
    with no_garbage_collection():
        try:
            burst.pump()
        finally:
            burst.close()
    return burst.result()


def _nobody_home(config: BurstConfig, errors: Counter[str]) -> str:
    if errors["refused"] == config.connections:
        return f"nothing listens on {config.target}: start the server first"
    kinds = ", ".join(f"{kind}: {n}" for kind, n in errors.items() if n)
    return f"no connection to {config.target} came up ({kinds}): check host, port and firewall"


class _Connection:
    """`left` alone says where a connection is: bytes of the burst the kernel has yet to take.

    `left % packet_bytes` is what remains of a packet cut short, and 0 means
    that the ACK is due.
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


@dataclass(frozen=True)
class _Mark:
    """The totals at one end of the window."""

    t_ns: int
    cpu_ns: int
    bytes: int
    bursts: int
    """Also the number of latencies: the window's are a slice."""
    shares: list[int]

    @classmethod
    def nothing(cls) -> _Mark:
        return cls(0, 0, 0, 0, [])


class _Burst:
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
        self.begin: _Mark | None = None
        self.end: _Mark | None = None
        self.next_boundary_ns = 0
        self.next_scan_ns = 0
        self.sample: bytes = b""  # the first unexpected bytes, to name what speaks there
        self.sample_when = ""
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
        turn_bytes = LONG_TURN_BYTES if self.config.connections <= FEW else TURN_BYTES
        most = max(1, min(256, turn_bytes // size))
        turns = [self._flags(n) for n in range(most + 1)]
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
            for fd, events in poll(IDLE_S, BATCH):
                connection = connections[fd]
                if events != select.EPOLLOUT and not receive(connection, fd):
                    continue
                send = connection.send
                left = before = connection.left
                if left == burst_bytes:
                    connection.started_ns = clock()
                try:
                    if rest := left % size:  # a packet that was cut short comes first
                        left -= send(packet[-rest:])
                    if not left % size:
                        # Not range() and a test for the last one: the flags of a turn
                        # are made once, and iterating them counts the turn as well.
                        for flags in turns[min(left // size, most)]:
                            taken = send(packet, flags)
                            left -= taken
                            if taken != size:
                                break
                except BlockingIOError:
                    pass  # the buffer is full; epoll tells when it is not
                except OSError as error:
                    self._broke(connection, fd, error)
                if taken := before - left:
                    connection.left = left
                    connection.bytes += taken
                    connection.progress_ns = now
                    total += taken
                    if not left:  # once a burst: from now on only the ACK is of interest
                        self.epoll.modify(fd, select.EPOLLIN)

    def _flags(self, packets: int) -> tuple[int, ...]:
        """The `send` flags of each packet of a turn: joined into segments, or each pushed.

        Each packet is a write of its own, and MSG_MORE lets the kernel fill its
        64 KB segments with them: 9.5 Gbit/s without, 19-21 with it (64
        connections; 9 and 18 on one).  Nagle's algorithm does the same for
        `iperf3 -l 8K`, but would hold the end of each burst for a delayed ACK.

        A packet without MSG_MORE pushes what was held back, so the last of a
        turn has none: nothing waits, corked, for the next turn.  Nor does a
        segment take more than half of the send buffer: when one fills it alone,
        the receiver delays its ACK, waiting for a second that has no room
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
        """Take what has come; True if it completes the ACK and the next burst may begin.

        Also True for a connection that still sends and has nothing to read.
        """
        try:
            data = connection.sock.recv(ACK_BYTES + 1)  # one more: an ACK may be too long
        except BlockingIOError:
            return connection.left > 0
        except OSError as error:
            self._broke(connection, fd, error)
            return False
        if not data:
            self._drop(connection, fd, "short_ack" if connection.acked else "closed")
            return False
        connection.acked += len(data)
        if connection.left or connection.acked > ACK_BYTES:
            self._keep_sample(connection, data)
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

    def _broke(self, connection: _Connection, fd: int, error: OSError) -> None:
        # What the peer said before it reset tells more than the reset: an HTTP
        # server, say, answers 400 and closes while we are still sending.
        try:
            last_words = connection.sock.recv(ACK_BYTES + 1)
        except OSError:
            last_words = b""
        if last_words:
            self._keep_sample(connection, last_words)
            self._drop(connection, fd, "unexpected_bytes")
        else:
            self._drop(connection, fd, error_kind(error.errno))

    def _keep_sample(self, connection: _Connection, data: bytes) -> None:
        if not self.sample:
            self.sample = data
            self.sample_when = (
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
        return now + 1  # the first tick: no two samples of one instant

    def _tick(self, now: int, total: int) -> int:
        """Sample, move on to the next phase if it is time; when to tick next, or 0 to end."""
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
        mark = _Mark(
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

    def result(self) -> BurstResult:
        config, errors = self.config, self.errors
        if self.sample and not self.open and not self.latencies_ns:
            raise LoadError(
                f"{config.target} does not speak the burst protocol: "
                f"it sent {self.sample[:24]!r} {self.sample_when}; "
                f"is that the right port, with the same --packets and --packet-bytes?"
            )
        begin = self.begin or _Mark.nothing()
        end = self.end or _Mark.nothing()
        window_s = (end.t_ns - begin.t_ns) / 1e9
        count = end.bytes - begin.bytes
        bursts = end.bursts - begin.bursts
        cpu = (end.cpu_ns - begin.cpu_ns) / 1e9 / window_s if window_s else 0.0
        latency = latency_summary_us(self.latencies_ns[begin.bursts : end.bursts])
        reasons = self._why_invalid(count, self.timeline.paused_ns(begin.t_ns, end.t_ns, PAUSE_NS))
        return BurstResult(
            target=str(config.target),
            connections=config.connections,
            connected=len(self.all),
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
            jain_fairness=jain_index(
                [e - b for b, e in zip(begin.shares, end.shares, strict=True)]
            ),
            errors=dict(errors),
            client_cpu=cpu,
            send_buffer_bytes=self.send_buffer_bytes,
            valid=not reasons,
            invalid_reasons=reasons,
            warnings=self._warnings(begin, end, bursts, cpu),
            timeline=self.timeline,
        )

    def _why_invalid(self, window_bytes: int, paused_ns: int) -> list[str]:
        reasons = []
        if paused_ns > PAUSED_SHARE * self.config.duration_s * 1e9:
            reasons.append(
                f"the load generator stood still: for {paused_ns / 1e6:.0f} ms of the window, "
                "in which it sent nothing"
            )
        if len(self.all) < self.config.connections:
            reasons.append(f"{len(self.all)} of {self.config.connections} connections came up")
        if any(self.errors.values()):
            kinds = ", ".join(f"{kind}: {n}" for kind, n in self.errors.items() if n)
            reasons.append(f"connections failed ({kinds})")
        if not self.open:
            when = "before" if self.begin is None else "in"
            reasons.append(f"every connection broke {when} the window")
        if not window_bytes:
            reasons.append("no bytes were sent in the window")
        if self._never_acknowledged():
            reasons.append("no burst was ever acknowledged")
        return reasons

    def _never_acknowledged(self) -> bool:
        """No ACK in the whole run, though one was due for longer than its burst took to send.

        A server that only reads would pass for a fast one.  An ACK that is not
        yet that late may be under way: with thousands of connections in lock
        step the first bursts are sent just before the end.
        """
        if self.latencies_ns:
            return False
        ended_ns = self.timeline.t_ns[-1]
        return any(
            not c.left and ended_ns - c.progress_ns > c.progress_ns - c.started_ns
            for c in self.open.values()
        )

    def _warnings(self, begin: _Mark, end: _Mark, bursts: int, cpu: float) -> list[str]:
        found = []
        if cpu > 0.95:
            found.append(
                f"the load generator's core was saturated ({cpu:.0%}): "
                f"bandwidth is a lower bound for the server"
            )
        if not bursts:
            found.append("no burst was completed in the window: there are no latencies")
        elif bursts < 100:
            found.append(f"percentiles rest on {bursts} bursts only: a longer window has more")
        if end.bytes > begin.bytes:
            middle = self.timeline.bytes_at((begin.t_ns + end.t_ns) // 2)
            change = (
                (end.bytes - middle) / (middle - begin.bytes) - 1 if middle > begin.bytes else 1
            )
            if abs(change) > 0.2:
                found.append(
                    f"bandwidth changed by {change:+.0%} from the first half of the window to the "
                    f"second: socket buffers still filling, or a noisy machine; a longer --warmup "
                    f"tells which"
                )
        return found
