"""The stages around those of a service: accept, read and write.

*accept*: events are new sockets; they become connections.  *read*: events are ready
sockets; requests come out.  *write*: events are connections whose next reply is ready;
bytes go out.  Where the first two get their events is in `servers.seda.kernel_queues`,
and which thread may touch a connection when, in `servers.seda.connections`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from servers.acceptor import refuse
from servers.connection import BROKEN, READABLE, WRITABLE
from servers.counters import Counters
from servers.listener import shut
from servers.request_deadline import still_pending
from servers.seda.connections import StagedConnection
from servers.seda.kernel_queues import Readiness, Ready
from servers.seda.stage import Dispatch
from servers.seda.trace import ABANDONED, Tracer
from servers.service import Request, Session


class Network:
    """The handlers of accept, read and write, and what they share: how connections end."""

    def __init__(
        self,
        readiness: Readiness,
        new_session: Callable[[socket.socket, Counters], Session | None],
        counters: Callable[[], Counters],
        max_connections: int,
        max_unsent: int,
        receive_bytes: int,
    ) -> None:
        self.readiness = readiness
        self.stopping = False
        self.tracer: Tracer | None = None
        self.enter: Callable[[Sequence[Request], Dispatch, int], None]
        """Sends requests to the stages where they enter; set when those exist."""
        self.on_answered: Callable[[Sequence[Request]], None] | None = None
        """Gets sampled requests when their replies have been posted."""
        self.report_fault: Callable[[Exception], None]
        """Gets what a session raised, and replies that cannot be sent."""
        self._new_session = new_session
        self._counters = counters
        self._max_connections = max_connections
        self._max_unsent = max_unsent
        self._receive_bytes = receive_bytes
        self._local = threading.local()
        self._places = threading.Lock()
        self._reserved = 0  # places of accepted sockets that are not yet connections

    def reserve(self) -> bool:
        """May one more connection stay?  If so, its place is reserved until `accept` has it."""
        with self._places:
            if self.stopping or (
                len(self.readiness.connections) + self._reserved >= self._max_connections
            ):
                return False
            self._reserved += 1
            return True

    def accept(self, sockets: Sequence[socket.socket], dispatch: Dispatch) -> None:
        """Handler of the accept stage: sockets become connections."""
        counters = self._counters()
        now_ns = time.monotonic_ns()
        for sock in sockets:
            session = None
            if self.stopping:
                refuse(sock, counters)
            else:
                session = self._new_session(sock, counters)
            with self._places:  # so that `reserve` counts this one once: not twice, not never
                self._reserved -= 1
                if session is not None:
                    self._add(sock, session, now_ns, counters)

    def _add(self, sock: socket.socket, session: Session, now_ns: int, counters: Counters) -> None:
        counters.accepted += 1  # before a reader can have it, and answer
        try:
            self.readiness.add(StagedConnection(sock, session, now_ns))
        except OSError:  # the kernel has no memory to watch it
            counters.accepted -= 1
            refuse(sock, counters, failed=True)

    def read(self, ready: Sequence[Ready], dispatch: Dispatch) -> None:
        """Handler of the read stage: read once from each ready socket, send the requests on."""
        counters = self._counters()
        try:
            buffer, view = self._local.buffer
        except AttributeError:
            buffer = bytearray(self._receive_bytes)
            view = memoryview(buffer)
            self._local.buffer = buffer, view
        begin_ns = time.monotonic_ns() if self.tracer else 0
        shared = self.readiness.shared
        entering: list[Request] = []
        writable: list[StagedConnection] = []
        for connection, events in ready:
            if shared and not connection.claim():
                continue  # the reader that has claimed it will re-arm it
            if shared or events != READABLE or connection.close_reason is not None:
                events = self._handle_unusual(connection, events, entering, writable, counters)
            if events & (READABLE | BROKEN):
                try:
                    size = connection.recv_into(buffer)
                except BlockingIOError:
                    size = -1
                except OSError:
                    self._close(connection, "reset", counters)
                    continue
                if size > 0:
                    connection.active = True
                    counters.bytes_in += size
                    if not connection.closing:
                        try:
                            requests = connection.receive(view[:size])
                        except Exception as error:  # a fault in the session costs its connection
                            self.report_fault(error)
                            self._close(connection, "protocol", counters)
                            continue
                        if requests:
                            counters.requests += len(requests)
                            self._admit(connection, iter(requests), entering, counters)
                elif size == 0:
                    with connection.lock:
                        connection.half_closed = True
                        owed = connection.outbox or connection.pending or connection.held
                        if owed:
                            self._settle(connection)
                    if not owed:
                        self._close(connection, "", counters)
                        continue
            if shared and not connection.closed:
                self._release(connection, counters)
        if entering:
            self.enter(entering, dispatch, begin_ns)
        if writable:
            dispatch("write", writable)

    def _admit(
        self,
        connection: StagedConnection,
        requests: Iterator[Request],
        entering: list[Request],
        counters: Counters,
    ) -> None:
        """Let requests into the stages, up to the limit; hold the others, and stop reading."""
        held: Iterator[Request] | None = requests
        while connection.admits(self._max_unsent):
            request = next(requests, None)
            if request is None:
                held = None
                break
            request.connection = connection
            connection.pending.append(request)
            entering.append(request)
        if held is not None or connection.held is not None:
            with connection.lock:
                connection.held = held
                if connection.closing:
                    connection.drop_held(counters)
                self._settle(connection)

    def _handle_unusual(
        self,
        connection: StagedConnection,
        events: int,
        entering: list[Request],
        writable: list[StagedConnection],
        counters: Counters,
    ) -> int:
        """Handle all but plain input; return the events that remain to be handled."""
        if connection.closed:
            return 0
        if connection.close_reason is not None:
            self._close(connection, connection.close_reason, counters)
            return 0
        if events & WRITABLE:
            with connection.lock:  # not reported again until the write stage has run
                wanted = connection.interest & ~WRITABLE
                self.readiness.arm(connection, wanted)
            writable.append(connection)
            held = connection.held  # the write stage may drop it after a last reply
            if held is not None:
                self._admit(connection, held, entering, counters)
        if connection.timed_out:
            connection.timed_out = False
            if still_pending(connection):  # the rest has not arrived meanwhile
                counters.errors["slow"] += 1
                request = connection.session.give_up()
                if request is None:
                    self._close(connection, "", counters)
                    return 0
                counters.requests += 1
                self._admit(connection, iter((request,)), entering, counters)
        if events & BROKEN and not connection.interest & READABLE:
            self._close(connection, "reset", counters)
            return 0
        return events & connection.interest | events & BROKEN

    def write(self, connections: Sequence[StagedConnection], dispatch: Dispatch) -> None:
        """Handler of the write stage: send the replies that are next in order."""
        counters = self._counters()
        begin_ns = time.monotonic_ns() if self.tracer else 0
        sampled: list[Request] = []
        for connection in connections:
            with connection.lock:
                if connection.closed or connection.close_reason is not None:
                    continue
                try:
                    if self._send_one(connection, counters, sampled):
                        continue
                    self._post(connection, counters, sampled)
                    connection.flush(counters)
                except OSError:
                    self.mark_for_close(connection, "reset")
                    continue
                except TypeError as error:  # a reply that is not bytes
                    self.report_fault(error)
                    self.mark_for_close(connection, "handler")
                    continue
                self._settle(connection)
        if sampled:
            if self.tracer:
                self.tracer.passed(sampled, "write", begin_ns, len(connections))
                self.tracer.finish_all(sampled)
            if self.on_answered is not None:
                self.on_answered(sampled)

    def _send_one(
        self, connection: StagedConnection, counters: Counters, sampled: list[Request]
    ) -> bool:
        """The usual case: one reply is due, in one piece, and the socket takes all of it.

        False in any other case; then at most a part of the reply has been sent.
        """
        pending = connection.pending
        if (
            len(pending) != 1
            or connection.outbox
            or connection.interest != READABLE
            or connection.closing
            or connection.half_closed
            or self.stopping
        ):
            return False
        request = pending[0]
        reply = request.reply
        if not request.done or request.last or len(reply) != 1:
            return False
        try:
            sent = connection.send(reply[0])
        except OSError:  # full, or closed by the peer: `flush` will see
            return False
        connection.active = True
        counters.bytes_out += sent
        if sent < len(reply[0]):
            request.reply = (memoryview(reply[0])[sent:],)
            return False
        del pending[0]  # not clear(): a reader may be appending another
        counters.replies += 1
        if request.context is not None:
            sampled.append(request)
        return True

    def _post(
        self, connection: StagedConnection, counters: Counters, sampled: list[Request]
    ) -> None:
        pending = connection.pending
        if connection.closing:  # nothing follows a last reply
            connection.drop_pending(counters)
            return
        done = 0
        try:
            for request in pending:
                if not request.done:
                    break
                done += 1
                connection.post(request.reply)
                if request.context is not None:
                    sampled.append(request)
                if request.last:
                    connection.closing = True
                    break
        finally:
            del pending[:done]
        if connection.closing:
            connection.drop_held(counters)
            connection.drop_pending(counters)
        if done and self.stopping and not pending and connection.held is None:
            connection.closing = True

    def _settle(self, connection: StagedConnection) -> None:
        """End the connection if it is finished; otherwise watch for what it waits for.

        The caller has its lock.
        """
        if connection.closed or connection.close_reason is not None:
            return
        if not connection.outbox and not connection.pending and connection.held is None:
            if connection.half_closed:
                self.mark_for_close(connection, "")
                return
            if connection.closing and not connection.finished:
                connection.finish(time.monotonic_ns())
        self.readiness.arm(connection, connection.wanted(self._max_unsent))

    def retire(self, connection: StagedConnection) -> None:
        """At shutdown: end a connection with nothing in flight.

        Not one that was active since the last sweep: a reader that has just received a
        whole request may be about to admit it.
        """
        with connection.lock:
            if not connection.closing and connection.at_rest and not connection.active:
                connection.closing = True
                self._settle(connection)

    def give_up(self, connection: StagedConnection) -> None:
        """Have a reader answer a request that did not arrive in time."""
        with connection.lock:
            if (
                connection.close_reason is None
                and not connection.closed
                and connection.held is None
            ):
                connection.timed_out = True
                # A socket with an empty send buffer is writable, so a reader wakes at once.
                self.readiness.arm(connection, READABLE | WRITABLE, force=True)

    def mark_for_close(self, connection: StagedConnection, error: str) -> None:
        """Have a reader close the connection.  The caller has its lock."""
        if connection.closed or connection.close_reason is not None:
            return
        connection.close_reason = error
        shut(connection.sock, socket.SHUT_RDWR)  # the peer sees the end, and a reader wakes
        self.readiness.arm(connection, READABLE, force=True)

    def _release(self, connection: StagedConnection, counters: Counters) -> None:
        """A reader releases its claim; another may get the connection next."""
        with connection.lock:
            connection.claimed = False
            close_reason = connection.close_reason
            if close_reason is None:
                self.readiness.arm(connection, connection.wanted(self._max_unsent), force=True)
        if close_reason is not None:
            self._close(connection, close_reason, counters)

    def _close(self, connection: StagedConnection, error: str, counters: Counters) -> None:
        with connection.lock:
            if connection.closed:
                return
            connection.closed = True
            if error:
                counters.errors[error] += 1
            if self.tracer:
                self.tracer.finish_all(connection.pending, ABANDONED)
            connection.drop_pending(counters)
            counters.abandoned += connection.abandon()
            self.readiness.remove(connection)
            counters.closed += 1  # everything is counted before the peer can notice
            connection.sock.close()
