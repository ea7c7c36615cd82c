"""The event queue: bounded, and crossed by events in batches.

A thread that hands over one event at a time pays a lock and, worse, a wake-up
for each.  So `put` and `take` move lists, under one lock with two conditions:
a consumer is woken when there is something, a producer when there is room.
The queue is never longer than its capacity; a producer that finds it full
waits, and so the pressure goes back to where the events come from.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

E = TypeVar("E")


class EventQueue(Generic[E]):
    """At most `capacity` events, first in first out.

    The counts may be read at any time without the lock; each only ever grows.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue needs room for an event, not for {capacity}")
        self.capacity: int | None = capacity
        self.events_in = 0
        self.dropped = 0
        self._room = capacity
        self._events: deque[E] = deque()
        self._lock = threading.Lock()
        self._something = threading.Condition(self._lock)
        self._some_room = threading.Condition(self._lock)
        self._takers = 0  # threads that wait for something
        self._putters = 0  # threads that wait for room
        self._closed = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, events: Sequence[E]) -> Sequence[E]:
        """Append all of `events`, waiting for room.

        Returns those that were dropped: none, unless the queue is closed.
        """
        with self._lock:
            while not self._closed:
                room = self._room - len(self._events)
                if room >= len(events):
                    self._append(events)
                    return ()
                if room > 0:
                    self._append(events[:room])
                    events = events[room:]
                self._putters += 1
                self._some_room.wait()
                self._putters -= 1
            self.dropped += len(events)
            return events

    def _append(self, events: Sequence[E]) -> None:
        self._events.extend(events)
        self.events_in += len(events)
        if self._takers:
            self._something.notify()

    def take(self, most: int) -> list[E] | None:
        """The oldest events, at most `most` and at least one, waiting for them.

        None when the queue is closed and empty.
        """
        with self._lock:
            events = self._events
            while not events:
                if self._closed:
                    return None
                self._takers += 1
                self._something.wait()
                self._takers -= 1
            if len(events) <= most:
                batch = list(events)
                events.clear()
            else:
                popleft = events.popleft
                batch = [popleft() for _ in range(most)]
                if self._takers:  # enough is left for somebody else
                    self._something.notify()
            if self._putters:
                self._some_room.notify_all()
            return batch

    def close(self) -> None:
        """Take nothing more in; what is inside can still be taken out."""
        with self._lock:
            self._closed = True
            self._something.notify_all()
            self._some_room.notify_all()
