"""A fixed pool of threads that write the replies of `threaded --writers N`.

The thread that reads a connection runs the steps and hands the reply over.  A
conversation is queued for a writer, in the hands of one, or parked, but never in two of
these places, so its replies keep their order.

A writer waits for no peer: a conversation whose socket is full is parked
(`servers.full_sockets`) until it takes more; the main thread watches the parked ones.
With `--blocking-writers` a writer waits for its peer, as in the paper: then N peers that do
not read stop the replies to everybody.
"""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable

from servers.conversation import Conversation
from servers.counters import Counters, Ledger
from servers.full_sockets import FullSockets
from servers.listener import ServerOptions
from servers.options import UsageError
from servers.service import Request
from servers.shortage import limit_reached

REPLIES_PER_TURN = 64
"""Replies to one connection that a writer sends before those that wait get their turn."""


class Writers:
    """The pool.  `close` is called for a conversation whose reader has finished before."""

    def __init__(
        self,
        server: ServerOptions,
        blocking: bool,
        ledger: Ledger,
        report_fault: Callable[[Exception], None],
        close: Callable[[Conversation, Counters], None],
    ) -> None:
        self._max_unsent = server.max_unsent
        self._blocking = blocking
        self._ledger = ledger
        self._report_fault = report_fault
        self._close = close
        self._queue: queue.SimpleQueue[Conversation] = queue.SimpleQueue()
        self.full: FullSockets[Conversation] = FullSockets(server.send_timeout_s)

    def start(self, threads: int) -> None:
        for started in range(threads):
            try:
                _thread.start_new_thread(self._work, ())
            except (RuntimeError, MemoryError) as error:
                raise UsageError(
                    f"only {started} of the {threads} threads of --writers could be started: "
                    f"{limit_reached(error, threading.stack_size())}, or ask for fewer"
                ) from None

    def hand_over(self, conversation: Conversation, request: Request) -> None:
        """Leave a reply to the writers; called by the reader of the conversation.

        The reader waits for them when too much is unsent, as it would in `sendall`
        without them, and after the last reply.
        """
        assert conversation.outbox is not None
        size_bytes = sum(map(len, request.reply))
        max_unsent = self._max_unsent if not request.last else -1
        with conversation.lock:
            conversation.outbox.append(request)
            conversation.outbox_bytes += size_bytes
            if not conversation.with_writers:
                conversation.with_writers = True
                self._queue.put(conversation)
            while conversation.with_writers and conversation.outbox_bytes > max_unsent:
                conversation.reader_waits = True
                conversation.caught_up.wait()

    def resume(self) -> None:
        """Requeue the parked conversations whose sockets take more."""
        for conversation in self.full.writable():
            self._queue.put(conversation)

    def end_unread(self, now_ns: int) -> None:
        """End the conversations whose peers do not read their replies."""
        for conversation in self.full.overdue(now_ns):
            conversation.fail("unread")
            self._queue.put(conversation)  # a writer drops the rest

    def _work(self) -> None:
        """The life of one writer."""
        counters = self._ledger.lease()
        while True:
            conversation = self._queue.get()
            if self._write(conversation, counters):
                self._queue.put(conversation)

    def _write(self, conversation: Conversation, counters: Counters) -> bool:
        """One conversation's turn; True if it needs another."""
        outbox = conversation.outbox
        assert outbox is not None
        for _ in range(REPLIES_PER_TURN):
            if not outbox:
                with conversation.lock:
                    if outbox:  # handed over just now
                        continue
                    conversation.with_writers = False
                    conversation.outbox_bytes = 0
                    if conversation.reader_waits:
                        conversation.reader_waits = False
                        conversation.caught_up.notify()
                    if conversation.reader_done:
                        self._close(conversation, counters)
                return False
            request = outbox.popleft()  # no lock: nobody else takes from it
            if conversation.closing:
                continue  # nothing follows a last reply
            try:
                if self._blocking:
                    conversation.send_reply(request, counters)
                elif not conversation.send_available(request, counters):
                    outbox.appendleft(request)
                    self.full.park(conversation.sock, conversation)
                    return False
            except OSError:
                conversation.error = conversation.error or "reset"
                conversation.closing = True
            except TypeError as error:  # a reply that is not bytes
                self._report_fault(error)
                conversation.fail(conversation.error or "handler")
        return True
