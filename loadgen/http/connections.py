"""The connections of an HTTP run: what happens to them beside the ordinary.

A connection is opening, idle, busy with one request, or ending.  One that
breaks costs the request that was on it, is counted by kind, and is opened
anew: the demand of an open loop does not go away with a connection.  That is
done at once, but between the loop's turns and not many at a time: the requests
that are due must not wait for it.  One that cannot be opened is tried again
after `RETRY_NS`.

The hot loops in `http.py` call in here when something is not as usual: they
hold the arrays, this file writes into them what became of a request.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from array import array
from collections import Counter, deque
from types import TracebackType
from typing import Self

from loadgen.http.reply import END, BadReplyError, Reply
from loadgen.http.run import ANSWERED, CONNECTION, NEVER_SENT, REJECTED, TIMEOUT, WRONG, HttpConfig
from loadgen.net.connecting import begin, ended_before, error_kind, open_connections
from loadgen.net.limits import ensure_room_for
from loadgen.net.targets import LoadError

IDLE, BUSY, OPENING, ENDING = range(4)

RETRY_NS = 50_000_000
"""After a connection could not be opened."""

TIMED_OUT_AT_ONCE = 4
"""And one more for every `CONNECTIONS_A_TIMEOUT`: each costs 15 us, in which nothing is sent."""

CONNECTIONS_A_TIMEOUT = 256
"""So that all can time out within a quarter of a second, at a look a millisecond."""

SCAN_NS, NS_A_CONNECTION = 10_000_000, 1000
"""From one look at all connections to the next, at least; a look takes 0.07 us for each."""

LARGE_BYTES = 256 * 1024
"""Of a look at the rest of a reply whose length is known."""

PIECE_BYTES = 64 * 1024
"""Of a look at any other: in the smallest chunks they cost 6 ms, in which nothing is sent."""

HEADS_KEPT = 64
"""Heads remembered for a template: Date makes a new one every second."""


class Connection:
    """One place among N; its socket may change, its number does not."""

    __slots__ = (
        "fd", "known", "left", "missing", "number", "recv", "reply", "request", "send", "since_ns",
        "sock", "state", "template", "unsent", "verdict",
    )  # fmt: skip

    def __init__(self, number: int, left: int) -> None:
        self.number = number
        self.fd = -1
        self.state = OPENING
        self.since_ns = 0  # when it became free, or began to open or to end
        self.request = -1
        self.template = 0
        self.known: dict[bytes, tuple[int, int]] | None = None
        """Heads that the fast path may look for: only while a reply has not begun."""
        self.missing = 0  # bytes of a reply whose head is known
        self.verdict = 0  # what it will be then
        self.reply: Reply | None = None
        self.unsent = b""
        self.left = left  # requests until it is closed, if that is limited

    def use(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.send = sock.send
        self.recv = sock.recv


class Connections:
    """All of them, and what they do outside the hot loops."""

    def __init__(self, config: HttpConfig, done: array[int], outcome: bytearray) -> None:
        self.config = config
        self.epoll = select.epoll()
        self.by_fd: dict[int, Connection] = {}
        self.all: list[Connection] = []
        self.free: deque[Connection] = deque()
        self.closed: deque[Connection] = deque()
        """To be opened again, by `reopen`."""
        self.retries: deque[tuple[int, Connection]] = deque()
        """Could not be opened: when to try again."""
        self.kinds: Counter[str] = Counter()
        self.connected = 0
        self.reconnects = 0
        self.first_wrong = ""
        self.due: array[int] = array("q")
        """When each request's time began: its scheduled time, or in a closed loop when sent."""
        self.wires = config.mix.wire(config.host)
        self.last_wires = config.mix.wire(config.host, close=True)
        # A reply to HEAD has a length and no body: it has to be read with that in mind.
        self.heads: list[dict[bytes, tuple[int, int]] | None] = [
            None if template.method == "HEAD" else {} for template in config.mix.templates
        ]
        self._done = done
        self._outcome = outcome
        self._scratch = bytearray(LARGE_BYTES)
        self._timeout_ns = round(config.timeout_s * 1e9)
        self._next_scan_ns = 0
        self._scan_from = 0
        self._timed_out_at_once = TIMED_OUT_AT_ONCE + config.connections // CONNECTIONS_A_TIMEOUT
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
        """Open as many as were asked for.  Raises LoadError if none comes up."""
        config = self.config
        ensure_room_for(config.connections)
        failures: Counter[str] = Counter()
        sockets = open_connections(
            config.target, config.connections,
            rate=config.connect_rate, timeout_s=config.timeout_s, failures=failures,
        )  # fmt: skip
        if not sockets:
            if failures["refused"] == config.connections:
                raise LoadError(f"nothing listens on {config.target}: start the server first")
            kinds = ", ".join(f"{kind}: {n}" for kind, n in failures.items())
            raise LoadError(
                f"no connection to {config.target} came up ({kinds}): check host, port and firewall"
            )
        for kind, number in failures.items():
            self.kinds[f"connect_{kind}"] += number
        self.connected = len(sockets)
        now = time.monotonic_ns()
        for number in range(config.connections):
            connection = Connection(number, config.requests_per_connection)
            self.all.append(connection)
            if number < len(sockets):
                connection.use(sockets[number])
                self.by_fd[connection.fd] = connection
                self.epoll.register(connection.fd, select.EPOLLIN)
                self._set_free(connection, now)
            else:
                self.retries.append((now + RETRY_NS, connection))

    # Sending, when it is not the hot loop that does

    def send_next(
        self, connection: Connection, sent: array[int], by: array[int], choice: array[int]
    ) -> None:
        """Closed loop: the next request, on a connection that just became free."""
        connection.request = i = len(sent)
        connection.template = template = choice[i % len(choice)]
        connection.known = self.heads[template]
        connection.state = BUSY
        sent.append(time.monotonic_ns())
        by.append(connection.number)
        self._done.append(0)
        self._outcome.append(NEVER_SENT)
        limited = self.config.requests_per_connection
        wire = self.limited_wire(connection, template) if limited else self.wires[template]
        try:
            taken = connection.send(wire)
            if taken != len(wire):
                self.send_later(connection, wire[taken:])
        except OSError as error:
            self.failed_to_send(connection, wire, error)

    def limited_wire(self, connection: Connection, template: int) -> bytes:
        connection.left -= 1
        return self.wires[template] if connection.left > 0 else self.last_wires[template]

    def send_later(self, connection: Connection, rest: bytes) -> None:
        connection.unsent = rest
        connection.known = None
        self.epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def failed_to_send(self, connection: Connection, wire: bytes, error: OSError) -> None:
        if error.errno == errno.EAGAIN:
            self.send_later(connection, wire)
        else:
            connection.unsent = wire
            self._judge_what_came(connection, error)

    def _send_on(self, connection: Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.send(connection.unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._judge_what_came(connection, error)
            return
        if not connection.unsent:
            self.epoll.modify(connection.fd, select.EPOLLIN)

    def _judge_what_came(self, connection: Connection, error: OSError) -> None:
        """Sending failed; the reply may have come before: 413, say, with the body unread.

        The kernel keeps what has come, and then says that this was all; it does so after a reset
        too, whose error the send has had.
        """
        request = connection.request
        while connection.state == BUSY and connection.request == request:
            try:
                data = connection.recv(LARGE_BYTES)
            except OSError:
                data = b""
            if data:
                self.piece(connection, data)
            elif ended_before(error) and connection.reply is not None:
                self._closed_by_peer(connection)
            else:
                self.broke(connection, error)

    # Events out of the ordinary

    def event(self, connection: Connection, events: int) -> None:
        """A connection that is not simply waiting for a reply to begin."""
        if connection.state == OPENING:
            self._opened(connection)
            return
        if events == select.EPOLLOUT:  # alone: what there is to read comes before an end
            self._send_on(connection)
            return
        try:
            if connection.missing:
                taken = connection.sock.recv_into(self._scratch)
                if taken:
                    self._rest(connection, taken)
                    return
                data = b""
            else:
                data = connection.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.broke(connection, error)
            return
        self.piece(connection, data)

    def piece(self, connection: Connection, data: bytes) -> None:
        """Bytes that the fast path had no use for; none: the peer has closed."""
        if connection.state != BUSY:
            if connection.state == IDLE and data:
                self._note_wrong(connection, f"bytes that answer nothing: {data[:24]!r}")
                self.kinds["unexpected_bytes"] += 1
            if not data or connection.state == IDLE:
                self._reopen(connection)
            return
        if not data:
            self._closed_by_peer(connection)
            return
        if connection.missing:
            self._rest(connection, len(data))
            return
        if connection.reply is None:
            if connection.known is not None and self._known(connection, data):
                return
            method = self.config.mix.templates[connection.template].method
            connection.reply = Reply(head_only=method == "HEAD")
            connection.known = None
        reply = connection.reply
        try:
            reply.feed(data)
        except BadReplyError as error:
            self._note_wrong(connection, str(error))
            self._fail(connection, WRONG, "bad_reply")
            return
        if reply.complete:
            self._finish(connection, reply)

    def _known(self, connection: Connection, data: bytes) -> bool:
        """The head is known, and the body not here yet, or the connection's last."""
        assert connection.known is not None
        end = data.find(END)
        found = connection.known.get(data[: end + len(END)])
        if found is None or found[0] < len(data) - end:
            return False
        connection.known = None
        connection.missing = found[0]
        connection.verdict = found[1]
        self._rest(connection, len(data) - end)
        return True

    def _rest(self, connection: Connection, size: int) -> None:
        connection.missing -= size
        if connection.missing > 0:
            return
        if connection.missing < 0:
            self._note_wrong(connection, f"{-connection.missing} bytes beyond its length")
            self._fail(connection, WRONG, "wrong_length")
            return
        self._settle(connection, connection.verdict, keep=True)

    def _closed_by_peer(self, connection: Connection) -> None:
        reply = connection.reply
        if reply is not None and reply.end():
            self._finish(connection, reply)
        else:
            begun = connection.missing or (reply is not None and reply.begun)
            self._fail(connection, CONNECTION, "closed_early" if begun else "closed")

    def broke(self, connection: Connection, error: OSError) -> None:
        """A system call on it failed."""
        if isinstance(error, BlockingIOError):  # it was not ready after all
            return
        if connection.state == BUSY:
            self._fail(connection, CONNECTION, error_kind(error.errno))
        elif connection.state != OPENING:
            self._reopen(connection)

    # How a request ends

    def _finish(self, connection: Connection, reply: Reply) -> None:
        """A reply is whole: what was it?"""
        template = self.config.mix.templates[connection.template]
        length = reply.body_bytes
        right = template.reply_bytes is None or length == template.reply_bytes
        if reply.status == template.status and right and not reply.spare:
            verdict = ANSWERED
        elif reply.status == 503 and not reply.spare:
            verdict = REJECTED
        else:
            verdict = WRONG
            if reply.spare:
                self.kinds["wrong_length"] += 1
                self._note_wrong(connection, f"{reply.spare} bytes beyond its length")
            elif reply.status != template.status:
                self.kinds[f"status_{reply.status}"] += 1
                self._note_wrong(connection, f"status {reply.status}, not {template.status}")
            else:
                self.kinds["wrong_length"] += 1
                self._note_wrong(connection, f"{length} bytes, not {template.reply_bytes}")
        known = self.heads[connection.template]
        framed = reply.length >= 0 and reply.status not in (204, 304)
        if known is not None and framed and reply.keep_alive and verdict != WRONG:
            if len(known) >= HEADS_KEPT:
                known.clear()
            known[reply.head] = (len(END) + reply.length, verdict)
        self._settle(connection, verdict, reply.keep_alive and not reply.spare)

    def _settle(self, connection: Connection, outcome: int, keep: bool) -> None:
        now = time.monotonic_ns()
        self._done[connection.request] = now
        self._outcome[connection.request] = outcome
        keep = keep and not connection.unsent  # else the rest would be read as the next request
        self._forget_request(connection)
        if not keep:
            self._reopen(connection)
        elif self.config.requests_per_connection and connection.left <= 0:
            connection.state = ENDING  # the server closes, as it was told; else the next scan
            connection.since_ns = now
        else:
            self._set_free(connection, now)

    def _fail(self, connection: Connection, outcome: int, kind: str) -> None:
        """Its request has failed, and the connection with it."""
        self.kinds[kind] += 1
        self._done[connection.request] = time.monotonic_ns()
        self._outcome[connection.request] = outcome
        self._forget_request(connection)
        self._reopen(connection)

    def _note_wrong(self, connection: Connection, what: str) -> None:
        if not self.first_wrong:
            template = self.config.mix.templates[connection.template]
            self.first_wrong = f"{template.method} {template.path}: {what}"

    @staticmethod
    def _forget_request(connection: Connection) -> None:
        connection.request = -1
        connection.known = None
        connection.reply = None
        connection.missing = 0
        connection.unsent = b""

    # Opening

    def _set_free(self, connection: Connection, now: int) -> None:
        connection.state = IDLE
        connection.since_ns = now
        self.free.append(connection)

    def _reopen(self, connection: Connection) -> None:
        if connection.state == IDLE:
            self.free.remove(connection)
        self._close(connection)
        self.reconnects += 1
        connection.state = OPENING
        self.closed.append(connection)

    def _close(self, connection: Connection) -> None:
        """Shut it now; its descriptor is given back between two turns (`release`).

        Else a new connection might get the same one, and with it, out of the
        batch that is being worked on, an event of the old.
        """
        if self.by_fd.pop(connection.fd, None) is not None:
            self.epoll.unregister(connection.fd)
            shut(connection.sock)
            self._closing.append(connection.sock)
        connection.fd = -1  # the next socket of any connection may get the number

    def reopen(self, most: int) -> None:
        """Open as many of the closed as that.  Between two turns only: it gives descriptors back.

        One costs 30 to 35 us from the end of the old to the first request on the new.
        """
        self.release()
        for _ in range(min(most, len(self.closed))):
            self._begin(self.closed.popleft())

    def release(self) -> None:
        """Give back the descriptors of closed connections."""
        for sock in self._closing:
            sock.close()
        self._closing.clear()

    def _begin(self, connection: Connection) -> None:
        now = time.monotonic_ns()
        connection.state = OPENING
        connection.since_ns = now
        connection.left = self.config.requests_per_connection
        failures: Counter[str] = Counter()
        sock = begin(self.config.target, 0, failures)
        if sock is None:
            self._could_not_open(connection, *failures)
            return
        connection.use(sock)
        self.by_fd[connection.fd] = connection
        self.epoll.register(connection.fd, select.EPOLLOUT)

    def _opened(self, connection: Connection) -> None:
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._close(connection)
            self._could_not_open(connection, error_kind(code))
        else:
            self.epoll.modify(connection.fd, select.EPOLLIN)
            self._set_free(connection, time.monotonic_ns())

    def _could_not_open(self, connection: Connection, kind: str) -> None:
        self.kinds[f"connect_{kind}"] += 1
        self.retries.append((time.monotonic_ns() + RETRY_NS, connection))

    # What time brings

    def look_after(self, now: int) -> None:
        """Called every few milliseconds: time-outs, and connections to be tried again."""
        while self.retries and self.retries[0][0] <= now:
            self.closed.append(self.retries.popleft()[1])
        if now >= self._next_scan_ns:
            self._scan(now)

    @property
    def in_a_hurry(self) -> bool:
        """A look in a millisecond rather than ten is worth its while."""
        return self._scan_from > 0

    def _scan(self, now: int) -> None:
        """End what has timed out; if that is much, go on at the next look."""
        late = 0
        for number in range(self._scan_from, len(self.all)):
            connection = self.all[number]
            if connection.state == BUSY:
                if now - self.due[connection.request] > self._timeout_ns:
                    self._fail(connection, TIMEOUT, "timeout")
                    late += 1
                    if late == self._timed_out_at_once:
                        self._scan_from = number
                        return
            elif connection.state == OPENING:
                if connection.fd in self.by_fd and now - connection.since_ns > self._timeout_ns:
                    self._close(connection)
                    self._could_not_open(connection, "timeout")
            elif connection.state == ENDING and now - connection.since_ns > 100_000_000:
                self._reopen(connection)
        self._scan_from = 0
        self._next_scan_ns = now + max(SCAN_NS, NS_A_CONNECTION * len(self.all))

    def any_busy(self) -> bool:
        return any(connection.state == BUSY for connection in self.all)

    def give_up(self) -> None:
        """Whatever is still under way has timed out."""
        for connection in self.all:
            if connection.state == BUSY:
                self.kinds["timeout"] += 1
                self._done[connection.request] = time.monotonic_ns()
                self._outcome[connection.request] = TIMEOUT


def shut(sock: socket.socket) -> None:
    """Tell the peer; it does not matter if it knows."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
