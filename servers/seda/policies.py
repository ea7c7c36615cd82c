"""What a full event queue does: policies, chosen by name, each a few lines.

A policy is asked when more events arrive than there is room for.  It puts to
wait what shall wait and returns what is lost.  Two facts about it are said
beside: whether the producer waits for room before it is asked at all, and
whether the producer is told what was lost (else the queue's `on_drop` is).

A policy of one's own::

    class KeepThePaying(Policy):
        name = "keep_the_paying"

        def overflow(self, waiting, arriving, room):
            paying = [event for event in arriving if event.pays]
            waiting.extend(paying[:room])
            return [e for e in arriving if not e.pays] + paying[room:]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

E = TypeVar("E")


class Waiting(Protocol[E]):
    """The events in a queue, in the order in which they will be taken."""

    def __len__(self) -> int: ...
    def extend(self, events: Iterable[E], /) -> None: ...
    def popleft(self) -> E: ...
    def clear(self) -> None: ...
    def __iter__(self) -> Any: ...


class Policy(ABC):
    """What is done with events for which there is no room."""

    name: ClassVar[str]
    waits: ClassVar[bool] = False
    """The producer waits for room; `overflow` is asked only if it cannot."""
    tells: ClassVar[bool] = False
    """What is lost is returned to the producer."""

    @abstractmethod
    def overflow(self, waiting: Waiting[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        """Put into `waiting` what shall wait; return what is lost.

        `room` (0 or more) is less than the number of `arriving`; as many as
        before plus `room` may wait afterwards.
        """


class Reject(Policy):
    """The producer is told, and can answer: the paper's section 3.1, "load shedding"."""

    name = "reject"
    tells = True

    def overflow(self, waiting: Waiting[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        waiting.extend(arriving[:room])
        return arriving[room:]


class Block(Policy):
    """The producer waits: backpressure, up to where the events come from."""

    name = "block"
    waits = True
    tells = True

    def overflow(self, waiting: Waiting[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        waiting.extend(arriving[:room])
        return arriving[room:]


class DropNewest(Policy):
    """What arrives is dropped: what waits has waited longest."""

    name = "drop_newest"

    def overflow(self, waiting: Waiting[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        waiting.extend(arriving[:room])
        return arriving[room:]


class DropOldest(Policy):
    """What has waited longest is dropped: its client is the likeliest to have given up."""

    name = "drop_oldest"

    def overflow(self, waiting: Waiting[E], arriving: Sequence[E], room: int) -> Sequence[E]:
        capacity = len(waiting) + room
        kept = arriving[-capacity:]
        lost = [waiting.popleft() for _ in range(min(len(waiting), len(kept) - room))]
        waiting.extend(kept)
        return [*lost, *arriving[: len(arriving) - len(kept)]]


POLICIES: dict[str, type[Policy]] = {
    policy.name: policy for policy in (Block, Reject, DropOldest, DropNewest)
}
"""A policy of one's own is entered here, or handed to the queue as it is."""


class Priorities(Generic[E]):
    """Events in order of priority, first in first out within one: in a deque's place.

    `order(event)` is a small whole number; 0 goes first.  The paper's section
    2.1 has the reason: a page-cache hit need not wait behind misses.
    """

    def __init__(self, order: Callable[[E], int], levels: int = 2) -> None:
        self._order = order
        self._levels: tuple[deque[E], ...] = tuple(deque() for _ in range(levels))

    def __len__(self) -> int:
        return sum(map(len, self._levels))

    def __iter__(self) -> Iterable[E]:
        for level in self._levels:
            yield from level

    def extend(self, events: Iterable[E], /) -> None:
        last = len(self._levels) - 1
        for event in events:
            self._levels[min(self._order(event), last)].append(event)

    def popleft(self) -> E:
        for level in self._levels:
            if level:
                return level.popleft()
        raise IndexError("no event waits")

    def clear(self) -> None:
        for level in self._levels:
            level.clear()
