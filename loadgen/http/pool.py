"""The connections of an HTTP run as sockets: opened, closed, reopened, timed out.

A connection is opening, idle, busy with one request, or ending.  One that
breaks is reopened: the demand of an open loop does not go away with a
connection.  That happens at once, but between turns of the loop and a few at a
time, because due requests must not wait for it.  A connection that cannot be
opened is tried again after `RETRY_NS`.

What happens to the request on a connection is not decided here but in
`connections.py`.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, deque
from types import TracebackType
from typing import Self

from loadgen.http.config import HttpConfig
from loadgen.http.ledger import Ledger
from loadgen.http.reply import Reply
from loadgen.net.connecting import begin, error_kind, nothing_connected, open_connections
from loadgen.net.limits import ensure_room_for

IDLE, BUSY, OPENING, ENDING = range(4)

RETRY_NS = 50_000_000
"""Delay before a connection that could not be opened is tried again."""

MIN_TIMEOUTS_PER_SCAN = 4
"""Plus one per `CONNECTIONS_PER_TIMEOUT` connections: each costs 15 us of not sending."""

CONNECTIONS_PER_TIMEOUT = 256
"""So that all can time out within a quarter of a second, with one scan per millisecond."""

MIN_SCAN_NS, SCAN_NS_PER_CONNECTION = 10_000_000, 1000
"""Minimum interval between scans of all connections; a scan takes 0.07 us per connection."""

ENDING_NS = 100_000_000
"""How long the server has to close a connection that it was asked to close."""


class Connection:
    """One of N connections; its socket may change, its number does not."""

    __slots__ = (
        "fd", "known", "missing", "number", "recv", "reply", "request", "requests_left", "send",
        "since_ns", "sock", "state", "template", "unsent", "verdict",
    )  # fmt: skip

    def __init__(self, number: int, requests_left: int) -> None:
        self.number = number
        self.fd = -1
        self.state = OPENING
        self.since_ns = 0  # when it became free, or began to open or to end
        self.request = -1
        self.template = 0
        self.known: dict[bytes, tuple[int, int]] | None = None
        """Heads the fast path may look up; None once a reply has begun in any other way."""
        self.missing = 0  # bytes still to come of a reply whose head is known
        self.verdict = 0  # its outcome once they have come
        self.reply: Reply | None = None
        self.unsent = b""
        self.requests_left = requests_left  # until it is closed, if that is limited

    def use(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.send = sock.send
        self.recv = sock.recv


class Pool:
    """All connections of a run.  `Connections` adds what happens to their requests."""

    def __init__(self, config: HttpConfig, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.epoll = select.epoll()
        self.by_fd: dict[int, Connection] = {}
        self.all: list[Connection] = []
        self.free: deque[Connection] = deque()
        """Idle, the one that has been free longest first."""
        self.closed: deque[Connection] = deque()
        """To be reopened, by `reopen`."""
        self.retries: deque[tuple[int, Connection]] = deque()
        """Could not be opened: (when to try again in ns, connection)."""
        self.error_kinds: Counter[str] = Counter()
        self.connected = 0
        self.reconnects = 0
        self._timeout_ns = round(config.timeout_s * 1e9)
        self._next_scan_ns = 0
        self._scan_from = 0
        self._timeouts_per_scan = (
            MIN_TIMEOUTS_PER_SCAN + config.connections // CONNECTIONS_PER_TIMEOUT
        )
        self._closing: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.epoll.close()
        for sock in (*(connection.sock for connection in self.by_fd.values()), *self._closing):
            sock.close()

    def open_all(self) -> None:
        """Open all connections.  Raises LoadError if none can be opened."""
        config = self.config
        ensure_room_for(config.connections)
        failures: Counter[str] = Counter()
        sockets = open_connections(
            config.target, config.connections,
            rate=config.connect_rate, timeout_s=config.timeout_s, failures=failures,
        )  # fmt: skip
        if not sockets:
            raise nothing_connected(config.target, config.connections, failures)
        for kind, number in failures.items():
            self.error_kinds[f"connect_{kind}"] += number
        self.connected = len(sockets)
        now = time.monotonic_ns()
        for number in range(config.connections):
            connection = Connection(number, config.requests_per_connection)
            self.all.append(connection)
            if number < len(sockets):
                connection.use(sockets[number])
                self.by_fd[connection.fd] = connection
                self.epoll.register(connection.fd, select.EPOLLIN)
                self.set_free(connection, now)
            else:
                self.retries.append((now + RETRY_NS, connection))

    # Opening and closing

    def set_free(self, connection: Connection, now: int) -> None:
        connection.state = IDLE
        connection.since_ns = now
        self.free.append(connection)

    def discard(self, connection: Connection) -> None:
        """Close it, to be reopened."""
        if connection.state == IDLE:
            self.free.remove(connection)
        self._close(connection)
        self.reconnects += 1
        connection.state = OPENING
        self.closed.append(connection)

    def _close(self, connection: Connection) -> None:
        """Shut it down now; its descriptor is released between two turns (`release`).

        Otherwise a new connection might get the same descriptor, and with it an
        event of the old connection from the batch that is being processed.
        """
        if self.by_fd.pop(connection.fd, None) is not None:
            self.epoll.unregister(connection.fd)
            shut(connection.sock)
            self._closing.append(connection.sock)
        connection.fd = -1  # another connection's next socket may get this descriptor

    def reopen(self, limit: int) -> None:
        """Reopen up to `limit` connections.  Between two turns only: it releases descriptors.

        Each costs 30 to 35 us from the end of the old to the first request on the new.
        """
        self.release()
        for _ in range(min(limit, len(self.closed))):
            self._begin(self.closed.popleft())

    def release(self) -> None:
        """Release the descriptors of closed connections."""
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _begin(self, connection: Connection) -> None:
        now = time.monotonic_ns()
        connection.state = OPENING
        connection.since_ns = now
        connection.requests_left = self.config.requests_per_connection
        failures: Counter[str] = Counter()
        sock = begin(self.config.target, 0, failures)
        if sock is None:
            self._open_failed(connection, *failures)
            return
        connection.use(sock)
        self.by_fd[connection.fd] = connection
        self.epoll.register(connection.fd, select.EPOLLOUT)

    def _opened(self, connection: Connection) -> None:
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._close(connection)
            self._open_failed(connection, error_kind(code))
        else:
            self.epoll.modify(connection.fd, select.EPOLLIN)
            self.set_free(connection, time.monotonic_ns())

    def _open_failed(self, connection: Connection, kind: str) -> None:
        self.error_kinds[f"connect_{kind}"] += 1
        self.retries.append((time.monotonic_ns() + RETRY_NS, connection))

    # Timeouts

    def maintain(self, now: int) -> None:
        """Called every few milliseconds: handle timeouts, and retry connections."""
        while self.retries and self.retries[0][0] <= now:
            self.closed.append(self.retries.popleft()[1])
        if now >= self._next_scan_ns:
            self._scan(now)

    @property
    def needs_short_ticks(self) -> bool:
        """A scan is under way: the next tick should come in 1 ms rather than 10."""
        return self._scan_from > 0

    def _scan(self, now: int) -> None:
        """End what has timed out; if there is too much for one scan, go on in the next."""
        late = 0
        for number in range(self._scan_from, len(self.all)):
            connection = self.all[number]
            if connection.state == BUSY:
                if now - self.ledger.scheduled[connection.request] > self._timeout_ns:
                    self._time_out(connection)
                    late += 1
                    if late == self._timeouts_per_scan:
                        self._scan_from = number
                        return
            elif connection.state == OPENING:
                if connection.fd in self.by_fd and now - connection.since_ns > self._timeout_ns:
                    self._close(connection)
                    self._open_failed(connection, "timeout")
            elif connection.state == ENDING and now - connection.since_ns > ENDING_NS:
                self.discard(connection)
        self._scan_from = 0
        self._next_scan_ns = now + max(MIN_SCAN_NS, SCAN_NS_PER_CONNECTION * len(self.all))

    def _time_out(self, connection: Connection) -> None:
        """Its request has timed out.  Implemented by `Connections`."""
        raise NotImplementedError


def shut(sock: socket.socket) -> None:
    """Tell the peer, unless it knows already."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
