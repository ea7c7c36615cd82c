"""The event queue: bounded, first in first out, and every event crosses it once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.options import UsageError
from servers.seda import EventQueue

DEADLINE_S = 30.0


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """`work` runs beside the block, and has come to its end when that ends."""
    running = threading.Thread(target=work)
    running.start()
    yield running
    running.join(DEADLINE_S)
    assert not running.is_alive()


@given(st.lists(st.one_of(st.lists(st.integers(), max_size=5), st.integers(1, 6)), max_size=30))
def test_it_is_a_list_with_two_ends(actions: list[list[int] | int]) -> None:
    queue: EventQueue[int] = EventQueue(1000)
    model: list[int] = []
    for action in actions:
        if isinstance(action, list):
            assert queue.put(action) == ()
            model += action
        elif model:
            assert queue.take(action) == model[:action]
            del model[:action]
        assert len(queue) == len(model)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_queue_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(UsageError, match="capacity"):
        EventQueue(capacity)


def test_nothing_is_no_event() -> None:
    queue: EventQueue[int] = EventQueue(1)
    for events in ([], (), range(0)):
        assert queue.put(events) == ()
    assert (len(queue), queue.events_in, queue.dropped) == (0, 0, 0)


def test_who_does_not_want_to_wait_does_not() -> None:
    queue: EventQueue[int] = EventQueue(2)
    assert queue.take(10, 0) == []
    assert queue.take(10, 0.01) == []
    assert list(queue.put(range(5), wait=False)) == [2, 3, 4]
    assert queue.losses["block"] == 3
    assert queue.take(10, 0) == [0, 1]
    queue.close()
    assert queue.take(10, 0) is None
    assert queue.take(10, 0.01) is None


def test_what_is_offered_comes_back_if_there_is_no_room_and_is_not_lost() -> None:
    queue: EventQueue[int] = EventQueue(3)
    assert queue.offer([]) == ()
    assert queue.offer([1, 2]) == ()
    assert queue.offer([3, 4, 5]) == [4, 5]
    assert queue.offer([4, 5]) == [4, 5]
    assert queue.take(10) == [1, 2, 3]
    assert (queue.events_in, queue.dropped) == (3, 0)
    queue.close()
    assert queue.offer([6]) == [6]
    assert queue.dropped == 0


def test_a_producer_waits_for_room_and_the_queue_never_exceeds_its_capacity() -> None:
    queue: EventQueue[int] = EventQueue(4)
    with thread(lambda: queue.put(range(100))):
        taken: list[int] = []
        while len(taken) < 100:
            batch = queue.take(3)
            assert batch is not None
            assert 1 <= len(batch) <= 3
            assert len(queue) <= 4
            taken += batch
    assert taken == list(range(100))
    assert queue.events_in == 100


def test_a_consumer_waits_for_something() -> None:
    queue: EventQueue[str] = EventQueue(4)
    taken: list[list[str] | None] = []
    with thread(lambda: taken.append(queue.take(10))):
        queue.put(["event"])
    assert taken == [["event"]]


def test_a_closed_queue_gives_what_is_inside_and_takes_nothing_in() -> None:
    queue: EventQueue[int] = EventQueue(4)
    queue.put([1, 2])
    queue.close()
    assert queue.put([3]) == [3]
    assert queue.dropped == 1
    assert queue.take(10) == [1, 2]
    assert queue.take(10) is None
    assert queue.take(10) is None


def test_closing_wakes_a_producer_which_learns_what_did_not_get_in() -> None:
    queue: EventQueue[int] = EventQueue(2)
    left_over: list[int] = []
    with thread(lambda: left_over.extend(queue.put(range(5)))) as producer:
        while len(queue) < 2:
            assert producer.is_alive()
        queue.close()
    assert left_over == [2, 3, 4]
    assert queue.dropped == 3
    assert queue.take(10) == [0, 1]


def test_closing_wakes_every_consumer() -> None:
    queue: EventQueue[int] = EventQueue(2)
    ends: list[list[int] | None] = []
    consumers = [threading.Thread(target=lambda: ends.append(queue.take(1))) for _ in range(5)]
    for consumer in consumers:
        consumer.start()
    queue.close()
    for consumer in consumers:
        consumer.join(DEADLINE_S)
    assert ends == [None] * 5


@pytest.mark.parametrize("capacity", [1, 7, 1000])
@pytest.mark.parametrize(("producers", "consumers"), [(1, 4), (4, 1), (4, 4)])
def test_every_event_crosses_once_and_in_its_producers_order(
    capacity: int, producers: int, consumers: int
) -> None:
    queue: EventQueue[tuple[int, int]] = EventQueue(capacity)
    each = 600
    taken: list[list[tuple[int, int]]] = [[] for _ in range(consumers)]

    def produce(who: int) -> None:
        for start in range(0, each, 20):
            assert queue.put([(who, number) for number in range(start, start + 20)]) == ()

    def consume(mine: list[tuple[int, int]]) -> None:
        while (batch := queue.take(16)) is not None:
            mine += batch

    producing = [threading.Thread(target=produce, args=(who,)) for who in range(producers)]
    consuming = [threading.Thread(target=consume, args=(mine,)) for mine in taken]
    for running in producing + consuming:
        running.start()
    for running in producing:
        running.join(DEADLINE_S)
    queue.close()
    for running in consuming:
        running.join(DEADLINE_S)
    events = sorted(event for mine in taken for event in mine)
    assert events == [(who, number) for who in range(producers) for number in range(each)]
    for mine in taken:
        for who in range(producers):
            order = [number for producer, number in mine if producer == who]
            assert order == sorted(order)
    assert queue.events_in == producers * each


def test_time_in_the_queue_only_ever_grows_and_is_that_of_the_events_in_it() -> None:
    queue: EventQueue[int] = EventQueue(64)
    done = threading.Event()

    def cross() -> None:
        while not done.is_set():
            queue.put(range(10))
            queue.take(10)

    begin_ns = time.monotonic_ns()
    with thread(cross), thread(cross):
        before = 0
        for _ in range(2000):
            waited_ns = queue.waited_ns()
            assert before <= waited_ns <= 64 * (time.monotonic_ns() - begin_ns)
            before = waited_ns
        done.set()
    assert len(queue) == 0
    assert queue.waited_ns() == queue.waited_ns() >= before  # nobody waits any more


def test_events_that_nobody_takes_wait_on() -> None:
    queue: EventQueue[int] = EventQueue(4)
    assert queue.waited_ns() == 0
    queue.put([1, 2])
    first = queue.waited_ns()
    while (second := queue.waited_ns()) == first:
        pass
    assert second > first
