"""The kernel's two queues, with the interface of an event queue (`servers.seda.stage.Source`).

`Readiness` is epoll's queue of ready sockets, the source of the read stage; `Backlog` is
the listener's queue of new connections, the source of the accept stage.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from servers.acceptor import Acceptor
from servers.connection import READABLE
from servers.counters import Counters
from servers.seda.connections import StagedConnection

Ready: TypeAlias = tuple[StagedConnection, int]
"""A connection, and what epoll says of it."""


class Readiness:
    """The kernel's queue of ready sockets (epoll).  Its events are connections and epoll masks."""

    capacity = None
    events_in = None
    dropped = 0
    ready = False  # the kernel tells only those that wait for it

    def __init__(self, readers: int) -> None:
        self.connections: dict[int, StagedConnection] = {}
        self.oldest_ns = 0
        """Lower bound on the time at which the connections taken last became ready."""
        self.idle_ns = 0
        """Time since the last `take` that a runner spent waiting on our behalf."""
        self._looked_ns = time.monotonic_ns()
        self._full: deque[int] = deque()  # time away before each of the latest full batches
        self._full_ns = 0  # their sum
        self._epoll = select.epoll()
        self._once = select.EPOLLONESHOT if readers > 1 else 0
        self.shared = readers > 1
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._end, READABLE)

    def __len__(self) -> int:
        return 0  # the kernel does not say

    def fileno(self) -> int:
        return self._epoll.fileno()

    def take(self, max_events: int, timeout_s: float | None = None) -> list[Ready] | None:
        find = self.connections.get
        while True:
            ready: list[Ready] = []
            asked_ns = time.monotonic_ns()
            found = self._epoll.poll(timeout_s, max_events)
            self._estimate_wait(asked_ns, len(found), max_events)
            for descriptor, events in found:
                connection = find(descriptor)
                if connection is not None:
                    ready.append((connection, events))
                elif descriptor == self._end:
                    return None
            if ready or timeout_s is not None:
                return ready

    def _estimate_wait(self, asked_ns: int, found: int, max_events: int) -> None:
        """Estimate how long the connections found may have waited.

        If the poll returned at once, they may have waited since nobody looked.  A poll that
        returns as many as it can leaves others behind; the kernel reports them in turn, so
        each has waited at most as many full batches as it takes to see all connections.
        With several readers, none knows when another one polled.
        """
        now_ns = time.monotonic_ns()
        if self.shared:
            self.oldest_ns = now_ns
            return
        away_ns = max(0, asked_ns - self._looked_ns - self.idle_ns)
        waited_ns = away_ns + self._full_ns - (now_ns - asked_ns)
        self.oldest_ns = now_ns - max(0, waited_ns)
        self._looked_ns = now_ns
        self.idle_ns = 0
        if found == max_events:
            self._full.append(away_ns)
            self._full_ns += away_ns
            while len(self._full) * max_events > len(self.connections):
                self._full_ns -= self._full.popleft()
        elif self._full:
            self._full.clear()
            self._full_ns = 0

    def add(self, connection: StagedConnection) -> None:
        # The lock: a reader may still have an event of a closed connection whose descriptor
        # this one has inherited; its `claim` waits until the kernel knows this one.
        with connection.lock:
            self.connections[connection.descriptor] = connection
            try:
                self._epoll.register(connection.descriptor, READABLE | self._once)
            except OSError:
                del self.connections[connection.descriptor]
                raise

    def arm(self, connection: StagedConnection, events: int, force: bool = False) -> None:
        """Watch for `events`.  The caller has the connection's lock."""
        if connection.claimed:
            return  # its reader re-arms it afterwards
        if events != connection.interest or force:
            connection.interest = events
            self._epoll.modify(connection.descriptor, events | self._once)

    def remove(self, connection: StagedConnection) -> None:
        """Forget it.  To be called before its descriptor is closed, and can be reused."""
        del self.connections[connection.descriptor]
        self._epoll.unregister(connection.descriptor)

    def close(self) -> None:
        os.eventfd_write(self._end, 1)  # never read, so it wakes every reader


class Backlog:
    """The listener's backlog.  Its events are sockets that may stay.

    When accept() fails, the backlog is not watched until `resume`: nobody sleeps here,
    since the thread may have other stages to run.
    """

    capacity = None
    events_in = None
    dropped = 0
    ready = False

    def __init__(
        self,
        listener: socket.socket,
        has_room: Callable[[], bool],
        counters: Callable[[], Counters],
    ) -> None:
        self._acceptor = Acceptor(listener, has_room)
        self._counters = counters
        self._descriptor = listener.fileno()
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # epoll, because several threads may poll it at once, unlike poll().  Two, because a
        # runner that serves several stages waits for the backlog but not for the end event,
        # which stays readable.
        self._backlog = select.epoll()
        self._backlog.register(self._descriptor, READABLE)
        self._ready = select.epoll()
        self._ready.register(self._backlog.fileno(), READABLE)
        self._ready.register(self._end, READABLE)

    def __len__(self) -> int:
        return 0  # the kernel does not say

    def fileno(self) -> int:
        return self._backlog.fileno()

    def take(self, max_events: int, timeout_s: float | None = None) -> list[socket.socket] | None:
        while True:
            if any(descriptor == self._end for descriptor, _ in self._ready.poll(timeout_s)):
                return None
            accepted = list(self._acceptor.take(max_events, self._counters()))
            if self._acceptor.failed:
                self._backlog.modify(self._descriptor, 0)
            if accepted or timeout_s is not None:
                return accepted
            if self._acceptor.closing:
                return None

    def resume(self) -> None:
        """Watch the backlog again, if accept() had failed."""
        if self._acceptor.failed and not self._acceptor.closing:
            self._acceptor.failed = False
            self._backlog.modify(self._descriptor, READABLE)

    def close(self) -> None:
        self._acceptor.closing = True
        os.eventfd_write(self._end, 1)
