"""One read for all requests that need the same page at the same time.

A request that misses a page while another one reads it waits for that read instead of
starting its own, and gets the same page, so that many connections send from the same
bytes.  Only misses take the lock.

A page that is too large for the cache is referenced only by the connections that send
it: `LargeBodies` finds it as long as one of them has some of it left to send, and costs
nothing afterwards.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from typing import Generic, Self, TypeVar
from weakref import WeakValueDictionary

P = TypeVar("P")


class _Reading(Generic[P]):
    """A read in progress, and its result."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.page: P | None = None


class SharedReads(Generic[P]):
    """Which pages are being read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[str, _Reading[P]] = {}

    def get(self, key: str, find: Callable[[str], P | None], read: Callable[[str], P]) -> P:
        """The page at `key`: found, or read by whichever caller comes first.

        `find` is called once more, since a read may have ended after the caller's
        miss; so `read` must leave the page where `find` finds it.  If another caller's
        read fails, this one reads for itself, so that a fault does not spread.
        """
        with self._lock:
            page = find(key)
            if page is not None:
                return page
            reading = self._readings.get(key)
            if reading is None:
                mine = self._readings[key] = _Reading()
        if reading is not None:
            reading.over.wait()
            return read(key) if reading.page is None else reading.page
        try:
            mine.page = page = read(key)
        finally:
            with self._lock:
                del self._readings[key]
            mine.over.set()
        return page


class LargeBody(array):  # type: ignore[type-arg]  # at run time an array has no type arguments
    """The bytes of a file, which unlike `bytes` can be referenced weakly.

    A memoryview of it, or of a part, keeps it alive: for instance the unsent rest of
    a reply.
    """

    __slots__ = ("etag", "modified_s")

    etag: bytes
    modified_s: int

    def __new__(cls, size_bytes: int) -> Self:
        body: Self = super().__new__(cls, "B", b"\0")  # type: ignore[assignment]
        body.__imul__(size_bytes)  # in place: bytes of that size would be a second copy
        return body


class LargeBodies:
    """Bodies that are in use, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bodies: WeakValueDictionary[str, LargeBody] = WeakValueDictionary()

    def find(self, key: str) -> LargeBody | None:
        with self._lock:
            return self._bodies.get(key)

    def note(self, key: str, body: LargeBody) -> None:
        with self._lock:
            self._bodies[key] = body
