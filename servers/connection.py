"""One connection on a nonblocking socket: what the event loop and SEDA share.

It holds what is the same whoever runs the steps: the session, the reply bytes
that the socket has not taken yet, and how far the connection is from its end.
When to read and write, and when a step runs, is for the architecture to decide.

How a connection ends.  `half_closed`: the peer will send no more; we close
when its replies are sent.  `closing`: we will begin no further request (the
last reply is made, or the server is stopping); when that reply is sent we `finish`:
we shut down our side, and read and discard what the peer still sends until it
closes too or `LINGER_S` is over.  Every other end is abrupt: the socket is closed
at once, and the reason is counted.

A reply counts as one when the kernel has taken the whole of it; a request whose
connection ends before that is counted as abandoned.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from bisect import bisect_right
from collections.abc import Iterator

from servers.counters import Counters
from servers.listener import LINGER_S, ServerOptions, shut
from servers.request_deadline import request_overdue
from servers.service import Buffer, Request, Session

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
BROKEN = select.EPOLLERR | select.EPOLLHUP

BUFFERS_PER_CALL = 64
"""Buffers given to one sendmsg(), of the 1024 that Linux takes; 64 is a guess."""


class Connection:
    """State of one connection: 0.7 KB with its session, and no receive buffer of its own."""

    __slots__ = (
        "active", "closed", "closing", "descriptor", "finished", "half_closed", "held", "interest",
        "outbox", "pending_part", "pending_since_ns", "receive", "recv_into", "reply_ends", "send",
        "sent_bytes", "session", "since_ns", "sock", "unacknowledged", "unsent",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, session: Session, now_ns: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.descriptor = sock.fileno()
        self.session = session
        # Bound once: saves the hot loops two attribute look-ups per call.
        self.recv_into = sock.recv_into
        self.send = sock.send
        self.receive = session.receive
        self.interest = READABLE  # what the poller watches
        self.outbox: list[Buffer] = []
        self.unsent = 0  # bytes in the outbox
        self.sent_bytes = 0  # since the outbox was last empty
        self.reply_ends: list[int] = []  # of the waiting replies, as values of `sent_bytes`
        self.held: Iterator[Request] | None = None  # not begun, because too much is unsent
        self.half_closed = False
        self.closing = False
        self.finished = False
        self.closed = False
        self.active = True  # bytes were transferred since the last sweep
        self.since_ns = now_ns  # when a sweep last saw that
        self.unacknowledged = -1  # bytes not acknowledged by the peer's kernel then; -1: unknown
        self.pending_part = (
            0  # of a request, at the last sweep, and since when: `servers.request_deadline`
        )
        self.pending_since_ns = now_ns

    @property
    def at_rest(self) -> bool:
        """Nothing is in flight: no partial request, no unsent reply."""
        return self.session.idle and not self.outbox and self.held is None

    def post(self, reply: tuple[Buffer, ...]) -> None:
        """Append a reply to the outbox; one that is not bytes raises, but counts as waiting."""
        try:
            for buffer in reply:
                if size := len(buffer):
                    self.outbox.append(buffer)
                    self.unsent += size
        finally:
            self.reply_ends.append(self.sent_bytes + self.unsent)

    def abandon(self) -> int:
        """The connection ends: how many of its requests will never have a complete reply."""
        held, self.held = self.held, None
        abandoned = len(self.reply_ends) + (sum(1 for _ in held) if held is not None else 0)
        self.reply_ends.clear()
        return abandoned

    def flush(self, counters: Counters) -> None:
        """Send what the socket takes.  Raises OSError when the peer is gone."""
        outbox = self.outbox
        if not outbox:
            counters.replies += len(self.reply_ends)  # empty replies
            self.reply_ends.clear()
        while outbox:
            try:
                if len(outbox) == 1:
                    sent = self.send(outbox[0])
                else:
                    sent = self.sock.sendmsg(outbox[:BUFFERS_PER_CALL])
            except BlockingIOError:
                return
            self.active = True
            self.unsent -= sent
            counters.bytes_out += sent
            if not self.unsent:
                outbox.clear()
                counters.replies += len(self.reply_ends)
                self.reply_ends.clear()
                self.sent_bytes = 0
                return
            self.sent_bytes += sent
            if whole_replies := bisect_right(self.reply_ends, self.sent_bytes):
                counters.replies += whole_replies
                del self.reply_ends[:whole_replies]
            whole = 0
            while sent >= len(outbox[whole]):
                sent -= len(outbox[whole])
                whole += 1
            del outbox[:whole]
            if sent:
                outbox[0] = memoryview(outbox[0])[sent:]

    def finish(self, now_ns: int) -> None:
        """Shut down our side; from now on the linger time runs."""
        self.finished = True
        self.since_ns = now_ns
        shut(self.sock, socket.SHUT_WR)

    def wanted(self, max_unsent: int) -> int:
        """The events that the poller should watch for now."""
        events = WRITABLE if self.outbox else 0
        # While the last reply is being sent nothing is read; afterwards, only to be discarded.
        if self.finished or not (self.closing or self.held or self.unsent > max_unsent):
            events |= READABLE
        return events if not self.half_closed else events & ~READABLE

    def request_overdue(self, now_ns: int, options: ServerOptions) -> bool:
        """Called by every sweep: has the peer used up its time for the request that it began?"""
        if self.closing or self.held is not None or self.unsent > options.max_unsent:
            self.pending_part = 0  # we are not reading, so the peer cannot go on
            return False
        return request_overdue(self, now_ns, options)

    def overdue(self, now_ns: int, options: ServerOptions) -> str | None:
        """Called by every sweep: the kind of time-out that has expired, if any."""
        if self.finished:
            return "linger" if now_ns - self.since_ns > LINGER_S * 1e9 else None
        if self.active:
            self.active = False
            self.since_ns = now_ns
            self.unacknowledged = -1
            return None
        # Held requests wait until the socket takes more, even if it has taken all so far.
        if not self.outbox and self.held is None:
            return "idle" if now_ns - self.since_ns > options.idle_timeout_s * 1e9 else None
        if self.unacknowledged < 0:
            self.unacknowledged = unacknowledged(self.sock)
            return None
        if now_ns - self.since_ns <= options.send_timeout_s * 1e9:
            return None
        # The poller reports a socket as writable again when a third of its buffer, which may
        # be megabytes, is free; a slow reader is not idle just because that takes longer.
        before, self.unacknowledged = self.unacknowledged, unacknowledged(self.sock)
        if self.unacknowledged >= before:
            return "unread"
        self.since_ns = now_ns
        return None


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that we have sent and the peer's kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
    try:
        asked = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # another thread has closed it
        return 0
    return int.from_bytes(asked, sys.byteorder)
