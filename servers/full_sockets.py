"""Sockets whose send buffers are full, so that no writer has to wait for them.

The writers of `threaded` park a connection here instead of waiting for its
peer.  One epoll watches all parked sockets; a single thread polls it.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import Generic, TypeVar

from servers.connection import unacknowledged

T = TypeVar("T")


class _Parked(Generic[T]):
    def __init__(self, sock: socket.socket, what: T) -> None:
        self.sock = sock
        self.what = what
        self.since_ns = time.monotonic_ns()
        self.unacknowledged = unacknowledged(sock)


class FullSockets(Generic[T]):
    """Any thread may `park`; one thread calls `writable` and `overdue`, which unpark."""

    def __init__(self, send_timeout_s: float) -> None:
        self._patience_ns = int(send_timeout_s * 1e9)
        self._parked: dict[int, _Parked[T]] = {}
        self._epoll = select.epoll()
        self._lock = threading.Lock()  # keeps dictionary and epoll consistent

    def fileno(self) -> int:
        """Readable while a parked socket is writable."""
        return self._epoll.fileno()

    def park(self, sock: socket.socket, what: T) -> None:
        """Must be the caller's last action: another thread may get `what` at once."""
        parked = _Parked(sock, what)
        with self._lock:
            self._parked[sock.fileno()] = parked
            self._epoll.register(sock.fileno(), select.EPOLLOUT)

    def writable(self) -> list[T]:
        """Those that take bytes again, or are broken: the next `send` tells which."""
        return [self._take(descriptor) for descriptor, _ in self._epoll.poll(0)]

    def overdue(self, now_ns: int) -> list[T]:
        """Those whose peer has taken nothing for the whole send time-out."""
        late: list[T] = []
        for descriptor, parked in self._parked.copy().items():
            if now_ns - parked.since_ns <= self._patience_ns:
                continue
            # As in `Connection.overdue`: what the peer's kernel has acknowledged is progress.
            before, parked.unacknowledged = parked.unacknowledged, unacknowledged(parked.sock)
            if parked.unacknowledged >= before:
                late.append(self._take(descriptor))
            parked.since_ns = now_ns
        return late

    def _take(self, descriptor: int) -> T:
        with self._lock:
            self._epoll.unregister(descriptor)
            return self._parked.pop(descriptor).what
