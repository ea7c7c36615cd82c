"""The runner `shared`: a few threads for all stages, and the schedules that choose the next one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from servers.options import UsageError
from servers.seda.queue import EventQueue
from servers.seda.runner import AnyStage, Runner
from servers.seda.stage import Tally
from servers.seda.waiter import Waiter

FOLLOWER_WAKE_S = 0.05
"""A follower checks so often whether there is still a leader; a guess."""

Choose = Callable[[Sequence[AnyStage], int], int]
"""`choose(stages, last)`: the index of the stage that runs next, or -1 when none is ready.

`stages` are in the order in which events pass them; `last` is the one that ran before.
A stage whose events are still gathering (`at_least`) has events but is not ready.
"""


def round_robin(stages: Sequence[AnyStage], last: int) -> int:
    """Each in turn."""
    count = len(stages)
    for step in range(1, count + 1):
        if stages[(last + step) % count].source.ready:
            return (last + step) % count
    return -1


def longest_queue(stages: Sequence[AnyStage], last: int) -> int:
    """The one with the longest queue."""
    lengths = [len(stage.source) if stage.source.ready else 0 for stage in stages]
    longest = max(lengths)
    return lengths.index(longest) if longest else -1


def downstream_first(stages: Sequence[AnyStage], last: int) -> int:
    """The one nearest to the reply: finish what has begun before beginning more."""
    for index in range(len(stages) - 1, -1, -1):
        if stages[index].source.ready:
            return index
    return -1


def cheapest_first(stages: Sequence[AnyStage], last: int) -> int:
    """The one with the lowest average cost per event so far (shortest job first)."""
    best, best_cost = -1, float("inf")
    for index, stage in enumerate(stages):
        if stage.source.ready and (cost := stage.cost_ns) < best_cost:
            best, best_cost = index, cost
    return best


SCHEDULES: dict[str, Choose] = {
    "downstream": downstream_first,
    "round_robin": round_robin,
    "longest": longest_queue,
    "cheapest": cheapest_first,
}


class SharedThreads(Runner):
    """`threads` threads for all stages; `schedule` chooses which stage runs next.

    A thread runs stages as long as any is ready.  Then one thread at a time, the leader,
    waits for the kernel; the others, its followers, wait to be woken (Leader/Followers:
    Schmidt et al., PLoP 2000).  Whoever puts events in, from inside or outside, wakes one
    of the waiting threads.
    """

    name = "shared"

    def __init__(self, stages: Sequence[AnyStage], threads: int = 1, schedule: str = "downstream"):
        super().__init__(stages)
        if schedule not in SCHEDULES:
            raise UsageError(f"there is no schedule {schedule!r}; there are {', '.join(SCHEDULES)}")
        self._choose = SCHEDULES[schedule]
        self._queued = [stage for stage in stages if isinstance(stage.source, EventQueue)]
        self._waiter = Waiter(stages)
        self._leader = threading.Lock()
        self._leading = (
            False  # a thread waits for the kernel, or is about to check the queues again
        )
        self._followers: deque[threading.Lock] = deque()  # each waits for its own lock
        self._ending = False
        self._local = threading.local()
        self._threads = [
            threading.Thread(target=self._loop, name=f"shared-{n}", daemon=True)
            for n in range(threads)
        ]

    def dispatch(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        target = self.by_name[stage]
        queue: EventQueue[Any] = target.source  # type: ignore[assignment]
        lost: Sequence[Any]
        if queue.policy.waits:
            events, lost = queue.filter_events(events) if queue.accepts else (events, ())
            while events := queue.offer(events):
                if target.turn(self._tally(target)) is None:  # it is closed
                    return [*lost, *queue.put(events, False)]
        else:
            lost = queue.put(events, False)
        if self._followers or self._leading:
            self._wake()
        return lost

    def _wake(self) -> None:
        """Wake one waiting thread to check the queues: a follower, or else the leader."""
        try:
            self._followers.pop().release()
        except IndexError:
            if self._leading:
                self._waiter.wake()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _tally(self, stage: AnyStage) -> Tally:
        """The calling thread's own, for this stage."""
        try:
            tallies: dict[str, Tally] = self._local.tallies
        except AttributeError:
            tallies = self._local.tallies = {s.name: s.tally() for s in self.stages}
        return tallies[stage.name]

    def _loop(self) -> None:
        stages, choose = self._queued, self._choose
        last = 0
        while True:
            while (chosen := choose(stages, last)) >= 0:
                last = chosen
                stage = stages[chosen]
                if not stage.turn(self._tally(stage)):
                    break  # another thread was faster
            if self._ending and not any(stage.source.ready for stage in stages):
                return
            if not self._leader.acquire(blocking=False):
                self._follow()
                continue
            try:
                self._leading = True  # before the last check of the queues
                ready = self._waiter.wait(self._patience_s())
            finally:
                self._leading = False
                self._leader.release()
            for stage in ready:
                stage.turn(self._tally(stage))

    def _patience_s(self) -> float | None:
        """How long the leader may wait: briefly while a delayed stage gathers events."""
        if self._ending:
            return 0.001
        if any(len(stage.source) for stage in self._queued):
            return 0.001
        return None

    def _follow(self) -> None:
        waiting = threading.Lock()
        waiting.acquire()
        self._followers.append(waiting)
        if not self._ending and not any(stage.source.ready for stage in self._queued):
            waiting.acquire(timeout=FOLLOWER_WAKE_S)
        with contextlib.suppress(ValueError):  # whoever woke it has removed it
            self._followers.remove(waiting)

    def drain(self, deadline_s: float) -> bool:
        """The threads end when they find nothing to do; then the caller closes in order.

        Events that were still gathering remain; the caller takes them through the stages
        that are still open.
        """
        self._ending = True
        self._waiter.end()
        while self._followers:
            self._wake()
        for thread in self._threads:
            if thread.ident is not None:  # it was started
                thread.join(max(0.0, deadline_s - time.monotonic()))
        ended = not any(thread.is_alive() for thread in self._threads)
        for stage in self.stages:
            stage.source.close()
            while ended and time.monotonic() < deadline_s:
                chosen = downstream_first(self._queued, 0)
                if chosen < 0:
                    break
                self._queued[chosen].turn(self._tally(self._queued[chosen]))
        if ended:
            self._waiter.close()
        return ended and not any(len(stage.source) for stage in self._queued)

    def threads(self, stage: AnyStage) -> int:
        return len(self._threads)
