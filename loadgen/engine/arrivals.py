"""Arrivals whose end and whose rate nobody knows beforehand: made slice by slice.

`arrivals.py` makes whole schedules; this is for an engine that is told its rate
while it runs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loadgen.demand.arrivals import generator

STREAM = 3
"""Sets this draw apart from others of the same seed."""


class Arrivals:
    """When requests of the next slice are due: a process whose rate may change between slices."""

    def __init__(self, kind: str, seed: int) -> None:
        self._random = generator(seed, STREAM)
        self._evenly = kind == "constant"
        self._part = 0.0  # of the gap before the next evenly spaced request, what has passed

    def times(self, begin_ns: int, lasts_ns: int, rate: float) -> npt.NDArray[np.int64]:
        """Ascending, all in the slice.  Nothing of a Poisson process carries over."""
        expected = rate * lasts_ns / 1e9
        if expected <= 0:
            return np.empty(0, np.int64)
        if self._evenly:
            reached = self._part + expected
            units = np.arange(1, int(reached) + 1) - self._part
            self._part = reached - int(reached)
        else:
            units = np.sort(self._random.random(self._random.poisson(expected))) * expected
        offsets = np.minimum((units * (lasts_ns / expected)).astype(np.int64), lasts_ns - 1)
        return begin_ns + offsets
