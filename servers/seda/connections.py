"""A connection whose requests are in the hands of several stages at once.

Who may touch it, when several threads could:

- one reader at a time.  With one read thread that is guaranteed.  With more, the kernel
  reports a socket to one of them only, until it is re-armed (EPOLLONESHOT); if another
  thread re-arms it while its event waits in a reader's batch, it is reported twice, and
  the first reader to `claim` it has it;
- only a reader closes the socket, so that no descriptor is reused while somebody is about
  to read from it; everyone else *marks it for close*, which wakes a reader;
- the outbox, `interest` and the flags about its end are touched under the connection's
  lock.  Reading ordinary input does not take the lock.
"""

from __future__ import annotations

import socket
import threading

from servers.connection import WRITABLE, Connection
from servers.counters import Counters
from servers.service import Request, Session

MAX_IN_FLIGHT = 256
"""Requests of one connection inside the stages at once; further pipelined ones wait outside."""


class StagedConnection(Connection):
    """State of one connection; its requests may be in several stages."""

    __slots__ = ("claimed", "close_reason", "lock", "pending", "timed_out")

    def __init__(self, sock: socket.socket, session: Session, now_ns: int) -> None:
        super().__init__(sock, session, now_ns)
        self.lock = threading.Lock()
        self.pending: list[Request] = []  # in order; the reply to the first goes out first
        self.close_reason: str | None = None  # marked for close: the kind of error, or ""
        self.timed_out = False  # its request is overdue; a reader has to answer
        self.claimed = False  # by one of several readers, which will re-arm it

    @property
    def at_rest(self) -> bool:
        return not self.pending and super().at_rest

    def claim(self) -> bool:
        """For one of several readers; False if another has claimed or closed it."""
        with self.lock:
            if self.claimed or self.closed:
                return False
            self.claimed = True
            return True

    def admits(self, max_unsent: int) -> bool:
        """May a further request enter the stages?"""
        return len(self.pending) < MAX_IN_FLIGHT and self.unsent <= max_unsent

    def drop_held(self, counters: Counters) -> None:
        """Abandon the held requests.  The caller has the lock.

        A reader may be admitting some at the same time: each is taken either by it or by us.
        """
        held, self.held = self.held, None
        if held is not None:
            counters.abandoned += sum(1 for _ in held)

    def drop_pending(self, counters: Counters) -> None:
        """Abandon the requests inside the stages.  The caller has the lock."""
        count = len(self.pending)
        counters.abandoned += count
        del self.pending[:count]  # not clear(): a reader may be appending another

    def wanted(self, max_unsent: int) -> int:
        events = super().wanted(max_unsent)
        if self.held is not None and self.admits(max_unsent):
            events |= WRITABLE  # a reader then admits what is held
        return events
