"""One monolithic event loop: one thread runs every step of every request.

The design of section 2.2 of the paper, and of most event-driven servers.  The loop asks
the kernel which sockets are ready, and for each reads, runs the steps of its requests one
after another, and sends the replies; it waits nowhere else.  Monolithic means that even
a step that blocks runs on the loop: a slow step stops everybody, and the measurements
are meant to show that.

`--poller` chooses how the kernel is asked (`servers.pollers`), the paper's other point
about event-driven servers.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from servers.acceptor import Acceptor, refuse
from servers.architecture import Architecture
from servers.connection import BROKEN, READABLE, WRITABLE, Connection
from servers.listener import DRAIN_TICK_S, connection_limit, sweep_interval_s
from servers.options import UsageError, option
from servers.pollers import FD_SETSIZE, POLLERS, Poller
from servers.service import Request

ACCEPTS_PER_TURN = 64
"""New connections accepted before the existing ones get their turn again."""


@dataclass(frozen=True)
class EventLoopOptions:
    """How the kernel is asked."""

    poller: str = option(
        "epoll", "how to ask the kernel for ready sockets", choices=("epoll", "poll", "select")
    )


class EventLoop(Architecture):
    """The loop, and what it does with each ready socket."""

    name = "eventloop"
    summary = "one thread, nonblocking sockets, every step on the loop"
    Options = EventLoopOptions
    options: EventLoopOptions

    def limit_connections(self) -> int:
        if self.options.poller != "select":
            return super().limit_connections()
        if self.listener.fileno() >= FD_SETSIZE:
            raise UsageError(
                f"select() watches only descriptors below {FD_SETSIZE}, and these are in use; "
                "start the server with fewer inherited descriptors, or use --poller epoll"
            )
        selectable = connection_limit(
            self.server.max_connections, FD_SETSIZE, "the limit of select()",
            "ask for fewer, or use --poller epoll",
        )  # fmt: skip
        return min(selectable, super().limit_connections())

    def prepare(self) -> None:
        self.poller: Poller = POLLERS[self.options.poller]()
        self.connections: dict[int, Connection] = {}
        self.counters = self.ledger.lease()
        self.buffer = bytearray(self.server.receive_bytes)
        self.view = memoryview(self.buffer)
        self.stopping = False
        self.acceptor = Acceptor(
            self.listener, lambda: len(self.connections) < self.max_connections
        )
        self.listening = False
        self._listen(True)
        self.poller.register(self.wakeup, READABLE)

    def run(self) -> None:
        server = self.server
        tick_s = sweep_interval_s(server)
        sweep_ns = deadline_ns = 0
        while not self.stopping or self.connections:
            self._turn(tick_s)
            now_ns = time.monotonic_ns()
            if self.stopping and not deadline_ns:
                deadline_ns = now_ns + int(server.grace_s * 1e9)
                sweep_ns, tick_s = now_ns, DRAIN_TICK_S
            if deadline_ns and now_ns > deadline_ns:
                break
            if now_ns >= sweep_ns:
                sweep_ns = now_ns + int(tick_s * 1e9)
                self._sweep(now_ns)
        for connection in list(self.connections.values()):
            self._close(connection, "linger" if connection.finished else "aborted")

    def _turn(self, timeout_s: float) -> None:
        """Ask the kernel once, then do what can be done for each ready socket."""
        connections = self.connections
        counters = self.counters
        buffer = self.buffer
        view = self.view
        for descriptor, events in self.poller.wait(timeout_s):
            connection = connections.get(descriptor)
            if connection is None:
                self._accept() if descriptor != self.wakeup else self._stop()
                continue
            if events != READABLE:
                try:
                    if not self._handle_unusual(connection, events):
                        continue
                except TypeError as error:
                    self._close_on_bad_reply(connection, error)
                    continue
            try:
                size = connection.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError:
                self._close(connection, "reset")
                continue
            if not size:
                connection.half_closed = True
                self._settle(connection)
                continue
            connection.active = True
            counters.bytes_in += size
            if connection.closing:
                continue  # it has had its last reply
            try:
                requests = connection.receive(view[:size])
            except Exception as error:  # a fault in the session costs its connection
                self.report_fault(error)
                self._close(connection, "protocol")
                continue
            counters.requests += len(requests)
            try:
                if len(requests) == 1:
                    self._serve_one(connection, requests[0])
                elif requests:
                    self._serve(connection, iter(requests))
            except TypeError as error:  # a reply that is not bytes
                self._close_on_bad_reply(connection, error)

    def _serve_one(self, connection: Connection, request: Request) -> None:
        """What `_serve` does, for the usual case of one request and a reply sent at once.

        wrk, 64 connections: 101 thousand requests/s with it and 88 without, in two
        runs minutes apart.
        """
        self.run_steps(request, self.counters)
        reply = request.reply
        if len(reply) == 1 and not (request.last or self.stopping or connection.outbox):
            try:
                sent = connection.send(reply[0])
            except BlockingIOError:
                sent = 0
            except OSError:
                self.counters.abandoned += 1
                self._close(connection, "reset")
                return
            except TypeError:  # not bytes: `_send` posts it, and that raises again
                self._send(connection, request)
                return
            self.counters.bytes_out += sent
            if sent == len(reply[0]):
                self.counters.replies += 1
                return  # the poller already watches the right events
            request.reply = (memoryview(reply[0])[sent:],)
        self._send(connection, request)

    def _send(self, connection: Connection, request: Request) -> None:
        connection.post(request.reply)
        connection.closing = request.last or self.stopping
        try:
            connection.flush(self.counters)
        except OSError:
            self._close(connection, "reset")
            return
        self._settle(connection)

    def _serve(self, connection: Connection, requests: Iterator[Request]) -> None:
        """Run the steps of each request, here and now, and send the replies."""
        counters = self.counters
        max_unsent = self.server.max_unsent
        while True:
            connection.held = requests
            for request in requests:
                self.run_steps(request, counters)
                connection.post(request.reply)
                if request.last:
                    connection.closing = True
                    connection.held = None
                    counters.abandoned += sum(1 for _ in requests)
                    break
                if connection.unsent > max_unsent:
                    break
            else:
                connection.held = None
                connection.closing = connection.closing or self.stopping
            try:
                connection.flush(counters)
            except OSError:
                self._close(connection, "reset")
                return
            if connection.held is None or connection.unsent > max_unsent:
                break
        self._settle(connection)

    def _handle_unusual(self, connection: Connection, events: int) -> bool:
        """Handle events other than plain input; True if there is input to read as well."""
        if events & WRITABLE:
            try:
                connection.flush(self.counters)
            except OSError:
                self._close(connection, "reset")
                return False
            if connection.held is not None and connection.unsent <= self.server.max_unsent:
                self._serve(connection, connection.held)
            else:
                self._settle(connection)
        if connection.closed:
            return False
        if events & BROKEN and not connection.interest & READABLE:
            self._close(connection, "reset")
            return False
        return bool(events & (READABLE | BROKEN)) and bool(connection.interest & READABLE)

    def _settle(self, connection: Connection) -> None:
        """End the connection if it is finished; otherwise watch for what it waits for."""
        if not connection.outbox and connection.held is None:
            if connection.half_closed:
                self._close(connection)
                return
            if connection.closing and not connection.finished:
                connection.finish(time.monotonic_ns())
        wanted = connection.wanted(self.server.max_unsent)
        if wanted != connection.interest:
            connection.interest = wanted
            self.poller.modify(connection.descriptor, wanted)

    def _close_on_bad_reply(self, connection: Connection, error: TypeError) -> None:
        """A reply cannot be sent, so nothing after it may be sent either."""
        self.report_fault(error)
        if not connection.closed:
            self._close(connection, "handler")

    def _close(self, connection: Connection, error: str | None = None) -> None:
        if error:
            self.counters.errors[error] += 1
        self.counters.abandoned += connection.abandon()
        self.counters.closed += 1  # everything is counted before the peer can notice
        connection.closed = True
        del self.connections[connection.descriptor]
        self.poller.unregister(connection.descriptor)
        connection.sock.close()

    def _accept(self) -> None:
        for sock in self.acceptor.take(ACCEPTS_PER_TURN, self.counters):
            self._add(sock)
        if self.acceptor.failed:  # the next sweep tries again
            self._listen(False)

    def _add(self, sock: socket.socket) -> None:
        """Begin to serve a new connection, or refuse it."""
        if self.options.poller == "select" and sock.fileno() >= FD_SETSIZE:
            refuse(sock, self.counters)
            return
        session = self.new_session(sock, self.counters)
        if session is None:
            return
        connection = Connection(sock, session, time.monotonic_ns())
        try:
            self.poller.register(connection.descriptor, READABLE)
        except OSError:  # the kernel has no memory to watch it
            refuse(sock, self.counters, failed=True)
            return
        self.connections[connection.descriptor] = connection
        self.counters.accepted += 1

    def _listen(self, wanted: bool) -> None:
        """Watch the listener, or stop watching it."""
        if wanted and not self.listening:
            self.poller.register(self.listener.fileno(), READABLE)
        elif self.listening and not wanted:
            self.poller.unregister(self.listener.fileno())
        self.listening = wanted

    def _stop(self) -> None:
        os.eventfd_read(self.wakeup)
        if not self.stopping:
            self.stopping = True
            self._listen(False)
            self.listener.close()

    def _sweep(self, now_ns: int) -> None:
        """Time-outs; and at shutdown, the end of connections with nothing in flight."""
        if not self.stopping:
            self.acceptor.failed = False
            self._listen(True)
        for connection in list(self.connections.values()):
            error = connection.overdue(now_ns, self.server)
            if error:
                self._close(connection, error)
            elif connection.request_overdue(now_ns, self.server):
                self._give_up(connection)
            elif self.stopping and not connection.closing and connection.at_rest:
                connection.closing = True
                self._settle(connection)

    def _give_up(self, connection: Connection) -> None:
        """A request did not arrive in time: the session says what to answer."""
        self.counters.errors["slow"] += 1
        request = connection.session.give_up()
        if request is None:
            self._close(connection)
        else:
            self.counters.requests += 1
            self._serve(connection, iter((request,)))
