"""One monolithic event loop: every step of every request runs on one thread.

The design of section 2.2 of the paper, and of most event-driven servers: ask
the kernel which sockets are ready, do for each what can be done, wait nowhere
else.  Monolithic means that a step runs where it is, blocking or not: a slow
step stops everybody, and that is to be seen.

`--poller` chooses how the kernel is asked, the paper's other point about
event-driven servers: `select` and `poll` cost time for every connection that
there is, `epoll` for every one that is ready.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from servers.architecture import Architecture
from servers.connection import BROKEN, READABLE, WRITABLE, Connection
from servers.listener import DRAIN_TICK_S, accept, connection_limit, look_every_s
from servers.options import UsageError, option
from servers.service import Request

FD_SETSIZE = 1024
"""select() cannot watch a descriptor of this number or above: its sets are bit masks."""

ACCEPTS_A_TURN = 64
"""New connections taken before those that exist get their turn again."""


@dataclass(frozen=True)
class EventLoopOptions:
    """How the kernel is asked."""

    poller: str = option(
        "epoll", "how to ask for ready sockets", choices=("epoll", "poll", "select")
    )


class EventLoop(Architecture):
    """The loop, and what it does with a socket that is ready."""

    name = "eventloop"
    summary = "one thread, nonblocking sockets, every step on the loop"
    Options = EventLoopOptions
    options: EventLoopOptions

    def limit_connections(self) -> int:
        if self.options.poller != "select":
            return super().limit_connections()
        if self.listener.fileno() >= FD_SETSIZE:
            raise UsageError(
                f"select() watches descriptors under {FD_SETSIZE} and these are taken; "
                "close what this process inherits, or use --poller epoll"
            )
        selectable = connection_limit(
            self.server.max_connections, FD_SETSIZE, "the limit of select()",
            "ask for fewer, or use --poller epoll",
        )  # fmt: skip
        return min(selectable, super().limit_connections())

    def prepare(self) -> None:
        self.poller = POLLERS[self.options.poller]()
        self.connections: dict[int, Connection] = {}
        self.counters = self.ledger.lease()
        self.buffer = bytearray(self.server.receive_bytes)
        self.view = memoryview(self.buffer)
        self.stopping = False
        self.listening = False
        self._listen(True)
        self.poller.register(self.wakeup, READABLE)

    def run(self) -> None:
        server = self.server
        tick_s = look_every_s(server)
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
        """One look at the kernel, then whatever can be done for each ready socket."""
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
                    if not self._unusual(connection, events):
                        continue
                except TypeError as error:
                    self._spoilt(connection, error)
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
                self.tell(error)
                self._close(connection, "protocol")
                continue
            counters.requests += len(requests)
            try:
                if len(requests) == 1:
                    self._serve_one(connection, requests[0])
                elif requests:
                    self._serve(connection, iter(requests))
            except TypeError as error:  # a reply that is no bytes
                self._spoilt(connection, error)

    def _serve_one(self, connection: Connection, request: Request) -> None:
        """What `_serve` does, for the usual case of one request and a reply sent at once.

        wrk, 64 connections: 101 thousand requests/s with it and 88 without, in two
        runs minutes apart.
        """
        self._run_steps(request)
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
            except TypeError:  # no bytes: there it is posted, and raises again
                self._send(connection, request)
                return
            self.counters.bytes_out += sent
            if sent == len(reply[0]):
                self.counters.replies += 1
                return  # what is watched is still right
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

    def _run_steps(self, request: Request) -> None:
        """Here and now, one after another: the whole of this architecture."""
        step = request.step
        try:
            while step is not None:
                step = step(request)
        except Exception as error:  # costs this request only
            self.fail(request, error, self.counters)

    def _serve(self, connection: Connection, requests: Iterator[Request]) -> None:
        """Take each request through its steps, here and now, and send what comes of it."""
        counters = self.counters
        most_unsent = self.server.max_unsent
        while True:
            connection.held = requests
            for request in requests:
                self._run_steps(request)
                connection.post(request.reply)
                if request.last:
                    connection.closing = True
                    connection.held = None
                    counters.abandoned += sum(1 for _ in requests)
                    break
                if connection.unsent > most_unsent:
                    break
            else:
                connection.held = None
                connection.closing = connection.closing or self.stopping
            try:
                connection.flush(counters)
            except OSError:
                self._close(connection, "reset")
                return
            if connection.held is None or connection.unsent > most_unsent:
                break
        self._settle(connection)

    def _unusual(self, connection: Connection, events: int) -> bool:
        """Deal with whatever is not plain input; True if there is something to read as well."""
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
        """End the connection if its time has come, else watch for what it waits for."""
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

    def _spoilt(self, connection: Connection, error: TypeError) -> None:
        """A reply cannot be sent; nothing that follows it may be."""
        self.tell(error)
        if not connection.closed:
            self._close(connection, "handler")

    def _close(self, connection: Connection, error: str | None = None) -> None:
        if error:
            self.counters.errors[error] += 1
        self.counters.abandoned += connection.abandon()
        self.counters.closed += 1  # all before the peer can know
        connection.closed = True
        del self.connections[connection.descriptor]
        self.poller.unregister(connection.descriptor)
        connection.sock.close()

    def _accept(self) -> None:
        counters = self.counters
        for _ in range(ACCEPTS_A_TURN):
            try:
                sock = accept(self.listener)
            except OSError:  # out of descriptors or memory: the next sweep tries again
                counters.errors["accept"] += 1
                self._listen(False)
                return
            if sock is None:
                return
            beyond = self.options.poller == "select" and sock.fileno() >= FD_SETSIZE
            if beyond or len(self.connections) >= self.max_connections:
                counters.refused += 1
                sock.close()
                continue
            session = self.new_session(counters)
            if session is None:
                counters.refused += 1
                sock.close()
                continue
            connection = Connection(sock, session, time.monotonic_ns())
            try:
                self.poller.register(connection.descriptor, READABLE)
            except OSError:  # the kernel has no memory to watch it
                counters.errors["accept"] += 1
                counters.refused += 1
                sock.close()
                continue
            self.connections[connection.descriptor] = connection
            counters.accepted += 1

    def _listen(self, wanted: bool) -> None:
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
        """Time-outs, and the end of connections that have nothing in flight at shutdown."""
        if not self.stopping:
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
        """A request did not come whole in time: the session says what to answer."""
        self.counters.errors["slow"] += 1
        request = connection.session.give_up()
        if request is None:
            self._close(connection)
        else:
            self.counters.requests += 1
            self._serve(connection, iter((request,)))


class Poller(Protocol):
    """The three ways to ask, with epoll's masks."""

    def register(self, descriptor: int, events: int, /) -> None: ...
    def modify(self, descriptor: int, events: int, /) -> None: ...
    def unregister(self, descriptor: int, /) -> None: ...
    def wait(self, timeout_s: float) -> list[tuple[int, int]]: ...


class Epoll:
    """Cost of a look: the sockets that are ready."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self.register = epoll.register
        self.modify = epoll.modify
        self.unregister = epoll.unregister
        self.wait = epoll.poll


class Poll:
    """Cost of a look: every socket.  POLLIN and the like are epoll's numbers."""

    def __init__(self) -> None:
        poll = select.poll()
        self.register = poll.register
        self.modify = poll.modify
        self.unregister = poll.unregister
        self._poll = poll.poll

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        return self._poll(max(1, int(timeout_s * 1e3)))


class Select:
    """Cost of a look: every socket, and no more than FD_SETSIZE descriptors."""

    def __init__(self) -> None:
        self._readers: set[int] = set()
        self._writers: set[int] = set()

    def register(self, descriptor: int, events: int, /) -> None:
        self.modify(descriptor, events)

    def modify(self, descriptor: int, events: int, /) -> None:
        self.unregister(descriptor)
        if events & READABLE:
            self._readers.add(descriptor)
        if events & WRITABLE:
            self._writers.add(descriptor)

    def unregister(self, descriptor: int, /) -> None:
        self._readers.discard(descriptor)
        self._writers.discard(descriptor)

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        readers, writers, _ = select.select(self._readers, self._writers, (), timeout_s)
        ready = dict.fromkeys(readers, READABLE)
        for descriptor in writers:
            ready[descriptor] = ready.get(descriptor, 0) | WRITABLE
        return list(ready.items())


POLLERS: dict[str, type[Epoll] | type[Poll] | type[Select]] = {
    "epoll": Epoll,
    "poll": Poll,
    "select": Select,
}
