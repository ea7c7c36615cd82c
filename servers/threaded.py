"""One thread a connection: the operating system schedules everything.

The model that the paper argues against.  A thread reads from its own blocking
socket, takes each request through its steps, one after another, and writes
the reply; while it waits, it waits in the kernel.  No state machine, no queue,
and the program reads from top to bottom.

`--writers N` has every reader thread hand its replies to a fixed pool of writer
threads.  A writer waits for no peer: a connection whose socket is full is parked
until it takes more.  `--writers 120 --blocking-writers` is the variant of the
paper's Figure 1.  There a writer waits for its peer, and 120 peers that do not
read stop the replies to everybody.

What a connection costs is its thread.  So the thread is small: a small stack,
and a small buffer to wait in; a large one is borrowed only while more has
already arrived than the small one holds.
"""

from __future__ import annotations

import _thread
import os
import queue
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servers.architecture import Architecture
from servers.counters import Counters
from servers.full_sockets import FullSockets
from servers.listener import (
    DRAIN_TICK_S,
    LINGER_S,
    ServerOptions,
    accept,
    look_every_s,
    set_kernel_timeouts,
    shut,
)
from servers.options import UsageError, option
from servers.patience import request_overdue, tells_pending
from servers.service import Buffer, Request, Service, Session
from servers.shortage import limit_hit

WAITING_BUFFER_BYTES = 4096
"""What a blocked thread holds.  One page: small requests fit, and 4,096 threads hold 16 MB."""

SWITCH_S_A_THREAD = 100e-6
"""Share of a thread in the interpreter's switch interval, which is never under 5 ms.

A thread that waits for the interpreter's lock wakes once an interval to ask
for it.  At the default of 5 ms, 8,192 threads that all have something to do
wake 1.6 million times a second, and two cores do nothing else: SIGTERM under
such load took from 1.5 s to over a minute; with this share 0.3 to 0.6 s, once
6.6.  A thread gives the lock up at every system call anyhow; the interval is
for long steps.
"""

REPLIES_A_TURN = 64
"""Replies to one connection that a writer sends before those that wait have their turn."""

BYTES_A_TURN = 1 << 20
"""And bytes: a large file for a peer that reads as fast as we write."""

BUFFERS_A_CALL = 64
"""Buffers given to one sendmsg(), of the 1024 that Linux takes."""


@dataclass(frozen=True)
class ThreadedOptions:
    """How many threads write, and how large a thread is."""

    writers: int = option(
        0, "hand replies to so many writer threads; 0: a connection's own thread writes",
        minimum=0, maximum=10_000,
    )  # fmt: skip
    blocking_writers: bool = option(
        False, "a writer waits for its peer, as the paper's do: as many peers that do not read as "
        "there are writers stop the replies to everybody",
    )  # fmt: skip
    stack_kb: int = option(
        256, "address space of a thread's stack; only what it touches costs memory", minimum=32
    )


class Conversation:
    """One connection and its thread's state."""

    __slots__ = (
        "awaited", "awaited_ns", "closing", "error", "late", "left", "owed", "owed_bytes",
        "received", "replied", "session", "sock", "turn", "writing",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self.closing = False  # its last reply is made
        self.error = ""  # why it ends, when that is no peer's orderly choice
        self.received = 0  # requests; its reader alone counts them
        self.replied = 0  # and who writes, these
        self.awaited = 0  # of a request, at the last look, and since when: `servers.patience`
        self.awaited_ns = 0
        self.late = False  # its request has not come in time; its reader is to give it up
        # With writers only:
        self.turn: threading.Condition | None = None  # guards what follows
        self.owed: deque[Request] | None = None  # replies handed over and not yet sent
        self.owed_bytes = 0  # handed over since the writers had last caught up
        self.writing = False  # a writer has it, or will
        self.left = False  # the reader has; the writer closes

    @property
    def at_rest(self) -> bool:
        """Nothing is in flight: no part of a request, no reply that waits."""
        return self.session.idle and not self.writing


class Threaded(Architecture):
    """Accepts on the main thread, converses on the others."""

    name = "threaded"
    summary = "one blocking thread a connection; --writers N adds a pool of writers"
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
        self.has_deadlines = False  # the service's sessions tell which requests are pending
        self.conversations: set[Conversation] = set()
        self.counters = self.ledger.lease()
        self.large_buffers: deque[bytearray] = deque(maxlen=64)
        self.to_write: queue.SimpleQueue[Conversation] = queue.SimpleQueue()
        self.full: FullSockets[Conversation] = FullSockets(self.server.send_timeout_s)
        threading.stack_size(self.options.stack_kb * 1024)
        for started in range(self.options.writers):
            try:
                _thread.start_new_thread(self._writer, ())
            except (RuntimeError, MemoryError) as error:
                raise UsageError(
                    f"only {started} of --writers {self.options.writers} threads could be made: "
                    f"{limit_hit(error, threading.stack_size())}, or ask for fewer"
                ) from None

    def run(self) -> None:
        self._accept_until_stopped()
        self.stopping = True
        self.listener.close()
        self._drain()

    def _accept_until_stopped(self) -> None:
        ready = select.poll()
        ready.register(self.listener, select.POLLIN)
        ready.register(self.wakeup, select.POLLIN)
        ready.register(self.full, select.POLLIN)
        look_ns = 0
        listening = True
        # Never for ever: a signal that comes just before poll(), or to another thread, does
        # not end it, and its handler runs on this thread alone.
        tick_ms = max(1, int(look_every_s(self.server) * 1e3))
        while True:
            descriptors = [descriptor for descriptor, _ in ready.poll(tick_ms)]
            if self.wakeup in descriptors:
                return
            if (now_ns := time.monotonic_ns()) >= look_ns:
                look_ns = now_ns + int(look_every_s(self.server) * 1e9)
                if self.has_deadlines:
                    self._end_overdue(now_ns)
                self._give_up_unread(now_ns)
                if not listening:
                    ready.register(self.listener, select.POLLIN)
                    listening = True
            self._resume()
            if self.listener.fileno() not in descriptors:
                continue
            try:
                sock = accept(self.listener)
            except OSError:  # out of descriptors or memory: the next look tries again
                self.counters.errors["accept"] += 1
                ready.unregister(self.listener)
                listening = False
                continue
            if sock is not None:
                self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        """Give the connection a thread, or close it if none can be had."""
        if len(self.conversations) >= self.max_connections:
            self.counters.refused += 1
            sock.close()
            return
        session = self.new_session(self.counters)
        if session is None:
            self.counters.refused += 1
            sock.close()
            return
        conversation = Conversation(sock, session)
        self.has_deadlines = tells_pending(type(conversation.session))
        self.conversations.add(conversation)
        self.counters.accepted += 1  # before its thread can answer or starts late
        try:
            _thread.start_new_thread(self._reader, (conversation,))
        except (RuntimeError, MemoryError):  # no thread: this connection only
            self.conversations.discard(conversation)
            self.counters.accepted -= 1
            self.counters.errors["accept"] += 1
            self.counters.refused += 1
            sock.close()
            return
        sys.setswitchinterval(max(0.005, SWITCH_S_A_THREAD * len(self.conversations)))

    def _reader(self, conversation: Conversation) -> None:
        """A connection's thread, from its first byte to its last."""
        counters = self.ledger.lease()
        try:
            server = self.server
            set_kernel_timeouts(conversation.sock, server.idle_timeout_s, server.send_timeout_s)
            if self.options.writers:
                conversation.turn = threading.Condition(threading.Lock())
                conversation.owed = deque()
            self._converse(conversation, counters)
        except OSError:
            conversation.error = conversation.error or "reset"
        except TypeError as error:  # a reply that is no bytes
            self.tell(error)
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
                size = recv_into(small)  # here a thread spends its life
            except BlockingIOError:
                if conversation.writing:
                    continue  # it is silent, but it waits for us
                conversation.error = "idle"
                return
            if not size:
                if not conversation.late:
                    return
                self._give_up(conversation, counters)
                break
            counters.bytes_in += size
            requests = self._receive(conversation, view[:size])
            if requests:
                if not self._serve(conversation, requests, counters):
                    break
            elif conversation.late:  # what still comes does not save it
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
            except MemoryError:  # then with the small one, piece by piece
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
            self.tell(error)
            conversation.error = "protocol"
            conversation.closing = True
            shut(conversation.sock, socket.SHUT_RDWR)
            return ()

    def _end_overdue(self, now_ns: int) -> None:
        """Look for peers that do not finish the request that they began."""
        for conversation in self.conversations.copy():
            if conversation.late or conversation.closing:
                continue
            if conversation.received != conversation.replied:
                conversation.awaited = 0  # we serve, and may not read: it cannot go on
            elif request_overdue(conversation, now_ns, self.server):
                conversation.late = True
                shut(conversation.sock, socket.SHUT_RD)  # which wakes its thread

    def _give_up(self, conversation: Conversation, counters: Counters) -> None:
        """A request did not come whole in time: the session says what to answer."""
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
        """Take each request through its steps, on this thread; False after the last reply."""
        conversation.received += len(requests)
        counters.requests += len(requests)
        for request in requests:
            step = request.step
            try:
                while step is not None:
                    step = step(request)
            except Exception as error:  # costs this request only
                self.fail(request, error, counters)
            if self.stopping and request is requests[-1]:
                request.last = True
            if conversation.owed is None:
                self._write(conversation, request, counters)
            else:
                self._hand_over(conversation, request)
            if conversation.closing:
                return False
        return True

    def _write(self, conversation: Conversation, request: Request, counters: Counters) -> None:
        """Send one whole reply, waiting in the kernel for a slow peer."""
        sock = conversation.sock
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
            conversation.error = "unread"
            conversation.closing = True
            shut(sock, socket.SHUT_RDWR)  # the reader, if it is another thread, sees the end
            return
        self._replied(conversation, request, counters)

    def _replied(self, conversation: Conversation, request: Request, counters: Counters) -> None:
        counters.replies += 1
        conversation.replied += 1
        if request.last:
            conversation.closing = True
            shut(conversation.sock, socket.SHUT_WR)
            set_kernel_timeouts(conversation.sock, LINGER_S, LINGER_S)

    # With writers: replies cross to a fixed pool of them.  A conversation is in
    # their queue, in the hands of one of them, or parked, but only once, so that
    # its replies keep their order.

    def _hand_over(self, conversation: Conversation, request: Request) -> None:
        """Leave a reply to the writers.

        The reader waits for them when too much is owed, as it would in
        `sendall` without them, and after the last reply.
        """
        turn = conversation.turn
        assert turn is not None
        assert conversation.owed is not None
        most = self.server.max_unsent if not request.last else -1
        with turn:
            conversation.owed.append(request)
            conversation.owed_bytes += sum(map(len, request.reply))
            if not conversation.writing:
                conversation.writing = True
                self.to_write.put(conversation)
            while conversation.writing and conversation.owed_bytes > most:
                turn.wait()

    def _writer(self) -> None:
        """One of the pool: write what one conversation is owed, then what the next is."""
        counters = self.ledger.lease()
        while True:
            conversation = self.to_write.get()
            if self._write_owed(conversation, counters):
                self.to_write.put(conversation)

    def _write_owed(self, conversation: Conversation, counters: Counters) -> bool:
        """What one turn may send of what a conversation is owed; True if it needs another."""
        owed, turn = conversation.owed, conversation.turn
        assert turn is not None
        assert owed is not None
        blocking = self.options.blocking_writers
        for _ in range(REPLIES_A_TURN):
            with turn:
                if not owed:
                    conversation.writing = False
                    conversation.owed_bytes = 0
                    turn.notify()
                    if conversation.left:
                        self._close(conversation, counters)
                    return False
                request = owed.popleft()
            if conversation.closing:
                continue  # nothing follows a last reply
            try:
                if blocking:
                    self._write(conversation, request, counters)
                elif not self._write_some(conversation, request, counters):
                    owed.appendleft(request)
                    self.full.park(conversation.sock, conversation)
                    return False
            except OSError:
                conversation.error = conversation.error or "reset"
                conversation.closing = True
            except TypeError as error:
                self.tell(error)
                conversation.error = conversation.error or "handler"
                conversation.closing = True
                shut(conversation.sock, socket.SHUT_RDWR)
        return True

    def _write_some(self, conversation: Conversation, request: Request, counters: Counters) -> bool:
        """Send what the socket takes of a reply now; False if some of it is left."""
        sock = conversation.sock
        reply = request.reply
        turn_bytes = 0
        try:
            while reply and turn_bytes < BYTES_A_TURN:
                if len(reply) == 1:
                    sent = sock.send(reply[0], socket.MSG_DONTWAIT)
                else:
                    sent = sock.sendmsg(reply[:BUFFERS_A_CALL], (), socket.MSG_DONTWAIT)
                counters.bytes_out += sent
                turn_bytes += sent
                reply = after(reply, sent)
        except BlockingIOError:
            pass
        request.reply = reply
        if reply:
            return False
        self._replied(conversation, request, counters)
        return True

    def _resume(self) -> None:
        """Back to the writers with those whose sockets take more."""
        for conversation in self.full.writable():
            self.to_write.put(conversation)

    def _give_up_unread(self, now_ns: int) -> None:
        """End the connections whose peers do not read."""
        for conversation in self.full.overdue(now_ns):
            conversation.error = "unread"
            conversation.closing = True
            shut(conversation.sock, socket.SHUT_RDWR)  # its reader sees the end
            self.to_write.put(conversation)  # and a writer lets it go

    def _leave(self, conversation: Conversation, counters: Counters) -> None:
        """The reader is done; whoever is the last to hold the socket closes it."""
        if conversation.turn is None:
            self._close(conversation, counters)
            return
        with conversation.turn:
            conversation.left = True
            if not conversation.writing:
                self._close(conversation, counters)

    def _close(self, conversation: Conversation, counters: Counters) -> None:
        if conversation.error:
            counters.errors[conversation.error] += 1
        counters.abandoned += conversation.received - conversation.replied
        self.conversations.discard(conversation)
        counters.closed += 1  # all before the peer can know
        conversation.sock.close()

    def _drain(self) -> None:
        """Let what is in flight come to its end; after the grace time, end it."""
        os.eventfd_read(self.wakeup)
        deadline_ns = time.monotonic_ns() + int(self.server.grace_s * 1e9)
        while self.conversations and time.monotonic_ns() < deadline_ns:
            for conversation in self.conversations.copy():
                if conversation.at_rest and not conversation.closing:
                    # What has arrived is still read and answered; then the thread sees the end.
                    shut(conversation.sock, socket.SHUT_RD)
            self._give_up_unread(time.monotonic_ns())
            self._resume()
            time.sleep(DRAIN_TICK_S)
        for conversation in self.conversations.copy():
            conversation.error = "linger" if conversation.closing else "aborted"
            shut(conversation.sock, socket.SHUT_RDWR)
        deadline_ns = time.monotonic_ns() + int(LINGER_S * 1e9)
        while self.conversations and time.monotonic_ns() < deadline_ns:
            self._resume()
            time.sleep(DRAIN_TICK_S)


def after(reply: tuple[Buffer, ...], sent: int) -> tuple[Buffer, ...]:
    """What is left of a reply of which so many bytes are sent."""
    whole = 0
    while whole < len(reply) and sent >= len(reply[whole]):
        sent -= len(reply[whole])
        whole += 1
    if whole == len(reply):
        return ()
    if not sent:
        return reply[whole:]
    return (memoryview(reply[whole])[sent:], *reply[whole + 1 :])
