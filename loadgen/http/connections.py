"""What happens to requests and replies outside the hot loops.

The hot loops (`open_loop.py`, `closed_loop.py`) handle the ordinary case: a
request that the kernel takes whole and a reply that arrives whole, with a known
head.  They call in here for everything else: partial sends, replies in pieces,
unknown heads, wrong replies, failures.  A failure costs the request that was on
the connection, is counted by kind, and the connection is reopened (`pool.py`).
"""

from __future__ import annotations

import errno
import select
import time

from loadgen.http.config import HttpConfig
from loadgen.http.ledger import Ledger
from loadgen.http.pool import BUSY, ENDING, IDLE, OPENING, Connection, Pool
from loadgen.http.records import ANSWERED, CONNECTION, NEVER_SENT, REJECTED, TIMEOUT, WRONG
from loadgen.http.reply import END, BadReplyError, Reply
from loadgen.net.connecting import ended_before, error_kind

MAX_REST_BYTES = 256 * 1024
"""Size of a read from the rest of a reply whose length is known."""

MAX_PIECE_BYTES = 64 * 1024
"""Size of any other read: as smallest chunks these cost 6 ms, in which nothing is sent."""

MAX_HEADS = 64
"""Heads remembered per template: Date makes a new one every second."""


class Connections(Pool):
    """The connections of a run, and the requests on them."""

    def __init__(self, config: HttpConfig, ledger: Ledger) -> None:
        super().__init__(config, ledger)
        self.first_wrong = ""
        self.wires = config.mix.wire(config.host)
        self.last_wires = config.mix.wire(config.host, close=True)
        # A reply to HEAD has a length but no body: it cannot take the fast path.
        self.heads: list[dict[bytes, tuple[int, int]] | None] = [
            None if template.method == "HEAD" else {} for template in config.mix.templates
        ]
        """By template: each known head, with (length from the head's terminator on, outcome)."""
        self._scratch = bytearray(MAX_REST_BYTES)

    # Sending outside the hot loop

    def send_next(self, connection: Connection) -> None:
        """Closed loop: the next request, on a connection that just became free."""
        ledger = self.ledger
        connection.request = i = len(ledger.sent)
        connection.template = template = ledger.choice[i & ledger.choice_mask]
        connection.known = self.heads[template]
        connection.state = BUSY
        ledger.sent.append(time.monotonic_ns())
        ledger.connection.append(connection.number)
        ledger.done.append(0)
        ledger.outcome.append(NEVER_SENT)
        limited = self.config.requests_per_connection > 0
        wire = self.limited_wire(connection, template) if limited else self.wires[template]
        try:
            taken = connection.send(wire)
            if taken != len(wire):
                self.send_later(connection, wire[taken:])
        except OSError as error:
            self.send_failed(connection, wire, error)

    def limited_wire(self, connection: Connection, template: int) -> bytes:
        """With --requests-per-connection: the last request says `Connection: close`."""
        connection.requests_left -= 1
        return self.wires[template] if connection.requests_left > 0 else self.last_wires[template]

    def send_later(self, connection: Connection, rest: bytes) -> None:
        """Send the rest when the socket is writable again."""
        connection.unsent = rest
        connection.known = None
        self.epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def send_failed(self, connection: Connection, wire: bytes, error: OSError) -> None:
        if error.errno == errno.EAGAIN:
            self.send_later(connection, wire)
        else:
            connection.unsent = wire
            self._drain_then_fail(connection, error)

    def _send_rest(self, connection: Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.send(connection.unsent) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._drain_then_fail(connection, error)
            return
        if not connection.unsent:
            self.epoll.modify(connection.fd, select.EPOLLIN)

    def _drain_then_fail(self, connection: Connection, error: OSError) -> None:
        """Sending failed, but the reply may have arrived before: 413, say, with the body unread.

        The kernel delivers what had arrived and then reports the end, even after a reset, whose
        error went to the send.
        """
        request = connection.request
        while connection.state == BUSY and connection.request == request:
            try:
                data = connection.recv(MAX_REST_BYTES)
            except OSError:
                data = b""
            if data:
                self.received(connection, data)
            elif ended_before(error) and connection.reply is not None:
                self._closed_by_peer(connection)
            else:
                self.io_failed(connection, error)

    # Receiving outside the hot loop

    def event(self, connection: Connection, events: int) -> None:
        """An event on a connection that is not simply waiting for a reply to begin."""
        if connection.state == OPENING:
            self._opened(connection)
            return
        if events == select.EPOLLOUT:  # alone: what there is to read comes before an error
            self._send_rest(connection)
            return
        try:
            if connection.missing:
                taken = connection.sock.recv_into(self._scratch)
                if taken:
                    self._rest(connection, taken)
                    return
                data = b""
            else:
                data = connection.recv(MAX_PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.io_failed(connection, error)
            return
        self.received(connection, data)

    def received(self, connection: Connection, data: bytes) -> None:
        """Bytes that the fast path could not handle; none: the peer has closed."""
        if connection.state != BUSY:
            if connection.state == IDLE and data:
                self._note_wrong(connection, f"bytes that answer no request: {data[:24]!r}")
                self.error_kinds["unexpected_bytes"] += 1
            if not data or connection.state == IDLE:
                self.discard(connection)
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
            self._judge(connection, reply)

    def _known(self, connection: Connection, data: bytes) -> bool:
        """Whether the head is known; the body may still be to come."""
        assert connection.known is not None
        end = data.find(END)
        found = connection.known.get(data[: end + len(END)])
        if found is None or found[0] < len(data) - end:
            return False
        if self.ledger.size is not None:
            self.ledger.size[connection.request] = found[0]
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
        self._complete(connection, connection.verdict, keep=True)

    def _closed_by_peer(self, connection: Connection) -> None:
        reply = connection.reply
        if reply is not None and reply.end():
            self._judge(connection, reply)
        else:
            begun = connection.missing or (reply is not None and reply.begun)
            self._fail(connection, CONNECTION, "closed_early" if begun else "closed")

    def io_failed(self, connection: Connection, error: OSError) -> None:
        """Receiving failed."""
        if isinstance(error, BlockingIOError):  # it was not ready after all
            return
        if connection.state == BUSY:
            self._fail(connection, CONNECTION, error_kind(error.errno))
        elif connection.state != OPENING:
            self.discard(connection)

    # How a request ends

    def _judge(self, connection: Connection, reply: Reply) -> None:
        """A reply is complete: determine its outcome."""
        template = self.config.mix.templates[connection.template]
        length = reply.body_bytes
        if self.ledger.size is not None:
            self.ledger.size[connection.request] = len(END) + length
        right = template.reply_bytes is None or length == template.reply_bytes
        if reply.status == template.status and right and not reply.spare:
            verdict = ANSWERED
        elif reply.status == 503 and not reply.spare:
            verdict = REJECTED
        else:
            verdict = WRONG
            if reply.spare:
                self.error_kinds["wrong_length"] += 1
                self._note_wrong(connection, f"{reply.spare} bytes beyond its length")
            elif reply.status != template.status:
                self.error_kinds[f"status_{reply.status}"] += 1
                self._note_wrong(connection, f"status {reply.status}, not {template.status}")
            else:
                self.error_kinds["wrong_length"] += 1
                self._note_wrong(connection, f"{length} bytes, not {template.reply_bytes}")
        known = self.heads[connection.template]
        framed = reply.length >= 0 and reply.status not in (204, 304)
        if known is not None and framed and reply.keep_alive and verdict != WRONG:
            if len(known) >= MAX_HEADS:
                known.clear()
            known[reply.head] = (len(END) + reply.length, verdict)
        self._complete(connection, verdict, reply.keep_alive and not reply.spare)

    def _complete(self, connection: Connection, outcome: int, keep: bool) -> None:
        now = time.monotonic_ns()
        self.ledger.done[connection.request] = now
        self.ledger.outcome[connection.request] = outcome
        keep = (
            keep and not connection.unsent
        )  # otherwise the rest would be read as the next request
        self._forget_request(connection)
        if not keep:
            self.discard(connection)
        elif self.config.requests_per_connection and connection.requests_left <= 0:
            connection.state = ENDING  # the server closes it as requested, or a later scan does
            connection.since_ns = now
        else:
            self.set_free(connection, now)

    def _fail(self, connection: Connection, outcome: int, kind: str) -> None:
        """Its request has failed, and the connection with it."""
        self.error_kinds[kind] += 1
        self.ledger.done[connection.request] = time.monotonic_ns()
        self.ledger.outcome[connection.request] = outcome
        self._forget_request(connection)
        self.discard(connection)

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

    def _time_out(self, connection: Connection) -> None:
        self._fail(connection, TIMEOUT, "timeout")

    def any_busy(self) -> bool:
        return any(connection.state == BUSY for connection in self.all)

    def give_up(self) -> None:
        """Everything still in flight has timed out."""
        for connection in self.all:
            if connection.state == BUSY:
                self.error_kinds["timeout"] += 1
                self.ledger.done[connection.request] = time.monotonic_ns()
                self.ledger.outcome[connection.request] = TIMEOUT
