"""A page cache: strings to pages, bounded in bytes, least recently used out first.

A server reads its cache on every request and changes it on a miss, so the two
are built apart:

- A hit takes no lock.  It looks into a plain dictionary and stamps the page
  with the next number of a clock that only counts.
- Whatever changes the cache holds the lock.  Room is made from a heap that
  has one record a page: the stamp that the page had when the record was
  pushed, and its key.  If the page's stamp has moved on since, the record goes
  back with the newer one; if not, no page has waited longer, and it goes.  A
  record goes back only if its page was hit meanwhile, so a hit pays, later and
  at most once, the logarithm that it did not pay at the time.

This is LRU itself, not an approximation, but for a hit and an eviction at the
very same moment, of which either may come first.  It asks of the interpreter
that a dictionary read and `next()` of a count may run beside a writer, which
is so with and without the interpreter's lock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import Generic, TypeVar


class Cached:
    """What can be kept: it knows its size.  The cache owns `stamp`."""

    __slots__ = ("size_bytes", "stamp")

    size_bytes: int
    """What keeping it costs; must not change while it is kept."""
    stamp: int
    """When it was last used, in the cache's own time."""


P = TypeVar("P", bound=Cached)


class PageCache(Generic[P]):
    """At most `limit_bytes` of pages; 0 keeps nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: dict[str, P] = {}
        self._clock = itertools.count()
        self._not_hits = 0  # ticks of the clock that were no hits
        self._heap: list[tuple[int, str]] = []  # exactly one record a page
        self._lock = threading.Lock()
        self._bytes = 0
        self._misses = 0
        self._evictions = 0

    def get(self, key: str) -> P | None:
        """The page, now the most recently used; None, counted as a miss, if it is not here."""
        page = self._pages.get(key)
        if page is not None:
            page.stamp = next(self._clock)
            return page
        with self._lock:
            self._misses += 1
        return None

    def peek(self, key: str) -> P | None:
        """The page if it is here; neither a hit nor a miss."""
        return self._pages.get(key)

    def put(self, key: str, page: P) -> None:
        """Keep `page`, at the expense of those unused for longest; one over the bound is not kept.

        Several threads that missed the same page may each put what they read;
        the last one stays, and is counted once.
        """
        with self._lock:
            if page.size_bytes > self._limit_bytes:
                return
            page.stamp = self._tick()
            before = self._pages.get(key)
            if before is not None:
                self._bytes -= before.size_bytes
            else:
                heapq.heappush(self._heap, (page.stamp, key))
            self._pages[key] = page
            self._bytes += page.size_bytes
            while self._bytes > self._limit_bytes:
                self._evict()

    def _evict(self) -> None:
        while True:
            stamp, key = self._heap[0]
            page = self._pages[key]
            if page.stamp == stamp:
                break
            heapq.heapreplace(self._heap, (page.stamp, key))
        heapq.heappop(self._heap)
        del self._pages[key]
        self._bytes -= page.size_bytes
        self._evictions += 1

    def _tick(self) -> int:
        """A tick that is no hit; the lock is held."""
        self._not_hits += 1
        return next(self._clock)

    def stats(self) -> dict[str, int]:
        """Counters, and what is kept now."""
        with self._lock:
            # Each hit is one tick: counted exactly, by whichever thread, without a lock.
            hits = self._tick() + 1 - self._not_hits
            return {
                "limit_bytes": self._limit_bytes,
                "bytes": self._bytes,
                "entries": len(self._pages),
                "hits": hits,
                "misses": self._misses,
                "evictions": self._evictions,
            }
