"""One thread per connection: the operating system schedules everything.

The model that the paper argues against.  The main thread accepts; every connection gets
a thread of its own, which reads from its blocking socket, runs the steps of each request
one after another, and writes the reply.  While it waits, it waits in the kernel.  There
is no state machine and no queue, and the program reads from top to bottom.

With `--writers N` the connection's thread runs the steps and hands the reply to a fixed
pool of writer threads (`servers.writers`).  `--writers 120 --blocking-writers` is the
server of the paper's Figure 1.

The cost of a connection is its thread.  So the thread is small: a small stack, and a
small buffer to wait in.  A large buffer is borrowed only while more has arrived than
the small one holds.
"""

from __future__ import annotations

import _thread
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servers.acceptor import Acceptor, refuse
from servers.architecture import Architecture
from servers.conversation import Conversation
from servers.counters import Counters
from servers.listener import (
    DRAIN_TICK_S,
    LINGER_S,
    ServerOptions,
    set_kernel_timeouts,
    shut,
    sweep_interval_s,
)
from servers.options import UsageError, option
from servers.request_deadline import reports_pending, request_overdue
from servers.service import Request, Service
from servers.writers import Writers

WAITING_BUFFER_BYTES = 4096
"""What a blocked thread holds.  One page: small requests fit, and 4,096 threads hold 16 MB."""

SWITCH_S_PER_THREAD = 100e-6
"""Each thread adds this to the interpreter's switch interval, which is never below 5 ms.

A thread that waits for the interpreter's lock wakes once per interval to ask
for it.  At the default of 5 ms, 8,192 threads that all have something to do
wake 1.6 million times a second, and two cores do nothing else: SIGTERM under
such load took from 1.5 s to over a minute; with this setting 0.3 to 0.6 s, once
6.6.  A thread releases the lock at every system call anyway; the interval matters
only for long steps.
"""


@dataclass(frozen=True)
class ThreadedOptions:
    """How many threads write, and how large a thread is."""

    writers: int = option(
        0, "number of writer threads that send the replies; 0: each connection's own thread does",
        minimum=0, maximum=10_000,
    )  # fmt: skip
    blocking_writers: bool = option(
        False, "a writer waits for its peer, as in the paper: as many peers that do not read as "
        "there are writers stop the replies to everybody",
    )  # fmt: skip
    stack_kb: int = option(
        256, "address space of each thread's stack; only the part that is used costs memory",
        minimum=32,
    )  # fmt: skip


class Threaded(Architecture):
    """Accepts on the main thread; each connection has a thread of its own."""

    name = "threaded"
    summary = "one blocking thread per connection; --writers N adds a pool of writers"
    Options = ThreadedOptions
    options: ThreadedOptions

    def __init__(
        self, service: Service, listener: socket.socket, server: ServerOptions, options: Any
    ) -> None:
        super().__init__(service, listener, server, options)
        if options.blocking_writers and not options.writers:
            raise UsageError("--blocking-writers needs writers; say how many with --writers N")

    def prepare(self) -> None:
        self.stopping = False
        self.has_deadlines = False  # the service's sessions report pending requests
        self.conversations: set[Conversation] = set()
        self.counters = self.ledger.lease()
        self.large_buffers: deque[bytearray] = deque(maxlen=64)
        threading.stack_size(self.options.stack_kb * 1024)
        self.writers: Writers | None = None
        if self.options.writers:
            self.writers = Writers(
                self.server, self.options.blocking_writers, self.ledger, self.report_fault,
                self._close,
            )  # fmt: skip
            self.writers.start(self.options.writers)

    def run(self) -> None:
        self._accept_until_stopped()
        self.stopping = True
        self.listener.close()
        self._drain()

    # -- the main thread -------------------------------------------------------------------

    def _accept_until_stopped(self) -> None:
        acceptor = Acceptor(self.listener, lambda: len(self.conversations) < self.max_connections)
        listener = self.listener.fileno()
        ready = select.poll()
        ready.register(listener, select.POLLIN)
        ready.register(self.wakeup, select.POLLIN)
        if self.writers:
            ready.register(self.writers.full, select.POLLIN)
        sweep_ns = 0
        interval_s = sweep_interval_s(self.server)
        while True:
            # Never without a time-out: a signal that arrives just before poll(), or on another
            # thread, does not interrupt it, and its handler runs on this thread only.
            descriptors = [descriptor for descriptor, _ in ready.poll(max(1, interval_s * 1e3))]
            if self.wakeup in descriptors:
                return
            if (now_ns := time.monotonic_ns()) >= sweep_ns:
                sweep_ns = now_ns + int(interval_s * 1e9)
                self._sweep(now_ns)
                if acceptor.failed:
                    acceptor.failed = False
                    ready.register(listener, select.POLLIN)
            if self.writers:
                self.writers.resume()
            if listener in descriptors:
                for sock in acceptor.take(1, self.counters):
                    self._start_conversation(sock)
                if acceptor.failed:
                    ready.unregister(listener)

    def _start_conversation(self, sock: socket.socket) -> None:
        """Give the connection a thread, or refuse it if none is available."""
        session = self.new_session(sock, self.counters)
        if session is None:
            return
        conversation = Conversation(sock, session)
        self.has_deadlines = reports_pending(type(session))
        self.conversations.add(conversation)
        self.counters.accepted += 1  # before its thread can answer
        try:
            _thread.start_new_thread(self._reader, (conversation,))
        except (RuntimeError, MemoryError):
            self.conversations.discard(conversation)
            self.counters.accepted -= 1
            refuse(sock, self.counters, failed=True)
            return
        sys.setswitchinterval(max(0.005, SWITCH_S_PER_THREAD * len(self.conversations)))

    def _sweep(self, now_ns: int) -> None:
        """Find the peers that do not finish a request, or do not read their replies."""
        if self.writers:
            self.writers.end_unread(now_ns)
        if not self.has_deadlines:
            return
        for conversation in self.conversations.copy():
            if conversation.timed_out or conversation.closing:
                continue
            if conversation.received != conversation.replied:
                conversation.pending_part = 0  # we may not be reading, so the peer cannot go on
            elif request_overdue(conversation, now_ns, self.server):
                conversation.timed_out = True
                shut(conversation.sock, socket.SHUT_RD)  # which wakes its thread

    def _drain(self) -> None:
        """Finish what is in flight; after the grace period, end it."""
        os.eventfd_read(self.wakeup)
        deadline_ns = time.monotonic_ns() + int(self.server.grace_s * 1e9)
        while self.conversations and time.monotonic_ns() < deadline_ns:
            for conversation in self.conversations.copy():
                if conversation.at_rest and not conversation.closing:
                    # What has arrived is still read and answered; then the thread sees the end.
                    shut(conversation.sock, socket.SHUT_RD)
            if self.writers:
                self.writers.end_unread(time.monotonic_ns())
                self.writers.resume()
            time.sleep(DRAIN_TICK_S)
        for conversation in self.conversations.copy():
            conversation.error = "linger" if conversation.closing else "aborted"
            shut(conversation.sock, socket.SHUT_RDWR)
        deadline_ns = time.monotonic_ns() + int(LINGER_S * 1e9)
        while self.conversations and time.monotonic_ns() < deadline_ns:
            if self.writers:
                self.writers.resume()
            time.sleep(DRAIN_TICK_S)

    # -- a connection's thread -------------------------------------------------------------

    def _reader(self, conversation: Conversation) -> None:
        """The life of a connection's thread, from the first byte to the last."""
        counters = self.ledger.lease()
        try:
            server = self.server
            set_kernel_timeouts(conversation.sock, server.idle_timeout_s, server.send_timeout_s)
            if self.writers:
                conversation.use_writers()
            self._converse(conversation, counters)
        except OSError:
            conversation.error = conversation.error or "reset"
        except TypeError as error:  # a reply that is not bytes
            self.report_fault(error)
            conversation.error = conversation.error or "handler"
        finally:
            self._leave(conversation, counters)
            self.ledger.give_back(counters)

    def _converse(self, conversation: Conversation, counters: Counters) -> None:
        """Read, run the steps, reply; again, until there is nothing more to read."""
        recv_into = conversation.sock.recv_into
        small = bytearray(WAITING_BUFFER_BYTES)
        view = memoryview(small)
        while not conversation.closing:
            try:
                size = recv_into(small)  # here a thread spends most of its life
            except BlockingIOError:
                if conversation.with_writers:
                    continue  # the peer is silent because it waits for us
                conversation.error = "idle"
                return
            if not size:
                if not conversation.timed_out:
                    return
                self._give_up(conversation, counters)
                break
            counters.bytes_in += size
            requests = self._receive(conversation, view[:size])
            if requests:
                if not self._serve(conversation, requests, counters):
                    break
            elif conversation.timed_out:  # too late, even if more has arrived
                self._give_up(conversation, counters)
                break
            if size == WAITING_BUFFER_BYTES and not self._read_on(conversation, counters):
                return
        deadline_ns = time.monotonic_ns() + int(LINGER_S * 1e9)
        try:
            while size := recv_into(small):  # it has had its last reply
                counters.bytes_in += size
                if time.monotonic_ns() > deadline_ns:
                    raise BlockingIOError
        except BlockingIOError:
            conversation.error = conversation.error or "linger"

    def _read_on(self, conversation: Conversation, counters: Counters) -> bool:
        """More has arrived than the small buffer holds: take what is there, without waiting.

        False at the end of the connection.
        """
        try:
            large = self.large_buffers.pop()
        except IndexError:
            try:
                large = bytearray(self.server.receive_bytes)
            except MemoryError:  # go on with the small buffer
                return True
        try:
            size = conversation.sock.recv_into(large, 0, socket.MSG_DONTWAIT)
            if size:
                counters.bytes_in += size
                with memoryview(large) as view:
                    requests = self._receive(conversation, view[:size])
                if requests:
                    self._serve(conversation, requests, counters)
            return bool(size)
        except BlockingIOError:
            return True
        finally:
            self.large_buffers.append(large)

    def _receive(self, conversation: Conversation, data: memoryview) -> Sequence[Request]:
        try:
            return conversation.session.receive(data)
        except Exception as error:  # a fault in the session costs its connection
            self.report_fault(error)
            conversation.fail("protocol")
            return ()

    def _give_up(self, conversation: Conversation, counters: Counters) -> None:
        """A request did not arrive in time: the session says what to answer."""
        session = conversation.session
        if session.head_pending or session.body_pending:
            conversation.error = "slow"
            request = session.give_up()
            if request is not None:
                self._serve(conversation, (request,), counters)
        conversation.closing = True

    def _serve(
        self, conversation: Conversation, requests: Sequence[Request], counters: Counters
    ) -> bool:
        """Run the steps of each request and send its reply; False after the last reply."""
        conversation.received += len(requests)
        counters.requests += len(requests)
        for request in requests:
            self.run_steps(request, counters)
            if self.stopping and request is requests[-1]:
                request.last = True
            if self.writers is None:
                conversation.send_reply(request, counters)
            else:
                self.writers.hand_over(conversation, request)
            if conversation.closing:
                return False
        return True

    def _leave(self, conversation: Conversation, counters: Counters) -> None:
        """The reader has finished; whoever uses the socket last closes it."""
        if conversation.outbox is None:
            self._close(conversation, counters)
            return
        with conversation.lock:
            conversation.reader_done = True
            if not conversation.with_writers:
                self._close(conversation, counters)

    def _close(self, conversation: Conversation, counters: Counters) -> None:
        if conversation.error:
            counters.errors[conversation.error] += 1
        counters.abandoned += conversation.received - conversation.replied
        self.conversations.discard(conversation)
        counters.closed += 1  # everything is counted before the peer can notice
        conversation.sock.close()
