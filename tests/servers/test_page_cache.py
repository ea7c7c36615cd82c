"""The page cache against the plainest LRU that there is."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from servers.services.page_cache import Cached, PageCache


class Thing(Cached):
    __slots__ = ()

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.stamp = 0


class Model:
    """An ordered dictionary, least recently used first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.things: OrderedDict[str, Thing] = OrderedDict()
        self.hits = self.misses = self.evictions = 0

    def get(self, key: str) -> Thing | None:
        if key in self.things:
            self.hits += 1
            self.things.move_to_end(key)
            return self.things[key]
        self.misses += 1
        return None

    def put(self, key: str, thing: Thing) -> None:
        if thing.size_bytes > self.limit_bytes:
            return
        self.things[key] = thing
        self.things.move_to_end(key)
        while self.bytes > self.limit_bytes:
            self.things.popitem(last=False)
            self.evictions += 1

    @property
    def bytes(self) -> int:
        return sum(thing.size_bytes for thing in self.things.values())


KEYS = st.sampled_from("abcdefgh")


@given(
    st.integers(0, 40),
    st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(1, 15))), max_size=200),
)
def test_it_does_what_the_model_does(
    limit_bytes: int, actions: list[tuple[str, int | None]]
) -> None:
    cache: PageCache[Thing] = PageCache(limit_bytes)
    model = Model(limit_bytes)
    for key, size_bytes in actions:
        if size_bytes is None:
            assert cache.get(key) is model.get(key)
        else:
            thing = Thing(size_bytes)
            cache.put(key, thing)
            model.put(key, thing)
        assert cache.stats() == {
            "limit_bytes": limit_bytes,
            "bytes": model.bytes,
            "entries": len(model.things),
            "hits": model.hits,
            "misses": model.misses,
            "evictions": model.evictions,
        }


def test_a_bound_of_zero_keeps_nothing() -> None:
    cache: PageCache[Thing] = PageCache(0)
    cache.put("a", Thing(1))
    assert cache.get("a") is None
    assert cache.stats()["evictions"] == 0


def test_a_page_larger_than_the_cache_does_not_empty_it() -> None:
    cache: PageCache[Thing] = PageCache(10)
    cache.put("a", Thing(10))
    cache.put("b", Thing(11))
    assert cache.get("a") is not None


def test_many_threads_lose_no_byte_and_no_hit() -> None:
    cache: PageCache[Thing] = PageCache(100)
    gets = 3_000

    def use(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(gets):
            key = chance.choice("abcdefghijklmnopqrst")
            if cache.get(key) is None:
                cache.put(key, Thing(chance.randint(1, 20)))

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats["hits"] + stats["misses"] == 6 * gets
    assert stats["bytes"] == sum(thing.size_bytes for thing in cache._pages.values()) <= 100
    assert len(cache._heap) == stats["entries"] == len(cache._pages)
