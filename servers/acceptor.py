"""Taking new connections: the limit on them and failures of accept(), written once.

Every architecture decides itself *when* to look at the listener and on which thread; what
happens there is the same for all:

- each connection is counted before the next is accepted.  One beyond the limit is closed
  at once and counted as `refused`, so that a flood never holds more descriptors than
  there are places;
- when accept() fails for want of descriptors or memory, that is counted as an error of
  kind `accept`, and `failed` is set.  The architecture then stops watching the listener,
  which would stay readable, until its next sweep.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from servers.counters import Counters
from servers.listener import accept


class Acceptor:
    """Accepts for one listener.  `has_room` says whether one more connection may stay."""

    def __init__(self, listener: socket.socket, has_room: Callable[[], bool]) -> None:
        self.listener = listener
        self.failed = False
        """accept() has failed; the architecture clears it when it looks at the listener again."""
        self.closing = False
        """The listener is about to be closed, so that a failure is no failure."""
        self._has_room = has_room

    def take(self, max_attempts: int, counters: Counters) -> Iterator[socket.socket]:
        """New connections that may stay.  Ends after `max_attempts`, refused ones included.

        A generator: `has_room` is asked again after the caller has registered the
        connection before.
        """
        for _ in range(max_attempts):
            try:
                sock = accept(self.listener)
            except OSError:
                if not self.closing:
                    counters.errors["accept"] += 1
                    self.failed = True
                return
            if sock is None:
                return
            if self._has_room():
                yield sock
            else:
                refuse(sock, counters)


def refuse(sock: socket.socket, counters: Counters, failed: bool = False) -> None:
    """Close a connection that cannot be served.

    `failed`: because something ran out (a thread, memory), which counts as an error, too.
    """
    if failed:
        counters.errors["accept"] += 1
    counters.refused += 1
    sock.close()
