"""Latencies as counts in buckets, small enough to be sent over a network every second.

A bucket is 1 % wide, so whatever is read from it is wrong by 0.5 % at most; from
1 us to a quarter of an hour there are 2083.  Counts of several machines are
added, and percentiles come from the sum.

Locust rounds response times to whole milliseconds, which makes 0 of most that
are measured here.  `bucket_ms` takes the place of its rounding (Locust lets one
replace it: "Customizing response time bucketing" in its documentation), so that
its percentiles are as exact as ours.  No Locust in this file.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

WIDTH = math.log(1.01)

BUCKETS = round(math.log(1e9) / WIDTH) + 1


def buckets_of(latency_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The bucket of each latency; what is under 1 us is in the first."""
    exponents = np.log(np.maximum(latency_ns, 1000) / 1e3) / WIDTH
    return np.minimum(np.rint(exponents), BUCKETS - 1).astype(np.int64)


def us_of(bucket: int) -> float:
    """The middle of a bucket, to six digits."""
    return float(f"{math.exp(bucket * WIDTH):.6g}")


def ms_of(bucket: int) -> float:
    """The same in ms, without a tail of digits where Locust prints it."""
    return float(f"{math.exp(bucket * WIDTH) / 1e3:.6g}")


def bucket_ms(response_time_ms: float) -> float:
    """What Locust is to keep of a response time, in ms."""
    exponent = math.log(max(response_time_ms * 1e3, 1.0)) / WIDTH
    return ms_of(min(round(exponent), BUCKETS - 1))


def packed(rows: npt.NDArray[np.int64]) -> str:
    """Rows of numbers under 2**31 as text.  As JSON, 1500 rows of five take 5 ms."""
    return base64.b64encode(rows.astype("<i4").tobytes()).decode()


def unpacked(text: str, columns: int) -> list[list[int]]:
    """The rows again."""
    found: list[list[int]] = (
        np.frombuffer(base64.b64decode(text), "<i4").reshape(-1, columns).tolist()
    )
    return found


def percentile_us(counts: Mapping[int, int], share: float) -> float | None:
    """By nearest rank, from counts by bucket; None when there are none."""
    rank = math.ceil(share * sum(counts.values()))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= max(rank, 1):
            return us_of(bucket)
    return None


def mean_us(counts: Mapping[int, int]) -> float | None:
    total = sum(counts.values())
    if not total:
        return None
    return sum(us_of(bucket) * count for bucket, count in counts.items()) / total


def summary_us(counts: Mapping[int, int]) -> dict[str, float | None]:
    """p50, p90, p99, p999, max and mean, each within 0.5 %."""
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
    return {name: percentile_us(counts, share) for name, share in shares} | {
        "mean": mean_us(counts)
    }
