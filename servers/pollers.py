"""The three ways to ask the kernel which sockets are ready, behind one interface.

Events are epoll's masks for all three.  What differs is the cost of one call: with
`select` and `poll` it grows with the number of connections, with `epoll` with the number
of those that are ready.
"""

from __future__ import annotations

import select
from typing import Protocol

from servers.connection import READABLE, WRITABLE

FD_SETSIZE = 1024
"""select() cannot watch a descriptor with this number or above: its sets are bit masks."""


class Poller(Protocol):
    """What the event loop needs."""

    def register(self, descriptor: int, events: int, /) -> None: ...
    def modify(self, descriptor: int, events: int, /) -> None: ...
    def unregister(self, descriptor: int, /) -> None: ...
    def wait(self, timeout_s: float) -> list[tuple[int, int]]: ...


class Epoll:
    """epoll(7)."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self.register = epoll.register
        self.modify = epoll.modify
        self.unregister = epoll.unregister
        self.wait = epoll.poll


class Poll:
    """poll(2), whose POLLIN and so on are the same numbers as epoll's."""

    def __init__(self) -> None:
        poll = select.poll()
        self.register = poll.register
        self.modify = poll.modify
        self.unregister = poll.unregister
        self._poll = poll.poll

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        return self._poll(max(1, int(timeout_s * 1e3)))


class Select:
    """select(2): descriptors below FD_SETSIZE only."""

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
