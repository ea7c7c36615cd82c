"""One read for all who want the same page at once.

Whoever misses a page while somebody reads it waits for that read instead of
making one more, and gets the same page: many connections then send from the
same bytes.  The lock is taken by misses only.

A page that is too large for the cache is kept by those who send it and by
nobody else: `LargeBodies` finds it again as long as a connection still has some
of it to send, and costs nothing afterwards.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from typing import Generic, Self, TypeVar
from weakref import WeakValueDictionary

P = TypeVar("P")


class _Reading(Generic[P]):
    """A read in progress, and what came of it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.page: P | None = None


class SharedReads(Generic[P]):
    """Which pages are being read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: dict[str, _Reading[P]] = {}

    def get(self, key: str, find: Callable[[str], P | None], read: Callable[[str], P]) -> P:
        """The page at `key`: found, or read by whoever comes first.

        `find` is asked once more, since a read may have ended after the caller's
        miss; so `read` is to leave the page where `find` finds it.  If the read
        of another fails, the caller makes its own: a fault is not spread.
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
    """The bytes of a file.  Unlike `bytes` they can be referred to weakly.

    A memoryview of it, or of a part of that, keeps it alive: so does what a
    connection has not sent yet.
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
