"""A schedule of arrivals made slice by slice, for a rate that may change and an end not yet known.

Whole schedules, made beforehand, are in `loadgen/demand/arrivals.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loadgen.demand.arrivals import generator

STREAM = 3
"""Sets this draw apart from others with the same seed (see `loadgen.demand.arrivals.STREAM`)."""


class LiveSchedule:
    """Poisson or evenly spaced arrivals whose rate may change between slices."""

    def __init__(self, kind: str, seed: int) -> None:
        self._random = generator(seed, STREAM)
        self._constant = kind == "constant"
        self._elapsed = 0.0  # share of the gap before the next evenly spaced request

    def times(self, begin_ns: int, lasts_ns: int, rate: float) -> npt.NDArray[np.int64]:
        """Due times in ns, ascending, all within the slice that begins at `begin_ns`."""
        expected = rate * lasts_ns / 1e9
        if expected <= 0:
            return np.empty(0, np.int64)
        if self._constant:
            reached = self._elapsed + expected
            units = np.arange(1, int(reached) + 1) - self._elapsed
            self._elapsed = reached - int(reached)
        else:
            units = np.sort(self._random.random(self._random.poisson(expected))) * expected
        offsets = np.minimum((units * (lasts_ns / expected)).astype(np.int64), lasts_ns - 1)
        return begin_ns + offsets
