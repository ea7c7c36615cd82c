"""What happens when an event queue is full: policies, chosen by name, a few lines each.

A policy is called when more events arrive than there is room for.  It enqueues the
events that may wait and returns those that are lost.  Two attributes say whether the
producer first waits for room, and whether the producer gets the lost events back
(otherwise the queue's `on_drop` gets them).

A policy of your own::

    class KeepThePaying(Policy):
        name = "keep_the_paying"

        def overflow(self, waiting, arriving, room):
            paying = [event for event in arriving if event.pays]
            waiting.extend(paying[:room])
            return [e for e in arriving if not e.pays] + paying[room:]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

E = TypeVar("E")


class Waiting(Protocol[E]):
    """The events in a queue, in the order in which they will be taken."""

    def __len__(self) -> int: ...
    def extend(self, events: Iterable[E], /) -> None: ...
    def popleft(self) -> E: ...
    def clear(self) -> None: ...
    def __iter__(self) -> Any: ...


class FullQueue(Generic[E]):
    """The events in a full queue, as a policy sees them; counts those that it admits.

    Events may be equal or even the same object, so this cannot be determined afterwards.
    """

    def __init__(self, waiting: Waiting[E]) -> None:
        self._waiting = waiting
        self.admitted = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[E]:
        return iter(self._waiting)

    def extend(self, events: Iterable[E], /) -> None:
        events = list(events)
        self._waiting.extend(events)
        self.admitted += len(events)

    def popleft(self) -> E:
        return self._waiting.popleft()

    def clear(self) -> None:
        self._waiting.clear()

    def lose_newest(self, arriving: Sequence[E], room: int) -> Sequence[E]:
        """Lose the excess: the least important events, and of equally important ones the newest."""
        if isinstance(self._waiting, Priorities):
            return self._replace_least_important(self._waiting, arriving, room, oldest=False)
        self.extend(arriving[:room])
        return arriving[room:]

    def lose_oldest(self, arriving: Sequence[E], room: int) -> Sequence[E]:
        """The same, but of equally important ones the oldest."""
        if isinstance(self._waiting, Priorities):
            return self._replace_least_important(self._waiting, arriving, room, oldest=True)
        capacity = len(self) + room
        kept = arriving[-capacity:]
        lost = [self.popleft() for _ in range(min(len(self), len(kept) - room))]
        self.extend(kept)
        return [*lost, *arriving[: len(arriving) - len(kept)]]

    def _replace_least_important(
        self, waiting: Priorities[E], arriving: Sequence[E], room: int, oldest: bool
    ) -> Sequence[E]:
        lost, evicted = waiting.replace_least_important(arriving, room, oldest)
        self.admitted += len(arriving) - (len(lost) - evicted)
        return lost


class Policy(ABC):
    """What to do with events for which there is no room."""

    name: ClassVar[str]
    waits: ClassVar[bool] = False
    """The producer waits for room; `overflow` is called only if it cannot."""
    tells: ClassVar[bool] = False
    """Lost events are returned to the producer."""

    @abstractmethod
    def overflow(self, waiting: FullQueue[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        """Put into `waiting` the events that may wait; return those that are lost.

        `room` (0 or more) is less than the number of `arriving`; afterwards at most
        `room` more may wait than before.
        """


class Reject(Policy):
    """The producer gets the event back and can answer: section 3.1 of the paper, load shedding.

    With priorities it may get another producer's event, which was less important.
    """

    name = "reject"
    tells = True

    def overflow(self, waiting: FullQueue[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        return waiting.lose_newest(arriving, room)


class Block(Policy):
    """The producer waits: backpressure, back to the source of the events."""

    name = "block"
    waits = True
    tells = True

    def overflow(self, waiting: FullQueue[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        return waiting.lose_newest(arriving, room)


class DropNewest(Policy):
    """The arriving events are dropped, because the others have waited longer."""

    name = "drop_newest"

    def overflow(self, waiting: FullQueue[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        return waiting.lose_newest(arriving, room)


class DropOldest(Policy):
    """The events that have waited longest are dropped: their clients may have given up.

    With priorities: of the least important events.
    """

    name = "drop_oldest"

    def overflow(self, waiting: FullQueue[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        return waiting.lose_oldest(arriving, room)


POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (Block, Reject, DropOldest, DropNewest)
}
"""A policy of your own can be added here, or passed to the queue directly."""


class Priorities(Generic[E]):
    """Events in order of priority, first in first out within one; replaces a deque.

    `order(event)` is an integer; the lowest goes first.  Each level is a deque, so few levels
    are cheap.  The paper's section 2.1 has an example of two: a page-cache hit need not wait
    behind misses.
    """

    MAX_IDLE_LEVELS = 8
    """Beyond so many levels, empty ones are deleted, since `order` may return a deadline."""

    def __init__(self, order: Callable[[E], int]) -> None:
        self._order = order
        self._levels: dict[int, deque[E]] = {}
        self._sorted: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[E]:
        for number in self._sorted:
            yield from self._levels[number]

    def extend(self, events: Iterable[E], /) -> None:
        """All of them, or none if `order` raises."""
        events = list(events)
        self._place(events, list(map(self._order, events)))
        self._size += len(events)

    def _place(self, events: Sequence[E], numbers: Sequence[int]) -> None:
        levels = self._levels
        for number, event in zip(numbers, events, strict=True):
            try:
                levels[number].append(event)
            except KeyError:
                levels[number] = deque((event,))
                insort(self._sorted, number)

    def popleft(self) -> E:
        for number in self._sorted:
            if level := self._levels[number]:
                event = level.popleft()
                self._size -= 1
                self._forget(number)
                return event
        raise IndexError("no event waits")

    def clear(self) -> None:
        self._levels.clear()
        self._sorted.clear()
        self._size = 0

    def replace_least_important(
        self, arriving: Sequence[E], room: int, oldest: bool
    ) -> tuple[Sequence[E], int]:
        """Admit `arriving` and lose what exceeds `room`, the least important events.

        Of one level the oldest or the newest.  Returns the lost events, and how many of
        them had been waiting.
        """
        numbers = list(map(self._order, arriving))
        came = Counter(numbers)
        self._place(arriving, numbers)
        lost: list[E] = []
        evicted = 0
        excess = len(arriving) - room
        for number in reversed(self._sorted.copy()):
            level = self._levels[number]
            lose = min(excess - len(lost), len(level))
            waited, arrived = len(level) - came[number], came[number]
            evicted += min(lose, waited) if oldest else max(0, lose - arrived)
            lost += [level.popleft() if oldest else level.pop() for _ in range(lose)]
            self._forget(number)
        self._size += len(arriving) - len(lost)
        return lost, evicted

    def _forget(self, number: int) -> None:
        if not self._levels[number] and len(self._levels) > self.MAX_IDLE_LEVELS:
            del self._levels[number]
            self._sorted.remove(number)
