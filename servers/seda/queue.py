"""The event queue: bounded; events enter and leave in batches.

A thread that hands over one event at a time pays for a lock and, worse, a wake-up
each time.  So `put` and `take` move lists, under one lock with two conditions:
a consumer is woken when there are events, a producer when there is room.

What happens when it is full is its policy (`servers.seda.policies`).  Lost events are
counted by reason.

Waiting times need no time stamp per event: the sum of the times at which all events
left, minus the sum of those at which they came, is the sum of their waits (Little's law
is the same sum divided by time).  So the clock is read once per batch.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from servers.options import UsageError
from servers.seda.policies import POLICIES, FullQueue, Policy, Priorities, Waiting

E = TypeVar("E")

now_ns = time.monotonic_ns


def find_policy(policy: Policy | str) -> Policy:
    """A policy by name; UsageError names those that exist."""
    if isinstance(policy, Policy):
        return policy
    if policy not in POLICIES:
        raise UsageError(f"there is no queue policy {policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[policy]()


class EventQueue(Generic[E]):
    """At most `capacity` events, first in first out, or by priority.

    `accepts`, if given, is called for every event; events that it refuses are lost as
    "filtered" and returned to the producer.  `order` returns the priority of an event,
    an integer, the lowest first.  `on_drop` gets the events that the policy dropped
    without returning them; it is called on the producer's thread, outside the lock.
    `at_least` and `within_s` make the consumer wait until so many events have gathered or
    the oldest has waited so long: a delayed stage (the paper's section 4, after Larus and
    Parkes, "Using Cohort Scheduling", USENIX 2002).

    The counters may be read at any time without the lock; they never decrease.
    """

    def __init__(
        self,
        capacity: int,
        policy: Policy | str = "block",
        *,
        accepts: Callable[[E], bool] | None = None,
        order: Callable[[E], int] | None = None,
        on_drop: Callable[[Sequence[E]], None] | None = None,
        at_least: int = 1,
        within_s: float = 0.0,
    ) -> None:
        if capacity < 1:
            raise UsageError(f"the capacity of a queue must be at least 1, not {capacity}")
        if not 1 <= at_least <= capacity:
            raise UsageError(
                f"a queue with a capacity of {capacity} cannot gather {at_least} events"
            )
        if at_least > 1 and not within_s > 0:
            raise UsageError(
                f"a queue that gathers {at_least} events needs within_s, "
                "how many seconds the first may wait for the others"
            )
        self.capacity: int | None = capacity
        self.policy = find_policy(policy)
        self.on_drop = on_drop
        self.events_in = 0
        self.losses: dict[str, int] = {self.policy.name: 0, "filtered": 0, "closed": 0, "left": 0}
        self.delayed = at_least > 1
        """A consumer waits for more than one event."""
        self.accepts = accepts
        self._room = capacity
        self._at_least = at_least
        self._within_s = within_s
        self._oldest_ns = 0  # when the queue was last empty, roughly: only for delayed queues
        self._events: Waiting[E] = Priorities(order) if order else deque()
        self._lock = threading.Lock()
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)
        self._consumers_waiting = 0  # threads that wait for something
        self._producers_waiting = 0  # threads that wait for room
        self._closed = False
        # Sum of the times at which events left less that at which they came, and how many
        # are inside.  One object, so that a reader without the lock sees a pair that agrees.
        self._crossed = (0, 0)
        self._max_waited_ns = 0  # as reported

    def __len__(self) -> int:
        return len(self._events)

    @property
    def dropped(self) -> int:
        return sum(self.losses.values())

    def waited_ns(self) -> int:
        """Total time that all events so far have spent in the queue; never decreases.

        A thread may be interrupted between reading the clock and recording the crossing; a
        value from that moment is too large, and is repeated until the sum has caught up.
        """
        while True:
            crossed = self._crossed
            now = now_ns()
            if crossed is self._crossed:  # otherwise `now` may be too late
                balance_ns, inside = crossed
                self._max_waited_ns = max(self._max_waited_ns, balance_ns + inside * now)
                return self._max_waited_ns

    def _note_crossing(self, came: int, left: int) -> None:
        """So many events come, and so many leave, now.  The caller has the lock."""
        balance_ns, inside = self._crossed
        self._crossed = (balance_ns + (left - came) * now_ns(), inside + came - left)

    def put(self, events: Sequence[E], wait: bool = True) -> Sequence[E]:
        """Enqueue `events`; return the lost ones that the producer has to answer for.

        Waits for room if the policy does and `wait` allows it.
        """
        lost: Sequence[E] = ()
        if self.accepts is not None:
            events, lost = self.filter_events(events)
        lock = self._lock
        lock.acquire()  # slightly cheaper than `with`, and on the path of every batch
        try:
            if not self._closed and self._room - len(self._events) >= len(events):
                self._enqueue(events, len(events))
                return lost
            unplaced = self._overflow(events, wait)
        finally:
            lock.release()
        if not unplaced:
            return lost
        if self.policy.tells or self._closed:
            return [*lost, *unplaced]
        if self.on_drop is not None:
            self.on_drop(unplaced)
        return lost

    def filter_events(self, events: Sequence[E]) -> tuple[Sequence[E], Sequence[E]]:
        """The events that `accepts` admits, and the others, which are counted as lost."""
        accepts = self.accepts
        if accepts is None:
            return events, ()
        welcome: list[E] = []
        refused: list[E] = []
        for event in events:
            (welcome if accepts(event) else refused).append(event)
        if refused:
            with self._lock:
                self.losses["filtered"] += len(refused)
        return welcome, refused

    def offer(self, events: Sequence[E]) -> Sequence[E]:
        """Enqueue as many as there is room for now; return the others, which are not lost yet.

        Does not call `accepts`.
        """
        with self._lock:
            room = 0 if self._closed else self._room - len(self._events)
            if room >= len(events):
                self._enqueue(events, len(events))
                return ()
            if room > 0:
                self._enqueue(events[:room], room)
                return events[room:]
        return events

    def _enqueue(self, events: Sequence[E], count: int) -> None:
        if not count:
            return
        if self.delayed and not self._events:
            self._oldest_ns = now_ns()
        self._events.extend(events)
        self.events_in += count
        self._note_crossing(came=count, left=0)
        if self._consumers_waiting:
            self._not_empty.notify()

    def _overflow(self, events: Sequence[E], wait: bool) -> Sequence[E]:
        """There is no room for all of them; return the lost ones.  The caller has the lock."""
        while not self._closed:
            room = self._room - len(self._events)
            if room >= len(events):
                self._enqueue(events, len(events))
                return ()
            if not (self.policy.waits and wait):
                break
            if room > 0:
                self._enqueue(events[:room], room)
                events = events[room:]
            self._producers_waiting += 1
            self._not_full.wait()
            self._producers_waiting -= 1
        if self._closed:
            self.losses["closed"] += len(events)
            return events
        if not isinstance(events, list | tuple):
            events = list(events)  # a range creates its numbers anew each time
        queue = FullQueue(self._events)
        before = len(queue)
        lost = self.policy.overflow(queue, events, self._room - before)
        came = queue.admitted
        self.events_in += came
        self._note_crossing(came, before + came - len(queue))
        self.losses[self.policy.name] += len(lost)
        if came and self._consumers_waiting:
            self._not_empty.notify()
        return lost

    def take(self, max_events: int, timeout_s: float | None = None) -> list[E] | None:
        """The next events, at most `max_events`; waits until there is one.

        None when the queue is closed and empty; an empty list when `timeout_s`
        (0: do not wait) has passed and nothing is there, or not enough yet.
        """
        lock = self._lock
        lock.acquire()
        try:
            events = self._events
            while not events or (self.delayed and self._delay_s() > 0):
                if self._closed:
                    if not events:
                        return None
                    break
                if timeout_s == 0:
                    return []
                self._consumers_waiting += 1
                delay_s = timeout_s
                if events:  # not enough yet
                    delay_s = self._delay_s()
                    if timeout_s is not None:
                        delay_s = min(delay_s, timeout_s)
                woken = self._not_empty.wait(delay_s)
                self._consumers_waiting -= 1
                if not woken and delay_s == timeout_s and not self.ready:
                    return []
            count = len(events)
            if count <= max_events:
                batch = list(events)
                events.clear()
            else:
                count = max_events
                popleft = events.popleft
                batch = [popleft() for _ in range(max_events)]
                if self._consumers_waiting:  # others can go on with the rest
                    self._not_empty.notify()
            self._note_crossing(came=0, left=count)
            if self._producers_waiting:
                self._not_full.notify_all()
            return batch
        finally:
            lock.release()

    def _delay_s(self) -> float:
        """How much longer the consumer of a delayed queue waits for more; 0 or less: no longer."""
        if len(self._events) >= self._at_least:
            return 0.0
        return self._within_s - (now_ns() - self._oldest_ns) / 1e9

    @property
    def ready(self) -> bool:
        """Would `take` return events without waiting?  A guess, made without the lock."""
        return bool(self._events) and (not self.delayed or self._closed or self._delay_s() <= 0)

    def abandon(self) -> int:
        """Close, and lose the events inside as "left"; return how many there were."""
        with self._lock:
            left = len(self._events)
            self._events.clear()
            self.losses["left"] += left
            self._note_crossing(came=0, left=left)
        self.close()
        return left

    def close(self) -> None:
        """Accept no more events; those inside can still be taken."""
        with self._lock:
            self._closed = True
            self._not_empty.notify_all()
            self._not_full.notify_all()
