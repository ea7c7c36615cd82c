"""What an HTTP run recorded: the outcomes of its requests, as arrays, and facts about the run.

Nothing here summarises (`result.py`) or sends (`loop.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

ANSWERED, REJECTED, WRONG, TIMEOUT, CONNECTION, NEVER_SENT = range(6)
OUTCOMES = ("answered", "rejected", "wrong", "timeout", "connection", "never_sent")
"""The outcomes of a request; every scheduled request has exactly one.

`answered`: the expected status and length.  `rejected`: 503, from a server that
sheds load.  `wrong`: an unexpected status or length, or not HTTP.  `timeout`:
sent, but without a complete reply within the timeout, counted from the
scheduled time.  `connection`: its connection was refused, reset or closed.
`never_sent`: no connection became free before its timeout.
"""


@dataclass(frozen=True)
class Records:
    """Every request of a run, warm-up included, in schedule order.

    Times are in ns of `time.monotonic_ns`; 0 for what never happened.  In a
    closed loop a request is scheduled when it is sent.
    """

    scheduled_ns: npt.NDArray[np.int64]
    sent_ns: npt.NDArray[np.int64]
    done_ns: npt.NDArray[np.int64]
    lag_ns: npt.NDArray[np.int64]
    """How late it was sent although a connection was free: the generator's delay, never the
    server's."""
    outcome: npt.NDArray[np.uint8]
    template: npt.NDArray[np.uint16]
    connection: npt.NDArray[np.int32]
    """-1 for a request that was never sent."""

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    def part(self, which: slice | npt.NDArray[Any]) -> Records:
        return Records(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def in_order(self) -> Records:
        """Sorted by schedule; returns itself if already sorted, as it nearly always is."""
        at = self.scheduled_ns
        if bool((at[1:] >= at[:-1]).all()):
            return self
        return self.part(np.argsort(at, kind="stable"))

    @classmethod
    def together(cls, parts: list[Records]) -> Records:
        """The records of several processes, merged by schedule; column by column to save memory."""
        order = np.argsort(np.concatenate([part.scheduled_ns for part in parts]), kind="stable")
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])[order]
                for name in cls.__dataclass_fields__
            )
        )


@dataclass(frozen=True)
class Facts:
    """What a summary needs beyond the records: the settings, and what the run observed.

    Plain values only, because a samples file stores them (`samples.py`).
    """

    target: str
    mix: str
    mode: str
    """`open` or `closed`."""
    arrivals: str | None
    """None for a closed loop.  `rate` is None for a closed loop and for a trace."""
    rate: float | None
    seed: int
    connections: int
    connected: int
    processes: int
    warmup_s: float
    timeout_s: float
    slo_ms: float
    start_ns: int
    """Time 0 of the schedule on the monotonic clock."""
    window_begin_ns: int
    """Relative to the start, as is the end, which is exclusive."""
    window_end_ns: int
    error_kinds: dict[str, int]
    reconnects: int
    cpu_s: float
    """CPU time of all processes within the window."""
    busy: float
    own_unsent: int
    first_wrong: str
    paused_s: float = 0.0
    """How long within the window the generator was stopped or without its core.  0 in samples files
    of an earlier version."""

    @property
    def window_s(self) -> float:
        return (self.window_end_ns - self.window_begin_ns) / 1e9


@dataclass(frozen=True)
class Raw:
    """What one process hands over when its run is done."""

    records: Records
    start_ns: int
    """Time 0 of the schedule."""
    connected: int
    """Connections that were up at the start."""
    error_kinds: dict[str, int]
    """Failures by kind over the whole run; finer than the outcomes."""
    reconnects: int
    cpu_ns: int
    """CPU time of this process within the window."""
    busy: float
    """Share of the window in which the loop had work to do."""
    own_unsent: int
    """Requests never sent although a connection was free in time."""
    first_wrong: str
    """Description of the first wrong reply."""
    paused_ns: int
    """How long within the window the loop was held up."""
