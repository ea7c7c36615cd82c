"""What an engine has to tell since it told last: counts by trial, latencies, bytes, failures.

Kept as increases, because a report is added to those before it.  A latency is a
count by (trial, kind, class, bucket), a failure one by (class, outcome).  The
rings and the loop are in `engine_process.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.engine.histogram import BUCKETS, buckets_of, packed
from loadgen.http.run import ANSWERED, OUTCOMES, REJECTED

LATENCY, REJECTION, SERVICE, LAG = range(4)
KINDS = ("latency", "rejected", "service", "send_lag")

COUNTS = ("ns", "stalled_ns", "scheduled", "sent", *OUTCOMES, "done", "done_good")
"""Of a trial, in a report: its length so far, what of it the engine stood still, and requests.

`done` and `done_good` are right replies that came during the trial, whenever
they were scheduled; all others are of requests scheduled in it.
"""

Numbers = npt.NDArray[np.int64]


class Account:
    """Of one engine, since its last report.  `classes`: how many the mix has."""

    def __init__(self, classes: int, slo_ns: float) -> None:
        self._classes = classes
        self._slo_ns = slo_ns
        self.forget()

    def forget(self) -> None:
        """What was reported is not to be reported again."""
        self._trials: dict[int, dict[str, int]] = {}
        self._cells: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._bytes = np.zeros(self._classes, np.int64)
        self._last_done_ns = 0

    def of(self, trial: int) -> dict[str, int]:
        """The counts of a trial, to be added to."""
        return self._trials.setdefault(trial, dict.fromkeys(COUNTS, 0))

    def count(
        self, *, trial: Numbers, came_in: Numbers, outcome: npt.NDArray[np.uint8],
        which: Numbers, scheduled: Numbers, sent: Numbers, done: Numbers, lag: Numbers,
        size: Numbers,
    ) -> None:  # fmt: skip
        """Requests whose fate is known: arrays of the same length.

        `came_in` is the trial at the time of `done`, `which` the class, `size`
        the bytes of the reply's body.
        """
        for value, number in _counted(trial * len(OUTCOMES) + outcome):
            of, what = divmod(value, len(OUTCOMES))
            self.of(of)[OUTCOMES[what]] += number
        was_sent = sent > 0
        for of, number in _counted(trial[was_sent]):
            self.of(of)["sent"] += number
        latency = done - scheduled
        right, shed = outcome == ANSWERED, outcome == REJECTED
        for name, those in (("done", right), ("done_good", right & (latency <= self._slo_ns))):
            for of, number in _counted(came_in[those]):
                self.of(of)[name] += number
        for kind, those, values in (
            (LATENCY, right, latency),
            (REJECTION, shed, latency),
            (SERVICE, right, done - sent),
            (LAG, was_sent, lag),
        ):
            cell = (trial[those] * len(KINDS) + kind) * self._classes
            if kind in (LATENCY, REJECTION):
                cell += which[those]
            for key, number in _counted(cell * BUCKETS + buckets_of(values[those])):
                self._cells[key] += number
        for key, number in _counted(which[~right] * len(OUTCOMES) + outcome[~right]):
            self._failures[key] += number
        np.add.at(self._bytes, which[right], size[right])
        self._last_done_ns = max(self._last_done_ns, int(done.max()))

    def report(self) -> dict[str, Any]:
        """As JSON may hold it; `cells` are rows of trial, kind, class, bucket and number."""
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
