"""One connection on a blocking socket, for architectures that give it a thread.

The counterpart of `servers.connection`.  The thread that reads waits in `recv`, whoever
writes waits in `send`, and the time-outs of both are the kernel's.  So there is little
state: why the conversation ends, and how many of its requests have had their reply.
"""

from __future__ import annotations

import socket
import threading
from collections import deque

from servers.connection import BUFFERS_PER_CALL
from servers.counters import Counters
from servers.listener import LINGER_S, set_kernel_timeouts, shut
from servers.service import Buffer, Request, Session

BYTES_PER_TURN = 1 << 20
"""`send_available` sends no more: a peer may read a large file as fast as we write it."""


class Conversation:
    """One connection.  What `servers.writers` needs is empty unless there are writers."""

    __slots__ = (
        "caught_up", "closing", "error", "lock", "outbox", "outbox_bytes", "pending_part",
        "pending_since_ns", "reader_done", "reader_waits", "received", "replied", "session",
        "sock", "timed_out", "with_writers",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self.closing = False  # no further request is begun
        self.error = ""  # why it ends, unless the peer closed it in an orderly way
        self.received = 0  # requests; only its reader counts them
        self.replied = 0  # replies; only whoever writes counts them
        self.pending_part = 0  # `servers.request_deadline`
        self.pending_since_ns = 0
        self.timed_out = False  # its request is overdue; the reader has to answer
        self.outbox: deque[Request] | None = None  # replies handed to the writers, not yet sent
        self.outbox_bytes = 0  # handed over since the outbox was last empty
        self.with_writers = False  # queued, in a writer's hands, or parked
        self.reader_waits = False  # until the writers have caught up
        self.reader_done = False  # so that the writer has to close it

    def use_writers(self) -> None:
        """Replies will be handed to writers."""
        self.lock = threading.Lock()  # guards the outbox and the four attributes below it
        self.caught_up = threading.Condition(self.lock)
        self.outbox = deque()

    @property
    def at_rest(self) -> bool:
        """Nothing is in flight: no partial request, no unsent reply."""
        return self.session.idle and not self.with_writers

    def fail(self, error: str) -> None:
        """End it abruptly for this reason; the reader sees the end of its input."""
        self.error = error
        self.closing = True
        shut(self.sock, socket.SHUT_RDWR)

    def send_reply(self, request: Request, counters: Counters) -> None:
        """Send a whole reply; block while the peer is slow, at most for `--send-timeout`."""
        sock = self.sock
        try:
            reply = request.reply
            sent = sock.sendmsg(reply) if len(reply) > 1 else 0
            counters.bytes_out += sent
            for buffer in reply:
                if sent >= len(buffer):
                    sent -= len(buffer)
                    continue
                rest = memoryview(buffer)[sent:] if sent else buffer
                sent = 0
                sock.sendall(rest)
                counters.bytes_out += len(rest)
        except BlockingIOError:
            self.fail("unread")
            return
        self._sent(request, counters)

    def send_available(self, request: Request, counters: Counters) -> bool:
        """Send as much of a reply as the socket takes now; False if some of it is left."""
        reply = request.reply
        turn_bytes = 0
        try:
            while reply and turn_bytes < BYTES_PER_TURN:
                if len(reply) == 1:
                    sent = self.sock.send(reply[0], socket.MSG_DONTWAIT)
                    if sent == len(reply[0]):  # nearly always
                        counters.bytes_out += sent
                        reply = ()
                        break
                else:
                    sent = self.sock.sendmsg(reply[:BUFFERS_PER_CALL], (), socket.MSG_DONTWAIT)
                counters.bytes_out += sent
                turn_bytes += sent
                reply = after(reply, sent)
        except BlockingIOError:
            pass
        request.reply = reply
        if reply:
            return False
        self._sent(request, counters)
        return True

    def _sent(self, request: Request, counters: Counters) -> None:
        counters.replies += 1
        self.replied += 1
        if request.last:
            self.closing = True
            shut(self.sock, socket.SHUT_WR)
            set_kernel_timeouts(self.sock, LINGER_S, LINGER_S)


def after(reply: tuple[Buffer, ...], sent: int) -> tuple[Buffer, ...]:
    """The rest of a reply of which `sent` bytes have been sent."""
    whole = 0
    while whole < len(reply) and sent >= len(reply[whole]):
        sent -= len(reply[whole])
        whole += 1
    if whole == len(reply):
        return ()
    if not sent:
        return reply[whole:]
    return (memoryview(reply[whole])[sent:], *reply[whole + 1 :])
