"""What a full queue does.  Whatever becomes of an event, it becomes it once, and is counted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servers.options import UsageError
from servers.seda import POLICIES, EventQueue, Policy, Priorities, QueueSpec
from servers.seda.policies import FullQueue
from tests.servers.test_event_queue import DEADLINE_S, thread


class KeepThePaying(Policy):
    """The example of the module's own text: events are numbers, odd ones pay."""

    name = "keep_the_paying"

    def overflow(
        self, waiting: FullQueue[Any], arriving: Sequence[Any], room: int
    ) -> Sequence[Any]:
        paying = [event for event in arriving if event % 2]
        waiting.extend(paying[:room])
        return [e for e in arriving if not e % 2] + paying[room:]


ALL: list[Policy | str] = [*POLICIES, KeepThePaying()]


def named(policy: Policy | str) -> str:
    return policy if isinstance(policy, str) else policy.name


# What each of them does


def full(policy: Policy | str, capacity: int = 3) -> tuple[EventQueue[int], list[int]]:
    """A queue with 0, 1, ... in it and no room, and what it will have dropped."""
    dropped: list[int] = []
    queue: EventQueue[int] = EventQueue(capacity, policy, on_drop=dropped.extend)
    assert queue.put(range(capacity)) == ()
    return queue, dropped


@pytest.mark.parametrize(
    ("policy", "waiting", "returned", "dropped"),
    [
        ("reject", [1, 2, 3], [4, 5], []),
        ("drop_newest", [1, 2, 3], [], [4, 5]),
        ("drop_oldest", [3, 4, 5], [], [1, 2]),
        (KeepThePaying(), [1, 2, 3], [], [4, 5]),
    ],
    ids=("reject", "drop_newest", "drop_oldest", "of one's own"),
)
def test_of_five_events_three_find_room(
    policy: Policy | str, waiting: list[int], returned: list[int], dropped: list[int]
) -> None:
    queue, fell = full(policy)
    assert queue.take(1) == [0]
    assert list(queue.put([3, 4, 5])) == returned
    assert fell == dropped
    assert queue.take(10) == waiting
    assert queue.losses == {named(policy): 2, "filtered": 0, "closed": 0, "left": 0}
    assert queue.dropped == 2
    assert queue.events_in == 3 + len({3, 4, 5} - {*returned, *dropped})


def test_more_than_ever_fits_keeps_the_newest_under_drop_oldest() -> None:
    queue, dropped = full("drop_oldest")
    queue.put(range(3, 20))
    assert sorted(dropped) == list(range(17))
    assert queue.take(10) == [17, 18, 19]


def test_more_than_ever_fits_keeps_the_first_under_the_others() -> None:
    for policy in ("reject", "drop_newest"):
        queue: EventQueue[int] = EventQueue(3, policy)
        queue.put(range(10))
        assert queue.take(10) == [0, 1, 2]


def test_block_waits_until_all_of_it_is_in() -> None:
    queue, dropped = full("block")
    with thread(lambda: queue.put(range(3, 30))):
        taken: list[int] = []
        while len(taken) < 30:
            taken += queue.take(2) or ()
    assert taken == list(range(30))
    assert (queue.dropped, dropped) == (0, [])


def test_what_is_dropped_where_nobody_wants_to_know_is_counted_all_the_same() -> None:
    queue: EventQueue[int] = EventQueue(1, "drop_newest")
    assert queue.put([1, 2, 3]) == ()
    assert queue.losses["drop_newest"] == 2


def test_on_drop_may_put_into_the_queue_again() -> None:
    # It runs outside the lock.
    queue: EventQueue[int] = EventQueue(1, "drop_newest")
    queue.on_drop = lambda events: queue.take(1) and None
    queue.put([1, 2])
    assert len(queue) == 0


@pytest.mark.parametrize("policy", ALL, ids=named)
def test_a_closed_queue_loses_everything_as_closed(policy: Policy | str) -> None:
    queue, dropped = full(policy)
    queue.close()
    assert list(queue.put([7, 8])) == [7, 8]
    assert queue.losses == {named(policy): 0, "filtered": 0, "closed": 2, "left": 0}
    assert dropped == []
    assert queue.take(10) == [0, 1, 2]


# True of all


class Event:
    """One of a kind: told apart by identity, though all look alike to a filter or an order."""

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __mod__(self, number: int) -> int:  # for KeepThePaying
        return self.kind % number


ACTIONS = st.lists(
    st.one_of(st.lists(st.integers(0, 5), max_size=12), st.integers(1, 8)), max_size=30
)


@given(
    policy=st.sampled_from(ALL),
    capacity=st.integers(1, 9),
    filtered=st.booleans(),
    ordered=st.booleans(),
    actions=ACTIONS,
)
def test_every_event_is_taken_or_returned_or_dropped_once_and_counted(
    policy: Policy | str, capacity: int, filtered: bool, ordered: bool, actions: list[Any]
) -> None:
    dropped: list[Event] = []
    queue: EventQueue[Event] = EventQueue(
        capacity, policy, on_drop=dropped.extend,
        accepts=(lambda event: event.kind != 5) if filtered else None,
        order=(lambda event: event.kind) if ordered else None,
    )  # fmt: skip
    put: list[Event] = []
    taken: list[Event] = []
    returned: list[Event] = []
    for action in actions:
        if isinstance(action, int):
            taken += queue.take(action, 0) or ()
        else:
            events = [Event(kind) for kind in action]
            put += events
            returned += queue.put(events, wait=False)
        assert len(queue) <= capacity
    inside = len(queue)
    queue.close()
    late = [Event(0), Event(5)]
    put += late
    returned += (refused := queue.put(late))
    assert set(refused) == set(late)
    assert queue.events_in - inside - len(taken) >= 0  # the difference was let in, then dropped
    taken += queue.take(capacity, 0) or ()
    assert queue.take(1, 0) is None

    ends = Counter(map(id, [*taken, *returned, *dropped]))
    assert ends == Counter(map(id, put))
    assert max(ends.values(), default=1) == 1
    # Under its reason:
    unwanted = [event for event in put if filtered and event.kind == 5]
    assert queue.losses["filtered"] == len(unwanted)
    assert queue.losses["closed"] == sum(event not in unwanted for event in late)
    lost = len(returned) + len(dropped)
    assert queue.losses[named(policy)] == lost - len(unwanted) - queue.losses["closed"]
    assert queue.dropped == lost
    if not ordered and named(policy) != "keep_the_paying":
        place = {id(event): number for number, event in enumerate(put)}
        order = [place[id(event)] for event in taken]
        assert order == sorted(order)


@pytest.mark.parametrize("policy", ALL, ids=named)
def test_that_is_so_between_threads_too(policy: Policy | str) -> None:
    lock = threading.Lock()
    ends: list[int] = []

    def end(events: Sequence[int]) -> None:
        with lock:
            ends.extend(events)

    queue: EventQueue[int] = EventQueue(
        7, policy, accepts=lambda event: event % 10 != 3, on_drop=end
    )
    each = 3000

    def produce(who: int) -> None:
        for start in range(who * each, (who + 1) * each, 5):
            end(queue.put(range(start, start + 5)))

    def consume() -> None:
        while (batch := queue.take(4)) is not None:
            assert len(queue) <= 7
            end(batch)

    with thread(consume), thread(consume):
        producers = [threading.Thread(target=produce, args=(who,)) for who in range(3)]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join(DEADLINE_S)
        queue.close()
    assert sorted(ends) == list(range(3 * each))
    assert queue.losses["filtered"] == 3 * each / 10
    if policy == "block":
        assert queue.dropped == queue.losses["filtered"]


# Filter, priorities, names


def test_a_filter_returns_what_it_refuses_and_lets_the_others_in() -> None:
    queue: EventQueue[int] = EventQueue(4, "drop_newest", accepts=lambda event: event % 2 == 0)
    assert queue.put(range(5)) == [1, 3]
    assert queue.take(10) == [0, 2, 4]
    assert queue.put([1]) == [1]
    assert queue.losses == {"drop_newest": 0, "filtered": 3, "closed": 0, "left": 0}
    assert queue.events_in == 3


def test_what_is_filtered_takes_no_room() -> None:
    queue: EventQueue[int] = EventQueue(2, "reject", accepts=lambda event: event > 0)
    assert queue.put([0, 1, 0, 2, 0, 3]) == [0, 0, 0, 3]
    assert queue.take(10) == [1, 2]


@given(st.lists(st.lists(st.integers(-9, 9), max_size=6), max_size=8), st.integers(1, 5))
def test_priorities_go_first_and_within_one_the_first_goes_first(
    arrivals: list[list[int]], most: int
) -> None:
    queue: EventQueue[tuple[int, int]] = EventQueue(100, order=lambda event: event[0])
    model: list[tuple[int, int]] = []
    number = 0
    for kinds in arrivals:
        events = [(kind, number := number + 1) for kind in kinds]
        queue.put(events)
        model += events
        if model:
            model.sort()
            assert queue.take(most) == model[:most]
            del model[:most]
        assert len(queue) == len(model)


def test_a_hit_need_not_wait_behind_misses() -> None:
    queue = QueueSpec(order=lambda page: int(page.startswith("miss"))).make()
    queue.put(["miss 1", "miss 2", "hit 1"])
    queue.put(["miss 3", "hit 2"])
    assert queue.take(3) == ["hit 1", "hit 2", "miss 1"]
    assert queue.take(3) == ["miss 2", "miss 3"]


def test_a_policy_that_is_entered_can_be_had_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, KeepThePaying.name, KeepThePaying)
    queue: EventQueue[int] = EventQueue(2, "keep_the_paying")
    queue.put(range(6))
    assert queue.take(10) == [1, 3]
    assert queue.losses["keep_the_paying"] == 4


def test_a_policy_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"no queue policy 'lottery'; there are .*reject"):
        EventQueue(1, "lottery")


def test_priorities_are_whole_numbers_of_any_size() -> None:
    queue: EventQueue[int] = EventQueue(9, order=lambda event: event)
    queue.put([3, -(10**12), 2, 1, 0, 10**12])
    assert queue.take(3) == [-(10**12), 0, 1]
    assert queue.take(9) == [2, 3, 10**12]


def test_as_many_priorities_as_events_leave_nothing_behind() -> None:
    queue: EventQueue[int] = EventQueue(10, order=lambda event: event)
    for number in range(1000):
        queue.put([number])
        assert queue.take(1) == [number]
    levels = queue._events
    assert isinstance(levels, Priorities)
    assert len(levels._levels) <= Priorities.MAX_IDLE_LEVELS


@pytest.mark.parametrize("policy", ["reject", "drop_newest", "drop_oldest"])
def test_a_hit_is_never_lost_in_favour_of_a_miss(policy: str) -> None:
    lost: list[str] = []
    queue: EventQueue[str] = EventQueue(
        3, policy, order=lambda page: int(page.startswith("miss")), on_drop=lost.extend
    )
    lost += queue.put(["miss 1", "hit 1", "miss 2"])
    lost += queue.put(["miss 3", "hit 2"])
    assert lost == (["miss 1", "miss 2"] if policy == "drop_oldest" else ["miss 3", "miss 2"])
    lost += queue.put(["hit 3", "hit 4"])
    assert sorted(lost)[0] == ("hit 1" if policy == "drop_oldest" else "hit 4")
    assert (queue.take(9) or [])[0] == ("hit 2" if policy == "drop_oldest" else "hit 1")
    assert queue.losses[policy] == len(lost) == 4


@given(
    policy=st.sampled_from(("reject", "drop_newest", "drop_oldest")),
    capacity=st.integers(1, 6),
    batches=st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=8),
)
def test_what_is_lost_is_never_more_important_than_what_waits(
    policy: str, capacity: int, batches: list[list[int]]
) -> None:
    lost: list[int] = []
    queue: EventQueue[int] = EventQueue(
        capacity, policy, order=lambda event: event, on_drop=lost.extend
    )
    for batch in batches:
        lost.clear()
        lost += queue.put(batch)
        assert len(queue) <= capacity
        if lost:
            assert len(queue) == capacity
            assert max(queue._events) <= min(lost)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("policy", "came"), [("reject", 2), ("drop_newest", 2), ("drop_oldest", 4)]
)
def test_the_books_are_right_though_an_event_comes_twice(
    policy: str, came: int, ordered: bool
) -> None:
    queue: EventQueue[int] = EventQueue(2, policy, order=(lambda event: 0) if ordered else None)
    for _ in range(2):
        queue.put([1, 2])
    assert (queue.events_in, queue.dropped, len(queue)) == (came, 2, 2)
    assert queue.take(9) == [1, 2]
    waited_ns = queue.waited_ns()
    assert queue.waited_ns() == waited_ns  # nobody waits any more


def test_an_order_that_raises_lets_nothing_in() -> None:
    queue: EventQueue[int] = EventQueue(2, "drop_oldest", order=lambda event: 1 // event)
    for events in ([1, 0], [1, 1, 0]):
        with pytest.raises(ZeroDivisionError):
            queue.put(events)
    assert (queue.events_in, queue.dropped, len(queue)) == (0, 0, 0)
    queue.put([1, 2])
    assert queue.take(9) == [2, 1]
    assert queue.waited_ns() == queue.waited_ns()


# A stage that waits until enough has gathered


@pytest.mark.parametrize("within_s", [0.0, -1.0, float("nan")])
def test_to_gather_needs_a_time_within_which(within_s: float) -> None:
    with pytest.raises(UsageError, match="gathers 3 events needs within_s"):
        delayed(3, within_s)


def delayed(at_least: int, within_s: float, capacity: int = 10) -> EventQueue[int]:
    return EventQueue(capacity, at_least=at_least, within_s=within_s)


def test_nothing_is_taken_before_enough_has_gathered() -> None:
    queue = delayed(3, within_s=DEADLINE_S)
    for event in (1, 2):
        queue.put([event])
        assert not queue.ready
        assert queue.take(10, 0) == []
        assert queue.take(10, 0.001) == []  # who wants to wait less, waits less
    queue.put([3])
    assert queue.ready
    assert queue.take(10) == [1, 2, 3]
    assert not queue.ready


def test_a_consumer_wakes_when_enough_has_gathered() -> None:
    queue = delayed(3, within_s=DEADLINE_S)
    taken: list[list[int] | None] = []
    with thread(lambda: taken.append(queue.take(10))):
        for event in range(3):
            assert taken == []
            queue.put([event])
    assert taken == [[0, 1, 2]]


def test_the_oldest_waits_no_longer_than_it_must() -> None:
    queue = delayed(3, within_s=0.05)
    for events in ([1, 2], [3]):
        before_s = time.monotonic()
        queue.put(events)
        assert queue.take(10) == events
        assert time.monotonic() - before_s >= 0.05


def test_a_full_queue_is_always_enough() -> None:
    queue = delayed(4, within_s=DEADLINE_S, capacity=4)
    taken: list[int] = []
    with thread(lambda: queue.put(range(10))):
        while len(taken) < 8:
            taken += queue.take(4) or ()
    assert taken == list(range(8))
    assert queue.take(4, 0) == []  # two are left, and gather
    queue.close()
    assert queue.take(4) == [8, 9]


def test_what_is_left_gathers_again() -> None:
    queue = delayed(3, within_s=DEADLINE_S)
    queue.put([1, 2, 3, 4])
    assert queue.take(2) == [1, 2]
    assert queue.take(2, 0) == []
    queue.put([5])
    assert queue.take(10) == [3, 4, 5]


def test_closing_ends_the_wait() -> None:
    queue = delayed(3, within_s=DEADLINE_S)
    queue.put([1])
    taken: list[list[int] | None] = []
    with thread(lambda: taken.extend((queue.take(10), queue.take(10)))):
        queue.close()
    assert taken == [[1], None]
    queue = delayed(3, within_s=DEADLINE_S)
    queue.put([1])
    queue.close()
    assert queue.ready


@pytest.mark.parametrize("at_least", [0, 11])
def test_what_can_never_gather_is_refused(at_least: int) -> None:
    with pytest.raises(UsageError, match="cannot gather"):
        delayed(at_least, within_s=1)
