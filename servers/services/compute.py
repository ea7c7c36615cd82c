"""A known amount of work: so many microseconds of pure Python.

The amount is a number of loops, not a time: every server of a run that is
given the same `loops_per_us` does the same work, however busy the machine is.
`python -m servers.services.compute` measures that number once, for the
interpreter that runs it.
"""

from __future__ import annotations

import json
import time

CALIBRATION_LOOPS = 20_000
"""About a millisecond: long compared with the clock's resolution, short compared with a
scheduler's time slice."""

CALIBRATION_ROUNDS = 30


def spin(loops: int) -> int:
    """The work: interpreter loop and small integers, without allocating memory."""
    value = 0
    for number in range(loops):
        value = (value * 31 + number) & 0xFFFF
    return value


def calibrate() -> float:
    """Loops of `spin` per microsecond of an undisturbed core.

    The fastest of the rounds: a disturbance can only make a round slower.
    """
    fastest_ns = min(_round_ns() for _ in range(CALIBRATION_ROUNDS))
    return CALIBRATION_LOOPS * 1e3 / fastest_ns


def _round_ns() -> int:
    before_ns = time.perf_counter_ns()
    spin(CALIBRATION_LOOPS)
    return time.perf_counter_ns() - before_ns


if __name__ == "__main__":
    print(json.dumps({"loops_per_us": round(calibrate(), 3)}))
