"""The network as stages: where their events come from, and what they do with them.

Three stages surround those of the service.  *accept*: events are new
connections.  *read*: events are ready sockets; out come requests.  *write*:
events are connections with a reply that is ready; out go bytes.

Who may touch a connection, when several threads could:

- one reader at a time: with one read thread that is so by itself, with more
  the kernel reports a socket to one of them only, until it is re-armed
  (EPOLLONESHOT), and who re-arms it while its event waits in a reader's batch
  has it reported twice: the first reader to `seize` it has it;
- a reader alone closes the socket, so that no descriptor is used again while
  somebody is about to read from it; anybody else *dooms* the connection,
  which wakes a reader;
- outbox, `interest` and the flags of the end are touched under the
  connection's lock.  Reading ordinary input does not take it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from servers.connection import BROKEN, READABLE, WRITABLE, Connection
from servers.counters import Counters
from servers.listener import accept, shut
from servers.patience import still_pending
from servers.seda.stage import Dispatch
from servers.seda.trace import ABANDONED, Tracer
from servers.service import Request, Session

MOST_IN_FLIGHT = 256
"""Requests of one connection inside the stages at once; a pipeliner's others wait outside."""

Ready: TypeAlias = "tuple[StagedConnection, int]"


class StagedConnection(Connection):
    """A connection whose requests are in several hands at once."""

    __slots__ = ("doomed", "in_hand", "late", "lock", "pending")

    def __init__(self, sock: socket.socket, session: Session, now_ns: int) -> None:
        super().__init__(sock, session, now_ns)
        self.lock = threading.Lock()
        self.pending: list[Request] = []  # in order; the reply to the first goes out first
        self.doomed: str | None = None  # to be closed: the kind of error, or ""
        self.late = False  # its request has not come in time; a reader is to give it up
        self.in_hand = False  # a reader has it, and will arm it again

    @property
    def at_rest(self) -> bool:
        return not self.pending and super().at_rest

    def seize(self) -> bool:
        """One of several readers takes it in hand; False if another has it, or has closed it."""
        with self.lock:
            if self.in_hand or self.closed:
                return False
            self.in_hand = True
            return True

    def admits(self, most_unsent: int) -> bool:
        """May a further request enter the stages?"""
        return len(self.pending) < MOST_IN_FLIGHT and self.unsent <= most_unsent

    def drop_held(self, counters: Counters) -> None:
        """No held request is begun any more.  The lock is held.

        A reader may be about to admit some: each is taken either by it or by us.
        """
        held, self.held = self.held, None
        if held is not None:
            counters.abandoned += sum(1 for _ in held)

    def drop_pending(self, counters: Counters) -> None:
        """No reply to those inside the stages is sent any more.  The lock is held."""
        count = len(self.pending)
        counters.abandoned += count
        del self.pending[:count]  # not clear(): a reader may put another behind them

    def wanted(self, most_unsent: int) -> int:
        events = super().wanted(most_unsent)
        if self.held is not None and self.admits(most_unsent):
            events |= WRITABLE  # a reader comes as soon as it is, and admits what is held
        return events


class Readiness:
    """The kernel's queue of ready sockets, in the shape of an event queue."""

    capacity = None
    events_in = None
    dropped = 0
    ready = False  # the kernel tells only who waits for it

    def __init__(self, readers: int) -> None:
        self.connections: dict[int, StagedConnection] = {}
        self.oldest_ns = 0
        """What was taken last became ready after this, at the earliest."""
        self.rested_ns = 0
        """Time since the last look in which a runner waited in our place."""
        self._looked_ns = time.monotonic_ns()
        self._full: deque[int] = deque()  # time away before each full look since one was not
        self._full_ns = 0  # their sum
        self._epoll = select.epoll()
        self._once = select.EPOLLONESHOT if readers > 1 else 0
        self.shared = readers > 1
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._end, READABLE)

    def __len__(self) -> int:
        return 0  # the kernel does not tell

    def fileno(self) -> int:
        return self._epoll.fileno()

    def take(self, most: int, timeout_s: float | None = None) -> list[Ready] | None:
        find = self.connections.get
        while True:
            ready: list[Ready] = []
            asked_ns = time.monotonic_ns()
            found = self._epoll.poll(timeout_s, most)
            self._note(asked_ns, len(found), most)
            for descriptor, events in found:
                connection = find(descriptor)
                if connection is not None:
                    ready.append((connection, events))
                elif descriptor == self._end:
                    return None
            if ready or timeout_s is not None:
                return ready

    def _note(self, asked_ns: int, found: int, most: int) -> None:
        """How long what was found may have waited: since nobody looked, if it was there at once.

        A look that takes as many as it can leaves others.  The kernel shows each
        in its turn, so each has waited for as many full looks as it takes to
        see all connections, at most.  Of several readers none knows when another looked.
        """
        now_ns = time.monotonic_ns()
        if self.shared:
            self.oldest_ns = now_ns
            return
        away_ns = max(0, asked_ns - self._looked_ns - self.rested_ns)
        waited_ns = away_ns + self._full_ns - (now_ns - asked_ns)
        self.oldest_ns = now_ns - max(0, waited_ns)
        self._looked_ns = now_ns
        self.rested_ns = 0
        if found == most:
            self._full.append(away_ns)
            self._full_ns += away_ns
            while len(self._full) * most > len(self.connections):
                self._full_ns -= self._full.popleft()
        elif self._full:
            self._full.clear()
            self._full_ns = 0

    def add(self, connection: StagedConnection) -> None:
        # The lock: a late event of a closed connection, whose descriptor this one has got,
        # may bring a reader here before the kernel knows it; `seize` waits until it does.
        with connection.lock:
            self.connections[connection.descriptor] = connection
            try:
                self._epoll.register(connection.descriptor, READABLE | self._once)
            except OSError:
                del self.connections[connection.descriptor]
                raise

    def arm(self, connection: StagedConnection, events: int, force: bool = False) -> None:
        """Watch for `events`.  The connection's lock is held."""
        if connection.in_hand:
            return  # its reader arms it when it is done
        if events != connection.interest or force:
            connection.interest = events
            self._epoll.modify(connection.descriptor, events | self._once)

    def remove(self, connection: StagedConnection) -> None:
        """Forget it.  To be called before its descriptor is closed, and so can be used anew."""
        del self.connections[connection.descriptor]
        self._epoll.unregister(connection.descriptor)

    def close(self) -> None:
        os.eventfd_write(self._end, 1)  # never read again: it wakes every reader


class Arrivals:
    """The listener's backlog, in the shape of an event queue: its events are sockets.

    `seat` says of each, before the next is accepted, whether it may stay; one
    that may not is closed at once, so that no flood takes more descriptors than
    there are seats.  When accept() fails, the backlog is looked at no more until
    `resume`: nobody sleeps here, since the thread may have other stages to run.
    """

    capacity = None
    events_in = None
    dropped = 0
    ready = False

    def __init__(
        self, listener: socket.socket, seat: Callable[[], bool], failed: Callable[[], None]
    ) -> None:
        self._listener = listener
        self._seat = seat
        self._failed = failed
        self._descriptor = listener.fileno()
        self._closed = False
        self._paused = False
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # epoll: several threads may ask it at once, unlike poll().  Two, since whoever runs
        # several stages waits at the backlog, and not at the end, which is there to stay.
        self._backlog = select.epoll()
        self._backlog.register(self._descriptor, READABLE)
        self._ready = select.epoll()
        self._ready.register(self._backlog.fileno(), READABLE)
        self._ready.register(self._end, READABLE)

    def __len__(self) -> int:
        return 0  # the kernel does not tell

    def fileno(self) -> int:
        return self._backlog.fileno()

    def take(self, most: int, timeout_s: float | None = None) -> list[socket.socket] | None:
        while True:
            if any(descriptor == self._end for descriptor, _ in self._ready.poll(timeout_s)):
                return None
            arrived: list[socket.socket] = []
            try:
                # Every one counts, so that a flood of those that may not stay holds up nobody.
                for _ in range(most):
                    sock = accept(self._listener)
                    if sock is None:
                        break
                    if self._seat():
                        arrived.append(sock)
                    else:
                        sock.close()
            except OSError:
                if self._closed:
                    return arrived or None
                self._failed()
                self._paused = True
                self._backlog.modify(self._descriptor, 0)
            if arrived or timeout_s is not None:
                return arrived

    def resume(self) -> None:
        """Look at the backlog again, if accept() had failed."""
        if self._paused and not self._closed:
            self._paused = False
            self._backlog.modify(self._descriptor, READABLE)

    def close(self) -> None:
        self._closed = True
        os.eventfd_write(self._end, 1)


class Network:
    """What the handlers of accept, read and write share: how connections live and end."""

    def __init__(
        self,
        readiness: Readiness,
        new_session: Callable[[], Session | None],
        counters: Callable[[], Counters],
        most_connections: int,
        most_unsent: int,
        receive_bytes: int,
    ) -> None:
        self.readiness = readiness
        self.stopping = False
        self.tracer: Tracer | None = None
        self.enter: Callable[[Sequence[Request], Dispatch, int], None]
        """Sends requests to the stages where they enter; set when those exist."""
        self.answered: Callable[[Sequence[Request]], None] | None = None
        """Told of sampled requests (`entered_ns` is set) when their replies are posted."""
        self.tell: Callable[[Exception], None]
        """Told of what a session raised, and of a reply that cannot be sent."""
        self._new_session = new_session
        self._counters = counters
        self._most_connections = most_connections
        self._most_unsent = most_unsent
        self._receive_bytes = receive_bytes
        self._local = threading.local()
        self._seats = threading.Lock()
        self._arriving = 0  # have a seat, and are no connections yet

    def seat(self) -> bool:
        """May one more enter?  Counts it as refused if not."""
        with self._seats:
            if not self.stopping and (
                len(self.readiness.connections) + self._arriving < self._most_connections
            ):
                self._arriving += 1
                return True
        self._counters().refused += 1
        return False

    def accept(self, sockets: Sequence[socket.socket], dispatch: Dispatch) -> None:
        """Handler of the accept stage."""
        counters = self._counters()
        now_ns = time.monotonic_ns()
        for sock in sockets:
            session = None if self.stopping else self._new_session()
            with self._seats:  # the next to ask for a seat sees one taken, not two or none
                self._arriving -= 1
                if session is None or not self._enter(sock, session, now_ns, counters):
                    counters.refused += 1
                    sock.close()

    def _enter(
        self, sock: socket.socket, session: Session, now_ns: int, counters: Counters
    ) -> bool:
        counters.accepted += 1  # before a reader can have it, and answer
        try:
            self.readiness.add(StagedConnection(sock, session, now_ns))
        except OSError:  # the kernel has no memory to watch it
            counters.accepted -= 1
            counters.errors["accept"] += 1
            return False
        return True

    def read(self, ready: Sequence[Ready], dispatch: Dispatch) -> None:
        """Handler of the read stage: one read from each ready socket, then the requests go on."""
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
            if shared and not connection.seize():
                continue  # who has it will arm it again
            if shared or events != READABLE or connection.doomed is not None:
                events = self._unusual(connection, events, entering, writable, counters)
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
                            self.tell(error)
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
                self._return(connection, counters)
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
        """Let requests into the stages, up to the limit; hold the rest, and read no more."""
        held: Iterator[Request] | None = requests
        while connection.admits(self._most_unsent):
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

    def _unusual(
        self,
        connection: StagedConnection,
        events: int,
        entering: list[Request],
        writable: list[StagedConnection],
        counters: Counters,
    ) -> int:
        """Whatever is not plain input.  Returns the events that are still to be dealt with."""
        if connection.closed:
            return 0
        if connection.doomed is not None:
            self._close(connection, connection.doomed, counters)
            return 0
        if events & WRITABLE:
            with connection.lock:  # not again, until the write stage has been there
                wanted = connection.interest & ~WRITABLE
                self.readiness.arm(connection, wanted)
            writable.append(connection)
            held = connection.held  # the write stage drops it after a last reply
            if held is not None:
                self._admit(connection, held, entering, counters)
        if connection.late:
            connection.late = False
            if still_pending(connection):  # it has not come after all
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
                if connection.closed or connection.doomed is not None:
                    continue
                try:
                    if self._send_one(connection, counters, sampled):
                        continue
                    self._post(connection, counters, sampled)
                    connection.flush(counters)
                except OSError:
                    self.doom(connection, "reset")
                    continue
                except TypeError as error:  # a reply that is no bytes
                    self.tell(error)
                    self.doom(connection, "handler")
                    continue
                self._settle(connection)
        if sampled:
            if self.tracer:
                self.tracer.passed(sampled, "write", begin_ns, len(connections))
                self.tracer.finish_all(sampled)
            if self.answered is not None:
                self.answered(sampled)

    def _send_one(
        self, connection: StagedConnection, counters: Counters, sampled: list[Request]
    ) -> bool:
        """The usual case: one reply is due, in one piece, and the socket takes it all.

        False if there is more to it; then at most a part of the reply has gone.
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
        except OSError:  # full, or gone: `flush` will find out
            return False
        connection.active = True
        counters.bytes_out += sent
        if sent < len(reply[0]):
            request.reply = (memoryview(reply[0])[sent:],)
            return False
        del pending[0]  # not clear(): a reader may have put another behind it
        counters.replies += 1
        if request.entered_ns:
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
                if request.entered_ns:
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
        """End the connection if its time has come, else watch for what it waits for.

        Its lock is held.
        """
        if connection.closed or connection.doomed is not None:
            return
        if not connection.outbox and not connection.pending and connection.held is None:
            if connection.half_closed:
                self.doom(connection, "")
                return
            if connection.closing and not connection.finished:
                connection.finish(time.monotonic_ns())
        self.readiness.arm(connection, connection.wanted(self._most_unsent))

    def retire(self, connection: StagedConnection) -> None:
        """At shutdown: end a connection that has nothing in flight.

        Not one that was active since the last look: a reader that has completed
        a burst may be about to let its request in.
        """
        with connection.lock:
            if not connection.closing and connection.at_rest and not connection.active:
                connection.closing = True
                self._settle(connection)

    def give_up(self, connection: StagedConnection) -> None:
        """Have a reader give up the request that does not come."""
        with connection.lock:
            if connection.doomed is None and not connection.closed and connection.held is None:
                connection.late = True
                # A socket with little to send is writable: a reader comes at once.
                self.readiness.arm(connection, READABLE | WRITABLE, force=True)

    def doom(self, connection: StagedConnection, error: str) -> None:
        """Have a reader close the connection.  Its lock is held."""
        if connection.closed or connection.doomed is not None:
            return
        connection.doomed = error
        shut(connection.sock, socket.SHUT_RDWR)  # which makes it readable, and its peer know
        self.readiness.arm(connection, READABLE, force=True)

    def _return(self, connection: StagedConnection, counters: Counters) -> None:
        """A reader is done with a connection that another may get next."""
        with connection.lock:
            connection.in_hand = False
            doomed = connection.doomed
            if doomed is None:
                self.readiness.arm(connection, connection.wanted(self._most_unsent), force=True)
        if doomed is not None:
            self._close(connection, doomed, counters)

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
            counters.closed += 1  # all before the peer can know
            connection.sock.close()
