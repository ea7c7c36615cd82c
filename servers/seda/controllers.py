"""Controllers: they watch stages and adjust them, off the hot path.

A stage's own code is the same with and without them.  One thread runs all
controllers of an application, a few times a second; they read counters that
are kept anyhow, and change a number that the next batch will see.  Every
decision is recorded, with its time and its reason.

A controller of one's own is a class with `observe`, which is called every
`period_s` and returns what it did, if anything, in words.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from servers.seda.runners import AnyStage, ThreadPool

KEPT_DECISIONS = 1000


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
        self.decisions: deque[Decision] = deque(maxlen=KEPT_DECISIONS)

    @abstractmethod
    def observe(self, now_ns: int) -> None:
        """Look, and perhaps adjust something and `record` it."""

    def record(self, before: float, after: float, reason: str) -> None:
        self.decisions.append(
            Decision(
                time.monotonic_ns(), self.name, self.stage, self.quantity, before, after, reason
            )
        )


class PoolSize(Controller):
    """Thread pool controller (Welsh, Culler and Brewer, SOSP 2001, section 4.2).

    Samples the queue; when it is longer than `threshold`, adds a thread, up to
    `most`.  A thread that was idle for `keep_s` ends by itself, down to what
    the stage had at first.  The paper's figures are a sample each second, a
    threshold of 1000, 20 threads and 5 s; here a sample comes ten times a
    second, since requests are shorter, and the threshold belongs to the stage.
    """

    name = "pool size"
    quantity = "threads"

    def __init__(
        self, stage: AnyStage, pool: ThreadPool, *, threshold: int, most: int = 20,
        keep_s: float = 5.0,
    ) -> None:  # fmt: skip
        super().__init__(stage.name)
        self._stage = stage
        self._pool = pool
        self._threshold = threshold
        self._most = max(most, pool.least)
        pool.keep_s = keep_s
        pool.on_leave = self._left

    def observe(self, now_ns: int) -> None:
        waiting, threads = len(self._stage.source), len(self._pool)
        if waiting > self._threshold and threads < self._most:
            try:
                self._pool.add()
            except RuntimeError:
                self.record(threads, threads, "the system gives no thread")
                return
            self.record(threads, threads + 1, f"{waiting} events wait, over {self._threshold}")

    def _left(self, left: int) -> None:
        self.record(left + 1, left, f"a thread was idle for {self._pool.keep_s:g} s")


class Batching(Controller):
    """Batching controller (Welsh, Culler and Brewer, SOSP 2001, section 4.2).

    A large batch amortises what a turn costs, a small one is handled sooner.
    So: "decreases the batching factor until throughput begins to degrade", then
    up again a little; when the load drops suddenly, back to the largest.  The
    rate is a moving average of the events that leave.  Only a stage whose
    batches are full has anything to gain or lose: else its batches are as
    large as what has come, whatever the limit.
    """

    name = "batching"
    quantity = "batch"
    period_s = 0.25

    SMOOTHING = 0.6  # weight of the past in the moving average of the rate
    SLIGHTLY, SUDDENLY = 0.95, 0.5  # of the rate seen at the last batch size
    FORGETTING = 0.99  # of the best rate, at every look
    SMALLER, LARGER = 0.8, 1.25

    def __init__(self, stage: AnyStage, *, least: int = 8, most: int | None = None) -> None:
        super().__init__(stage.name)
        self._stage = stage
        self._most = most or stage.batch
        self._least = min(least, self._most)
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
            if size < self._most:
                self._set(self._most, f"the rate fell suddenly, to {rate:.0f}/s")
            self._rate = self._reference = rate
            return
        full = turns > 0 and handled / turns >= 0.9 * size
        if not full:
            self._reference = self._rate
            return
        if self._rate < self.SLIGHTLY * self._reference:
            larger = min(self._most, max(size + 1, int(size * self.LARGER)))
            if larger > size:
                self._set(larger, f"the rate fell to {self._rate:.0f}/s")
        else:
            smaller = max(self._least, int(size * self.SMALLER))
            if smaller < size:
                self._set(smaller, f"batches are full at {self._rate:.0f}/s")
        # The best of late, not the last: many small losses would add up unseen.
        self._reference = max(self._rate, self.FORGETTING * self._reference)

    def _set(self, size: int, reason: str) -> None:
        self.record(self._stage.batch, size, reason)
        self._stage.batch = size


class TokenBucket:
    """Lets through `rate` events a second on average, and at most `depth` at once.

    Called by one thread at a time a stage; two threads may let a few too many
    through, which the controller's next look makes good.
    """

    def __init__(self, rate: float, depth: float) -> None:
        self.rate = rate
        self.depth = depth
        self._tokens = depth
        self._last_ns = time.monotonic_ns()

    def take(self, wanted: int) -> int:
        """How many of `wanted` may pass now."""
        now_ns = time.monotonic_ns()
        tokens = min(self.depth, self._tokens + self.rate * (now_ns - self._last_ns) / 1e9)
        self._last_ns = now_ns
        granted = min(wanted, int(tokens))
        self._tokens = tokens - granted
        return granted


class Admission(Controller):
    """Adaptive admission control (Welsh and Culler, USITS 2003, section 4.1).

    Holds the 90th percentile of the response time at `target_s` with a token
    bucket at the entry: additive increase, multiplicative decrease.  The
    percentile of the last `sample` requests, or of those of the last second, is
    smoothed (weight of the past 0.7) and compared with the target.  Above it,
    the rate is divided by 1.2; below half of it, the rate grows by a share of
    its distance.  The paper adds 2 requests/s at a time, to rates of hundreds;
    here a step is 2 % of the rate, so that thousands are reached in seconds.

    As long as the bucket has turned nobody away, its rate is only followed,
    never lowered: what is not the limit cannot be too high.
    """

    name = "admission"
    quantity = "requests/s"

    SMOOTHING = 0.7
    DECREASE = 1.2
    INCREASE = 0.02
    CALM = -0.5  # relative error under which the rate grows
    LEAST_RATE = 1.0
    PERCENTILE = 0.9
    FULL_SAMPLE = 100
    LONGEST_NS = 1_000_000_000

    def __init__(self, stage: str, target_s: float, rate: float = 1e6) -> None:
        super().__init__(stage)
        self.target_s = target_s
        self.bucket = TokenBucket(rate, depth=max(1.0, rate * 0.01))
        self.admitted = 0
        self.refused = 0
        self._response_ns: deque[int] = deque(maxlen=10_000)
        self._smoothed_s: float | None = None
        self._sampled_ns = time.monotonic_ns()
        self._last = (time.monotonic_ns(), 0)
        self._arrived = 0
        self._unlimited = True

    @property
    def rate(self) -> float:
        return self.bucket.rate

    @property
    def limit(self) -> float | None:
        """Requests a second that may enter; None: as many as come."""
        return None if self._unlimited else self.bucket.rate

    @property
    def p90_ms(self) -> float | None:
        """The smoothed 90th percentile of the response time; None before the first sample."""
        return None if self._smoothed_s is None else self._smoothed_s * 1e3

    def admit(self, wanted: int) -> int:
        """At the entry: how many of `wanted` requests may enter."""
        if self._unlimited:
            self.admitted += wanted
            return wanted
        granted = self.bucket.take(wanted)
        self.admitted += granted
        self.refused += wanted - granted
        return granted

    def responded(self, times_ns: Sequence[int]) -> None:
        """At the exit: how long admitted requests have taken."""
        self._response_ns.extend(times_ns)

    def observe(self, now_ns: int) -> None:
        enough = len(self._response_ns) >= self.FULL_SAMPLE
        if not enough and now_ns - self._sampled_ns < self.LONGEST_NS:
            return
        elapsed_s = (now_ns - self._last[0]) / 1e9
        admitted_rate = (self.admitted - self._last[1]) / elapsed_s if elapsed_s > 0 else 0.0
        self._last = (now_ns, self.admitted)
        self._sampled_ns = now_ns
        sample = []
        try:
            while True:
                sample.append(self._response_ns.popleft())
        except IndexError:
            pass
        arrived = self.admitted + self.refused
        idle = arrived == self._arrived
        self._arrived = arrived
        if not sample:
            if idle and not self._unlimited:  # what was measured is of a load that is gone
                self._smoothed_s = None
                self._unlimited = True
                self.record(self.rate, self.rate, "no limit: nobody asks")
            return
        sample.sort()
        p90_s = sample[int(self.PERCENTILE * (len(sample) - 1))] / 1e9
        past = self._smoothed_s if self._smoothed_s is not None else p90_s
        self._smoothed_s = self.SMOOTHING * past + (1 - self.SMOOTHING) * p90_s
        error = (self._smoothed_s - self.target_s) / self.target_s
        if error > 0:
            # What was let in last is where to begin from, when nothing was limited.
            base = admitted_rate if self._unlimited else min(self.rate, 2 * admitted_rate)
            self._unlimited = False
            self._set(max(self.LEAST_RATE, base / self.DECREASE), self._smoothed_s)
        elif error < self.CALM and not self._unlimited:
            if admitted_rate < 0.5 * self.rate:
                self._unlimited = True  # the load is gone: nothing to hold back
                self.record(self.rate, self.rate, "no limit: it is far above the load")
            else:
                self._set(self.rate * (1 + self.INCREASE * -error * 2), self._smoothed_s)

    def _set(self, rate: float, smoothed_s: float) -> None:
        self.record(
            self.rate, rate, f"p90 {smoothed_s * 1e3:.1f} ms, target {self.target_s * 1e3:g} ms"
        )
        self.bucket.rate = rate
        self.bucket.depth = max(1.0, rate * 0.01)


class ControlThread:
    """Runs the controllers, each at its period, until `stop`."""

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
        due = dict.fromkeys(self.controllers, 0)
        while not self._end.wait(tick_s):
            now_ns = time.monotonic_ns()
            for controller in self.controllers:
                if now_ns >= due[controller]:
                    due[controller] = now_ns + int(controller.period_s * 0.9e9)
                    controller.observe(now_ns)

    def decisions(self, most: int) -> list[dict[str, Any]]:
        """The last `most` decisions of all, oldest first."""
        found = [d for controller in self.controllers for d in list(controller.decisions)[-most:]]
        found.sort(key=lambda decision: decision.time_ns)
        return [asdict(decision) for decision in found[-most:]]
