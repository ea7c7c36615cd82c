"""From samples to figures: percentiles, fairness, and the timeline of a run.

Pure functions and plain arrays; no socket and no clock.  Percentiles are exact
(every sample is kept) and need no numpy: importing it would cost each trial
more than computing with it saves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def jain_index(shares: Sequence[int]) -> float | None:
    """How evenly `shares` are shared: 1.0 when all are equal, 1/n when one has all.

    (sum x)^2 / (n * sum x^2): Jain, Chiu and Hawe, "A Quantitative Measure of
    Fairness and Discrimination for Resource Allocation in Shared Computer
    Systems", DEC-TR-301, 1984.  `None` when nothing was shared.
    """
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def latency_summary_us(latencies_ns: Sequence[int]) -> dict[str, float | int | None]:
    """`p50`, `p90`, `p99`, `max` in microseconds (`None` without samples), and `samples`.

    Nearest rank: the smallest sample that at least that share of all samples
    does not exceed, so that each figure is a latency that really occurred.
    """
    ordered = sorted(latencies_ns)
    count = len(ordered)
    summary: dict[str, float | int | None] = {}
    for percent in (50, 90, 99, 100):
        name = "max" if percent == 100 else f"p{percent}"
        rank = -(-count * percent // 100)  # ceiling, in integers
        summary[name] = ordered[rank - 1] / 1e3 if count else None
    summary["samples"] = count
    return summary


class Timeline:
    """Cumulative bytes and bursts against the monotonic clock, about every 10 ms.

    With it, who read the server's counters at a moment of its own choosing can
    tell what the client had sent at that very moment, by interpolation.
    """

    __slots__ = ("bursts", "bytes", "t_ns")

    def __init__(self) -> None:
        self.t_ns: array[int] = array("q")
        self.bytes: array[int] = array("q")
        self.bursts: array[int] = array("q")

    def add(self, t_ns: int, total_bytes: int, total_bursts: int) -> None:
        self.t_ns.append(t_ns)
        self.bytes.append(total_bytes)
        self.bursts.append(total_bursts)

    def bytes_at(self, t_ns: int) -> float:
        """Cumulative bytes at `t_ns`, interpolated; constant beyond both ends."""
        after = bisect_right(self.t_ns, t_ns)
        if after == 0:
            return float(self.bytes[0])
        if after == len(self.t_ns):
            return float(self.bytes[-1])
        t0, t1 = self.t_ns[after - 1], self.t_ns[after]
        b0, b1 = self.bytes[after - 1], self.bytes[after]
        return b0 + (b1 - b0) * (t_ns - t0) / (t1 - t0)

    def paused_ns(self, begin_ns: int, end_ns: int, most_ns: int) -> int:
        """How long it was, between begin and end, in gaps of more than `most_ns`."""
        times = [t for t in self.t_ns if begin_ns <= t <= end_ns]
        gaps = [after - before for before, after in pairwise(times)]
        return sum(gap for gap in gaps if gap > most_ns)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("t_ns", "bytes", "bursts")}
