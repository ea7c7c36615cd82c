"""A page cache: maps strings to pages, bounded in bytes, evicts the least recently used.

A server reads its cache on every request and changes it only on a miss, so the two
work differently:

- A hit takes no lock.  It looks into a plain dictionary and stamps the page
  with the next number of a logical clock.
- A change takes the lock.  Eviction uses a heap with one record per page: its key, and
  the stamp that it had when the record was pushed.  If the page of the oldest record has a
  newer stamp by now, the record is pushed again with that stamp; if not, no page is
  older, and it is evicted.  A record is pushed again only if its page was hit
  meanwhile, so a hit pays the logarithm later, and at most once.

This is exact LRU, not an approximation, except that a hit and an eviction at the
same moment may come in either order.  It relies on the interpreter allowing a dictionary
read and `next()` of a count beside a writer, which holds with and without the
interpreter's lock.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from typing import Generic, TypeVar


class Cached:
    """What can be cached: it knows its size.  `stamp` belongs to the cache."""

    __slots__ = ("size_bytes", "stamp")

    size_bytes: int
    """Its cost in memory; must not change while it is cached."""
    stamp: int
    """When it was last used, by the cache's logical clock."""


P = TypeVar("P", bound=Cached)


class PageCache(Generic[P]):
    """At most `limit_bytes` of pages; 0 caches nothing."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._pages: dict[str, P] = {}
        self._clock = itertools.count()
        self._not_hits = 0  # ticks of the clock that were not hits
        self._heap: list[tuple[int, str]] = []  # exactly one record per page
        self._lock = threading.Lock()
        self._bytes = 0
        self._misses = 0
        self._evictions = 0

    def get(self, key: str) -> P | None:
        """The page, which becomes the most recently used; None, counted as a miss, if absent."""
        page = self._pages.get(key)
        if page is not None:
            page.stamp = next(self._clock)
            return page
        with self._lock:
            self._misses += 1
        return None

    def peek(self, key: str) -> P | None:
        """The page if it is cached; counts neither as a hit nor as a miss."""
        return self._pages.get(key)

    def put(self, key: str, page: P) -> None:
        """Cache `page`, evicting the least recently used; one larger than the limit is not cached.

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
        """A tick that is not a hit; the caller has the lock."""
        self._not_hits += 1
        return next(self._clock)

    def stats(self) -> dict[str, int]:
        """Counters and current contents."""
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
