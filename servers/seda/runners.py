"""Who runs the stages: one pool per stage, a few shared threads, or direct calls.

The application is the same under all three; only the runner decides which thread calls
a handler, and when.

- `PoolPerStage`: every stage has threads of its own, which wait at its queue.  The
  operating system chooses between stages.  The paper's section 3.1.
- `SharedThreads` (`servers.seda.shared_threads`): a few threads serve all stages; a
  schedule chooses the next stage.  A producer that finds a queue full runs the stage
  downstream instead of waiting for another thread, which might be itself.
- `DirectCalls`: dispatch is a call.  Nothing queues, and one thread does all the work, as
  in Click and Scout, which the paper's section 5 describes.

The last two wait for all stages whose events come from the kernel at once; the source of
such a stage has a `fileno` that is readable when there are events.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from servers.seda.queue import EventQueue
from servers.seda.runner import AnyStage, Runner
from servers.seda.thread_pool import ThreadPool
from servers.seda.waiter import Waiter


class PoolPerStage(Runner):
    """One thread pool per stage."""

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
        return len(pool) if pool.started else pool.min_threads


class DirectCalls(Runner):
    """One thread; dispatch is a call.

    Events put in from outside are handled on the thread that puts them.  Calls
    nest: a path of some hundreds of stages, or a stage that sends to itself as
    often, ends in a RecursionError, which is a fault of that batch.
    """

    name = "direct"

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        super().__init__(stages)
        self._waiter = Waiter(stages)
        self._tallies = {stage.name: stage.tally() for stage in stages}
        self._filters = {
            stage.name: stage.source.filter_events
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
        """Call the stage's handler at once.  Its busy time excludes that of the stages it calls."""
        lost: Sequence[Any] = ()
        if self._ended:
            return self._queues[stage].put(events, False)
        if self._filters and stage in self._filters:
            events, lost = self._filters[stage](events)
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


RUNNERS = ("pools", "shared", "direct")
