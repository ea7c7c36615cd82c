"""Controllers: they observe stages and adjust them, off the hot path.

The code of a stage is the same with and without them.  One thread runs all
controllers of an application, a few times per second; they read counters that
are kept in any case, and change a number that the next batch will use.  Every
decision is recorded, with its time and its reason.

A controller of your own is a class with `observe`, which is called every `period_s`;
it calls `record` when it has changed something.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from servers.seda.runner import AnyStage
from servers.seda.thread_pool import ThreadPool

MAX_DECISIONS_KEPT = 1000

NEVER_NS = 1 << 62


@dataclass(frozen=True)
class Decision:
    """What a controller did, when and why."""

    time_ns: int
    """On `time.monotonic_ns`."""
    controller: str
    stage: str
    quantity: str
    before: float
    after: float
    reason: str


class Controller(ABC):
    """Adjusts one quantity of one stage."""

    name: ClassVar[str]
    quantity: ClassVar[str]
    period_s: float = 0.1

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS_KEPT)

    @abstractmethod
    def observe(self, now_ns: int) -> None:
        """Observe the stage; adjust it if necessary, and `record` that."""

    def record(self, before: float, after: float, reason: str) -> None:
        self.decisions.append(
            Decision(
                time.monotonic_ns(), self.name, self.stage, self.quantity, before, after, reason
            )
        )


class PoolSize(Controller):
    """Thread pool controller (Welsh, Culler and Brewer, SOSP 2001, section 4.2).

    Samples the queue; when it is longer than `threshold`, adds a thread, up to
    `max_threads`.  A thread that has been idle for `keep_idle_s` ends, down to the initial
    number.  The paper samples every second, with a threshold of 1000, 20 threads and
    5 s; here it is ten times per second, since requests are shorter, and the threshold
    depends on the stage.
    """

    name = "pool size"
    quantity = "threads"

    def __init__(
        self, stage: AnyStage, pool: ThreadPool, *, threshold: int, max_threads: int = 20,
        keep_idle_s: float = 5.0,
    ) -> None:  # fmt: skip
        super().__init__(stage.name)
        self._stage = stage
        self._pool = pool
        self._threshold = threshold
        self._max_threads = max(max_threads, pool.min_threads)
        pool.keep_idle_s = keep_idle_s
        pool.on_thread_exit = self._left

    def observe(self, now_ns: int) -> None:
        waiting, threads = len(self._stage.source), len(self._pool)
        if waiting > self._threshold and threads < self._max_threads:
            try:
                self._pool.add()
            except (RuntimeError, MemoryError):
                self.record(threads, threads, "the system cannot start a thread")
                return
            self.record(
                threads, threads + 1, f"{waiting} events are waiting, over {self._threshold}"
            )

    def _left(self, left: int) -> None:
        self.record(left + 1, left, f"a thread was idle for {self._pool.keep_idle_s:g} s")


class Batching(Controller):
    """Batching controller (Welsh, Culler and Brewer, SOSP 2001, section 4.2).

    A large batch amortises the cost of a turn, a small one is handled sooner.
    So it "decreases the batching factor until throughput begins to degrade", then
    increases it a little; when the load drops suddenly, it returns to the maximum.  The
    rate is a moving average of the events that leave.  The limit only matters for a
    stage whose batches are full.
    """

    name = "batching"
    quantity = "batch"
    period_s = 0.25

    SMOOTHING = 0.6  # weight of the past in the moving average of the rate
    SLIGHTLY, SUDDENLY = 0.95, 0.5  # of the rate seen at the last batch size
    FORGETTING = 0.99  # of the best rate, at every observation
    SMALLER, LARGER = 0.8, 1.25

    def __init__(
        self, stage: AnyStage, *, min_batch: int = 8, max_batch: int | None = None
    ) -> None:
        super().__init__(stage.name)
        self._stage = stage
        self._max_batch = max_batch or stage.batch
        self._min_batch = min(min_batch, self._max_batch)
        self._last: tuple[int, int, int] | None = None
        self._rate = 0.0
        self._reference = 0.0

    def observe(self, now_ns: int) -> None:
        described = self._stage.describe()
        events, batches = described["events_out"], described["batches"]
        last, self._last = self._last, (now_ns, events, batches)
        if last is None or now_ns <= last[0]:
            return
        handled, turns = events - last[1], batches - last[2]
        rate = handled * 1e9 / (now_ns - last[0])
        past = self.SMOOTHING if self._rate else 0.0
        self._rate = past * self._rate + (1 - past) * rate
        size = self._stage.batch
        if self._reference and rate < self.SUDDENLY * self._reference:
            if size < self._max_batch:
                self._set(self._max_batch, f"the rate fell suddenly, to {rate:.0f}/s")
            self._rate = self._reference = rate
            return
        full = turns > 0 and handled / turns >= 0.9 * size
        if not full:
            self._reference = self._rate
            return
        if self._rate < self.SLIGHTLY * self._reference:
            larger = min(self._max_batch, max(size + 1, int(size * self.LARGER)))
            if larger > size:
                self._set(larger, f"the rate fell to {self._rate:.0f}/s")
        else:
            smaller = max(self._min_batch, int(size * self.SMALLER))
            if smaller < size:
                self._set(smaller, f"batches are full at {self._rate:.0f}/s")
        # The best recent rate, not the last: many small losses would add up unnoticed.
        self._reference = max(self._rate, self.FORGETTING * self._reference)

    def _set(self, size: int, reason: str) -> None:
        self.record(self._stage.batch, size, reason)
        self._stage.batch = size


class ControlThread:
    """Runs each controller at its period, until `stop`."""

    def __init__(self, controllers: Sequence[Controller]) -> None:
        self.controllers = list(controllers)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="controllers", daemon=True)

    def start(self) -> None:
        if self.controllers:
            self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        tick_s = min(controller.period_s for controller in self.controllers)
        due: dict[Controller, int] = dict.fromkeys(self.controllers, 0)
        while not self._end.wait(tick_s):
            now_ns = time.monotonic_ns()
            for controller in self.controllers:
                if now_ns >= due[controller]:
                    due[controller] = now_ns + int(controller.period_s * 0.9e9)
                    try:
                        controller.observe(now_ns)
                    except Exception as error:  # disable it; the others go on
                        due[controller] = NEVER_NS
                        controller.record(0, 0, f"switched off: {type(error).__name__}: {error}")

    def decisions(self, max_count: int) -> list[dict[str, Any]]:
        """The last decisions of all controllers, oldest first."""
        found = [
            d for controller in self.controllers for d in list(controller.decisions)[-max_count:]
        ]
        found.sort(key=lambda decision: decision.time_ns)
        return [asdict(decision) for decision in found[-max_count:]]
