"""Who runs the stages: a pool a stage, a few shared threads, or direct calls.

The application is the same under all three; only here is it decided which
thread calls a handler, and when.

- `PoolPerStage`: every stage has threads of its own, which wait at its queue.
  The operating system chooses between stages.  The paper's section 3.1.
- `SharedThreads`: a few threads serve all stages; a scheduling policy chooses
  the next one.  A queue that is full has the producer lend a hand: it runs
  the stage downstream instead of waiting for somebody who might be itself.
- `DirectCalls`: dispatch is a call.  Nothing queues, and one thread does all,
  the way of Click and Scout that the paper's section 5 describes.

The last two wait at the stages whose events come from the kernel; such a
stage's source has a `fileno` that tells when it has something.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from servers.options import UsageError
from servers.seda.queue import EventQueue
from servers.seda.stage import Stage, Tally

AnyStage = Stage[Any]

POLL_BATCH = 16
"""Sources looked at in one system call."""

FOLLOW_S = 0.05
"""A follower looks by itself whether there is still a leader; pulled out of the air."""


class Runner(ABC):
    """Runs the stages of one application, given in the order in which events meet them."""

    name: ClassVar[str]

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        self.stages = list(stages)
        self.by_name: Mapping[str, AnyStage] = {stage.name: stage for stage in stages}
        for stage in stages:
            stage.dispatch = self.dispatch

    @abstractmethod
    def dispatch(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        """Send events to a stage; returns those that were lost."""

    @abstractmethod
    def start(self) -> None:
        """Raises RuntimeError if the system gives no thread."""

    @abstractmethod
    def drain(self, deadline_s: float) -> bool:
        """Close and finish the stages, in order; False if `time.monotonic` passed the deadline."""

    def join(self, stage: str, deadline_s: float) -> bool:
        """Wait until threads that serve this stage alone have ended; False if too late."""
        return True

    @abstractmethod
    def threads(self, stage: AnyStage) -> int:
        """Threads that serve this stage, alone or among others."""


class ThreadPool:
    """The threads of one stage: at least `least`; those beyond end when idle for `keep_s`."""

    def __init__(self, stage: AnyStage, least: int) -> None:
        self.stage = stage
        self.least = least
        self.keep_s: float | None = None
        self.on_leave: Callable[[int], None] | None = None
        """Told how many are left when an idle one has ended."""
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._made = 0
        self.started = False

    def __len__(self) -> int:
        return len(self._threads)

    def add(self) -> None:
        """One thread more.  Raises RuntimeError or MemoryError if the system gives none."""
        with self._lock:
            self._made += 1
            thread = threading.Thread(
                target=self._work, name=f"{self.stage.name}-{self._made}", daemon=True
            )
            self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            with self._lock:
                self._threads.discard(thread)
            raise

    def start(self) -> None:
        self.started = True
        for _ in range(self.least):
            self.add()

    def join(self, deadline_s: float) -> bool:
        for thread in list(self._threads):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._threads

    def _work(self) -> None:
        """What a thread of the pool does all its life."""
        stage = self.stage
        tally = stage.tally()
        turn = stage.turn
        while (handled := turn(tally, self.keep_s)) is not None:
            if not handled and self._leave():
                break
        stage.give_back(tally)
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _leave(self) -> bool:
        """An idle thread asks whether it may go."""
        with self._lock:
            if len(self._threads) <= self.least:
                return False
            self._threads.discard(threading.current_thread())
            left = len(self._threads)
        if self.on_leave is not None:
            self.on_leave(left)
        return True


class PoolPerStage(Runner):
    """A thread pool a stage."""

    name = "pools"

    def __init__(self, stages: Sequence[AnyStage], threads: Mapping[str, int]) -> None:
        super().__init__(stages)
        self.pools = {s.name: ThreadPool(s, threads.get(s.name, 1)) for s in stages}
        self._put = {s.name: s.source.put for s in stages if isinstance(s.source, EventQueue)}

    def dispatch(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        return self._put[stage](events)

    def start(self) -> None:
        for stage in reversed(self.stages):  # consumers first
            self.pools[stage.name].start()

    def join(self, stage: str, deadline_s: float) -> bool:
        return self.pools[stage].join(deadline_s)

    def drain(self, deadline_s: float) -> bool:
        done = True
        for stage in self.stages:
            stage.source.close()
            done = self.join(stage.name, deadline_s) and done
        return done

    def threads(self, stage: AnyStage) -> int:
        pool = self.pools[stage.name]
        return len(pool) if pool.started else pool.least


class DirectCalls(Runner):
    """One thread; to dispatch is to call.

    What is put in from outside is handled on the thread that puts it.  Calls
    nest: a path of some hundreds of stages, or a stage that sends to itself as
    often, ends in a RecursionError, which is a fault of that batch.
    """

    name = "direct"

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        super().__init__(stages)
        self._waiter = _Waiter(stages)
        self._tallies = {stage.name: stage.tally() for stage in stages}
        self._sift = {
            stage.name: stage.source.sift
            for stage in stages
            if isinstance(stage.source, EventQueue) and stage.source.accepts
        }
        self._queues = {
            stage.name: stage.source for stage in stages if isinstance(stage.source, EventQueue)
        }
        for stage in stages:
            stage.queued = False
        self._below_ns = 0
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="direct", daemon=True)

    def dispatch(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        """Call the stage's handler at once.  A stage's time is without that of those it calls."""
        lost: Sequence[Any] = ()
        if self._ended:
            return self._queues[stage].put(events, False)
        if self._sift and stage in self._sift:
            events, lost = self._sift[stage](events)
            if not events:
                return lost
        target = self.by_name[stage]
        tally = self._tallies[stage]
        above_ns, self._below_ns = self._below_ns, 0
        before_ns = tally.busy_ns
        target.handle(events, tally)
        spent_ns = tally.busy_ns - before_ns
        tally.busy_ns -= self._below_ns
        self._below_ns = above_ns + spent_ns
        return lost

    def start(self) -> None:
        self._thread.start()

    def _loop(self) -> None:
        while True:
            for stage in self._waiter.wait(None):
                events = stage.source.take(stage.batch, 0)
                if events:
                    self.dispatch(stage.name, events)
            if self._waiter.ended:
                return

    def drain(self, deadline_s: float) -> bool:
        for stage in self.stages:
            stage.source.close()
        self._waiter.end()
        if self._thread.ident is not None:  # it was started
            self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._thread.is_alive():
            return False
        self._ended = True
        self._waiter.close()
        return True

    def threads(self, stage: AnyStage) -> int:
        return 1


class _Waiter:
    """Waits at all sources that have a descriptor, with one epoll over them."""

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        self.ended = False
        self._epoll = select.epoll()
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._end, select.EPOLLIN)
        self._stages: dict[int, AnyStage] = {}
        self._tell = [stage.source for stage in stages if hasattr(stage.source, "rested_ns")]
        for stage in stages:
            fileno = getattr(stage.source, "fileno", None)
            if fileno is not None:
                self._stages[fileno()] = stage
                self._epoll.register(fileno(), select.EPOLLIN)

    def wait(self, timeout_s: float | None) -> list[AnyStage]:
        """The stages that have something."""
        before_ns = time.monotonic_ns()
        found = self._epoll.poll(timeout_s, POLL_BATCH)
        rested_ns = time.monotonic_ns() - before_ns
        for source in self._tell:
            source.rested_ns += rested_ns
        stages = self._stages
        if len(found) == 1 and found[0][0] in stages:
            return [stages[found[0][0]]]
        ready = []
        for descriptor, _ in found:
            if descriptor == self._end:
                os.eventfd_read(self._end)
            elif descriptor in stages:
                ready.append(stages[descriptor])
        return ready

    def nudge(self) -> None:
        """Make whoever waits look around."""
        if self._end >= 0:
            os.eventfd_write(self._end, 1)

    def end(self) -> None:
        self.ended = True
        self.nudge()

    def close(self) -> None:
        """When nobody waits any more.  May be called twice."""
        self._epoll.close()
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)


Choose = Callable[[Sequence[AnyStage], int], int]
"""`choose(stages, last)`: the index of the stage that runs next, or -1 when none is ready.

`stages` are in the order in which events meet them; `last` is what ran before.
A stage whose events still gather (`at_least`) has some and is not ready.
"""


def round_robin(stages: Sequence[AnyStage], last: int) -> int:
    """Each in turn."""
    count = len(stages)
    for step in range(1, count + 1):
        if stages[(last + step) % count].source.ready:
            return (last + step) % count
    return -1


def longest_queue(stages: Sequence[AnyStage], last: int) -> int:
    """The one with the most to do."""
    lengths = [len(stage.source) if stage.source.ready else 0 for stage in stages]
    most = max(lengths)
    return lengths.index(most) if most else -1


def downstream_first(stages: Sequence[AnyStage], last: int) -> int:
    """The one nearest to the reply: what is begun is finished before more is begun."""
    for index in range(len(stages) - 1, -1, -1):
        if stages[index].source.ready:
            return index
    return -1


def cheapest_first(stages: Sequence[AnyStage], last: int) -> int:
    """The one whose events have cost the least so far (shortest job first)."""
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
    """`threads` threads for all stages; `schedule` chooses which runs next.

    A thread runs stages as long as any is ready.  Then one thread at a time
    waits at the kernel for more, the others wait for what it finds (leader and
    followers: Schmidt et al., PLoP 2000).  Whoever puts events in, from inside
    or outside, wakes one of those that wait.
    """

    name = "shared"

    def __init__(self, stages: Sequence[AnyStage], threads: int = 1, schedule: str = "downstream"):
        super().__init__(stages)
        if schedule not in SCHEDULES:
            raise UsageError(f"there is no schedule {schedule!r}; there are {', '.join(SCHEDULES)}")
        self._choose = SCHEDULES[schedule]
        self._queued = [stage for stage in stages if isinstance(stage.source, EventQueue)]
        self._waiter = _Waiter(stages)
        self._leader = threading.Lock()
        self._leading = False  # somebody waits at the kernel, or is about to look once more
        self._followers: deque[threading.Lock] = deque()  # each waits for its own
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
            events, lost = queue.sift(events) if queue.accepts else (events, ())
            while events := queue.offer(events):
                if target.turn(self._tally(target)) is None:  # it is closed
                    return [*lost, *queue.put(events, False)]
        else:
            lost = queue.put(events, False)
        if self._followers or self._leading:
            self._wake()
        return lost

    def _wake(self) -> None:
        """Have one that waits look at the queues: a follower, or else the leader."""
        try:
            self._followers.pop().release()
        except IndexError:
            if self._leading:
                self._waiter.nudge()

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
                    break  # somebody else was quicker
            if self._ending and not any(stage.source.ready for stage in stages):
                return
            if not self._leader.acquire(blocking=False):
                self._follow()
                continue
            try:
                self._leading = True  # before the last look at the queues
                ready = self._waiter.wait(self._patience_s())
            finally:
                self._leading = False
                self._leader.release()
            for stage in ready:
                stage.turn(self._tally(stage))

    def _patience_s(self) -> float | None:
        """How long the leader may wait: shorter while a delayed stage gathers."""
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
            waiting.acquire(timeout=FOLLOW_S)
        with contextlib.suppress(ValueError):  # who woke it has taken it out
            self._followers.remove(waiting)

    def drain(self, deadline_s: float) -> bool:
        """The threads end when they find nothing more to do; then the caller closes in order.

        What is left then are events that gathered; they pass through stages
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


RUNNERS = ("pools", "shared", "direct")
