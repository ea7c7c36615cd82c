"""What an engine has to report: counts by trial, latencies, bytes, failures.

Kept as increases since the last report, because the receiver adds reports up.
Latencies are counted by (trial, kind, class, bucket), failures by (class,
outcome).  The ledger and the loop are in `process.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.engine.histogram import BUCKETS, buckets_of, packed
from loadgen.http.records import ANSWERED, OUTCOMES, REJECTED

LATENCY, REJECTION, SERVICE, LAG = range(4)
KINDS = ("latency", "rejected", "service", "send_lag")

COUNTS = ("ns", "stalled_ns", "scheduled", "sent", *OUTCOMES, "done", "done_good")
"""The counts of a trial in a report: its length, for how long of it the engine was stopped, and
requests.

`done` and `done_good` are correct replies that arrived during the trial, whenever
they were scheduled; all others are of requests scheduled in it.
"""

Numbers = npt.NDArray[np.int64]


class Account:
    """The counts of one engine since its last report.  `classes`: their number in the mix."""

    def __init__(self, classes: int, slo_ns: float) -> None:
        self._classes = classes
        self._slo_ns = slo_ns
        self.reset()

    def reset(self) -> None:
        """Start over after a report."""
        self._trials: dict[int, dict[str, int]] = {}
        self._cells: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._bytes = np.zeros(self._classes, np.int64)
        self._last_done_ns = 0

    def counts_of(self, trial: int) -> dict[str, int]:
        """The counts of a trial, to be added to."""
        return self._trials.setdefault(trial, dict.fromkeys(COUNTS, 0))

    def count(
        self, *, trial: Numbers, done_in_trial: Numbers, outcome: npt.NDArray[np.uint8],
        class_number: Numbers, scheduled: Numbers, sent: Numbers, done: Numbers, lag: Numbers,
        size: Numbers,
    ) -> None:  # fmt: skip
        """Count requests whose outcome is known: arrays of the same length.

        `done_in_trial` is the trial at the time of `done`, `size` the bytes of the
        reply's body.
        """
        for value, number in _counted(trial * len(OUTCOMES) + outcome):
            of, what = divmod(value, len(OUTCOMES))
            self.counts_of(of)[OUTCOMES[what]] += number
        was_sent = sent > 0
        for of, number in _counted(trial[was_sent]):
            self.counts_of(of)["sent"] += number
        latency = done - scheduled
        right, shed = outcome == ANSWERED, outcome == REJECTED
        for name, those in (("done", right), ("done_good", right & (latency <= self._slo_ns))):
            for of, number in _counted(done_in_trial[those]):
                self.counts_of(of)[name] += number
        for kind, those, values in (
            (LATENCY, right, latency),
            (REJECTION, shed, latency),
            (SERVICE, right, done - sent),
            (LAG, was_sent, lag),
        ):
            cell = (trial[those] * len(KINDS) + kind) * self._classes
            if kind in (LATENCY, REJECTION):
                cell += class_number[those]
            for key, number in _counted(cell * BUCKETS + buckets_of(values[those])):
                self._cells[key] += number
        for key, number in _counted(class_number[~right] * len(OUTCOMES) + outcome[~right]):
            self._failures[key] += number
        np.add.at(self._bytes, class_number[right], size[right])
        self._last_done_ns = max(self._last_done_ns, int(done.max()))

    def report(self) -> dict[str, Any]:
        """Ready for JSON; `cells` are rows of trial, kind, class, bucket and number."""
        count = len(self._cells)
        key, bucket = np.divmod(np.fromiter(self._cells.keys(), np.int64, count), BUCKETS)
        key, which = np.divmod(key, self._classes)
        trial, kind = np.divmod(key, len(KINDS))
        number = np.fromiter(self._cells.values(), np.int64, count)
        return {
            "trials": self._trials,
            "cells": packed(np.stack([trial, kind, which, bucket, number], axis=1)),
            "failures": [[*divmod(key, len(OUTCOMES)), n] for key, n in self._failures.items()],
            "bytes": self._bytes.tolist(),
            "last_done_ns": self._last_done_ns,
        }


def _counted(values: npt.NDArray[Any]) -> list[tuple[int, int]]:
    found, numbers = np.unique(values, return_counts=True)
    return list(zip(found.tolist(), numbers.tolist(), strict=True))
