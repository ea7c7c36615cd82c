"""Adaptive admission control: how many requests per second may enter.

After Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers"
(USITS 2003, section 3): a token bucket at the entry, whose rate follows the 90th
percentile of the response time, estimated and smoothed sample by sample.  The
paper's rates were some hundreds per second, with one sample per second, additive
increase and multiplicative decrease.  Ours reach tens of thousands, and three times the
capacity fills any queue in a tenth of a second; so it differs:

- *Pressure* is what is smoothed: the percentile divided by the target, at most 2.  So
  a few slow requests decide nothing, many decide within a few observations, and both
  are forgotten equally fast.  Pressure above 1 imposes a limit.
- While requests queue, the rate at which the server completes them is its *capacity*,
  and the limit is the capacity times a correction: lower while the percentile is above
  `AIM` times the target, so that the excess drains while the server goes on working;
  higher while it is below.  So the first observation finds the rate, and there is no
  sawtooth.  The limit is not lowered when so few requests are inside (Little's law) that
  the response time is that of the requests themselves.
- While none queue and requests are refused, the capacity is higher than measured:
  the estimate grows, in small steps near the measured value, in larger and larger
  ones beyond it.
- When the load is well below the limit, the limit is removed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from servers.seda.controllers import Controller


class TokenBucket:
    """Admits `rate` events per second on average, and at most `depth` at once.

    Usually called by one thread; two may admit a few events too many, which the
    controller's next observation corrects.
    """

    def __init__(self, rate: float, depth: float) -> None:
        self.rate = rate
        self.depth = depth
        self._tokens = depth
        self._last_ns = time.monotonic_ns()

    def take(self, wanted: int) -> int:
        """How many of `wanted` are admitted now."""
        now_ns = time.monotonic_ns()
        tokens = min(self.depth, self._tokens + self.rate * (now_ns - self._last_ns) / 1e9)
        self._last_ns = now_ns
        granted = min(wanted, int(tokens))
        self._tokens = tokens - granted
        return granted


class Admission(Controller):
    """Keeps the 90th percentile of the response time below `target_s`; see the module.

    `completed()` returns how many admitted requests have been answered so far; without
    it, `responded` must be called for each of them, otherwise for a sample.
    """

    name = "admission"
    quantity = "requests/s"
    period_s = 0.05

    PERCENTILE = 0.9
    SMOOTHING = 0.3
    """Weight of the previous pressure, relative to a full sample."""
    FULL_SAMPLE = 10
    """So many answers per observation have full weight; fewer have less, unless they relieve."""
    RELIEF = 0.5
    """Minimum weight of a sample that shows less pressure."""
    MAX_PRESSURE = 2.0
    AIM = 0.4
    """Times the target: where a limit holds the percentile."""
    QUEUED = 0.25
    """Pressure above which requests are assumed to queue; below it the estimate grows."""
    MIN_INSIDE = 4.0
    """Requests; below that, admitting fewer would not make them faster."""
    CORRECTION = 0.3, 1.1
    """Minimum and maximum of the limit divided by the capacity."""
    MIN_DRAIN_S, DRAIN_TARGETS = 0.4, 4.0
    """Time in which an excess drains, the longer of the two: in seconds, and in targets.  It
    must be several times as long as a change of the rate takes to affect the percentile."""
    MEASURED = 0.3
    """Weight of a new measurement of the capacity."""
    FADING = 0.98
    """Times the capacity, per observation that does not measure it since not all had to wait."""
    MIN_STEP, MAX_STEP = 0.01, 0.4
    """Relative growth of the estimate per observation."""
    MIN_INCREMENT = 2.0
    """Requests/s: the minimum growth, the paper's additive increase."""
    LAG = 0.1
    """Times the answers of an observation: so many more may have entered while it grows."""
    PAST = 1.05
    """Times the measured capacity: from here on the steps become larger."""
    DEPTH = 0.2
    """Times the target: depth of the bucket in time; but at least twice `MIN_INSIDE` requests."""
    PATIENCE_NS = 200_000_000
    """An observation with less than a full sample waits this long for more answers."""
    MAX_PATIENCE_NS = 5_000_000_000
    """And this long for the first answer, since a stage may answer in large batches."""
    FREE_NS = 1_000_000_000
    """If nobody was refused, or the load was below `LIGHT` of the limit, this long: no limit."""
    LIGHT = 0.8
    FORGET_NS = 1_000_000_000
    """Without an answer for this long, nothing is known about the response time."""

    def __init__(
        self, stage: str, target_s: float, completed: Callable[[], int] | None = None
    ) -> None:
        super().__init__(stage)
        self.target_s = target_s
        self.bucket = TokenBucket(1e6, depth=1.0)
        self.admitted = 0
        self.refused = 0
        self._completed = completed or self._told
        self._responses = 0
        self._response_ns: deque[int] = deque(maxlen=10_000)
        self._unlimited = True
        self._pressure = 0.0
        self._p90_s: float | None = None
        self._measured = 0.0  # requests/s that were completed while others waited
        self._capacity = 0.0  # the same, or our guess since; 0: not known
        self._rate = 0.0  # requests/s that were completed of late, smoothed
        self._step = self.MIN_STEP
        now_ns = time.monotonic_ns()
        self._seen = (now_ns, 0, 0, 0)  # at the last look: when; admitted, refused, completed
        self._answered_ns = now_ns
        self._asked = (now_ns, 0, 0)  # when; how many had asked and been refused by then

    @property
    def limit(self) -> float | None:
        """Requests per second that may enter; None: all."""
        return None if self._unlimited else self.bucket.rate

    @property
    def p90_ms(self) -> float | None:
        """The last observed 90th percentile of the response time; None if there are no requests."""
        return None if self._p90_s is None else self._p90_s * 1e3

    def admit(self, wanted: int) -> int:
        """At the entry: how many of `wanted` requests may enter."""
        granted = wanted if self._unlimited else self.bucket.take(wanted)
        self.admitted += granted
        self.refused += wanted - granted
        return granted

    def responded(self, times_ns: Sequence[int]) -> None:
        """At the exit: the response times of admitted requests."""
        self._responses += len(times_ns)
        self._response_ns.extend(times_ns)

    def _told(self) -> int:
        return self._responses

    def observe(self, now_ns: int) -> None:
        admitted, refused, completed = self.admitted, self.refused, self._completed()
        seen_ns, *seen = self._seen
        entered, turned_away, answered = (
            now - then for now, then in zip((admitted, refused, completed), seen, strict=True)
        )
        patience_ns = self.MAX_PATIENCE_NS if entered and not answered else self.PATIENCE_NS
        if answered < self.FULL_SAMPLE and now_ns - seen_ns < patience_ns:
            return
        self._seen = (now_ns, admitted, refused, completed)
        sample = self._take_sample()
        if sample:
            self._answered_ns = now_ns
            self._weigh(sample, answered)
        elif now_ns - self._answered_ns > self.FORGET_NS and not (entered or answered):
            self._p90_s = None
            self._pressure = 0.0
        asked_ns, asked, sent_away = self._asked
        light = False
        if now_ns - asked_ns >= self.FREE_NS:
            self._asked = (now_ns, admitted + refused, refused)
            load = (admitted + refused - asked) * 1e9 / (now_ns - asked_ns)
            light = refused == sent_away or load < self.LIGHT * self.bucket.rate
        if light and not self._unlimited and self._pressure < 1:
            self._free()
        elif sample and (not self._unlimited or self._pressure > 1):
            self._adjust(
                answered * 1e9 / (now_ns - seen_ns),
                refuses=turned_away > 0,
                keeps_up=entered - answered <= max(self.MIN_INSIDE, self.LAG * answered),
                all_waited=sample[0] > self.QUEUED * self.target_s * 1e9,
            )

    def _take_sample(self) -> list[int]:
        sample = []
        try:
            while True:
                sample.append(self._response_ns.popleft())
        except IndexError:
            return sample

    def _weigh(self, sample: list[int], answered: int) -> None:
        """Update the pressure with a sample, weighted by the number of answers behind it."""
        sample.sort()
        self._p90_s = sample[int(self.PERCENTILE * (len(sample) - 1))] / 1e9
        pressure = min(self.MAX_PRESSURE, self._p90_s / self.target_s)
        weight = (1 - self.SMOOTHING) * min(1.0, max(1, answered) / self.FULL_SAMPLE)
        if pressure < self._pressure:
            weight = max(weight, self.RELIEF)
        self._pressure += weight * (pressure - self._pressure)

    def _adjust(self, rate: float, refuses: bool, keeps_up: bool, all_waited: bool) -> None:
        """`rate` requests per second were answered since the last observation."""
        assert self._p90_s is not None
        self._rate += self.MEASURED * (rate - self._rate)
        if self._pressure > self.QUEUED:
            if self._rate * self._p90_s < self.MIN_INSIDE:
                return
            weight = self.MEASURED if self._capacity else 1.0
            measured = self._capacity + weight * (rate - self._capacity)
            if not all_waited:  # it may be capable of more
                measured = max(measured, self.FADING * self._capacity)
            self._measured = self._capacity = measured
            self._step = self.MIN_STEP
            reason = f"{rate:.0f}/s are completed"
        elif refuses and keeps_up:
            self._capacity += max(self.MIN_INCREMENT, self._step * self._capacity)
            if self._capacity > self.PAST * self._measured:
                self._step = min(self.MAX_STEP, 2 * self._step)
            reason = "nothing queues and requests are refused"
        else:
            if not keeps_up:
                self._step = self.MIN_STEP
            return
        drain_s = max(self.MIN_DRAIN_S, self.DRAIN_TARGETS * self.target_s)
        waits_s = self._p90_s if self._pressure > 1 else self._pressure * self.target_s
        correction = 1 + (self.AIM * self.target_s - waits_s) / drain_s
        lowest, highest = self.CORRECTION
        limit = self._capacity * min(highest, max(lowest, correction))
        self._set(max(limit, self.MIN_INSIDE / self._p90_s if self._pressure > 1 else 0), reason)

    def _free(self) -> None:
        self._unlimited = True
        self._capacity = self._measured = 0.0
        self._step = self.MIN_STEP
        self.record(self.bucket.rate, self.bucket.rate, "no limit: the load is well below")

    def _set(self, rate: float, reason: str) -> None:
        p90 = "unknown" if self._p90_s is None else f"{self._p90_s * 1e3:.1f} ms"
        self.record(
            self.bucket.rate, rate, f"p90 {p90}, target {self.target_s * 1e3:g} ms; {reason}"
        )
        self.bucket.rate = rate
        self.bucket.depth = max(2 * self.MIN_INSIDE, rate * self.DEPTH * self.target_s)
        self._unlimited = False
