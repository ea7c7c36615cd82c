"""What an HTTP run is told, and what it recorded: settings, outcomes, arrays.

Nothing here judges or summarises (`http_result.py`), and nothing sends
(`http.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.demand.arrivals import duration_s
from loadgen.demand.mixes import Mix
from loadgen.net.targets import LoadError, Target

ANSWERED, REJECTED, WRONG, TIMEOUT, CONNECTION, NEVER_SENT = range(6)
OUTCOMES = ("answered", "rejected", "wrong", "timeout", "connection", "never_sent")
"""What can become of a request; every scheduled one has exactly one of these.

`answered`: as expected, status and length. `rejected`: 503, by a server that
sheds.  `wrong`: another status, another length, or no HTTP.  `timeout`: sent,
and no whole reply within the time-out, counted from the scheduled time.
`connection`: its connection was refused, reset or closed.  `never_sent`: no
connection was free for it until its time was over.
"""


@dataclass(frozen=True)
class HttpConfig:
    """One trial's worth of settings; `LoadError` on nonsense."""

    target: Target
    host: str
    """As it stands in the Host header."""
    mix: Mix
    connections: int = 64
    duration_s: float = 5.0
    warmup_s: float = 1.0
    rate: float | None = None
    """Requests per second of the schedule; None: closed loop."""
    arrivals: str = "poisson"
    seed: int = 1
    timeout_s: float = 5.0
    slo_s: float = 0.1
    requests_per_connection: int = 0
    """After so many a connection is closed and opened anew; 0: never."""
    spin: bool = True
    """Never sleep: for a load generator with a core of its own."""
    connect_rate: float = 5000.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("connections", 1, 1_000_000),
            ("duration_s", 0.001, 86_400),
            ("warmup_s", 0, 86_400),
            ("rate", 1e-3, 1e8),
            ("timeout_s", 0.001, 86_400),
            ("slo_s", 1e-6, 86_400),
            ("requests_per_connection", 0, 1_000_000_000),
            ("connect_rate", 1, 1e9),
        ):
            value = getattr(self, name)
            if value is None or (math.isfinite(value) and low <= value <= high):
                continue
            if name == "slo_s":
                raise LoadError(f"--slo must be from 0.001 to 86400000 ms, not {value * 1e3:g}")
            option = name.removesuffix("_s").replace("_", "-")
            raise LoadError(f"--{option} must be from {low:g} to {high:g}, not {value:g}")

        if self.length_s <= self.warmup_s:
            raise LoadError(
                f"{self.arrivals} lasts {self.length_s:g} s, all of it warm-up: give a --warmup "
                "under that, 0 for instance"
            )

    @property
    def open_loop(self) -> bool:
        return self.rate is not None

    @cached_property
    def length_s(self) -> float:
        """Of the schedule, warm-up included; steps and a trace bring their own length."""
        asked_s = self.warmup_s + self.duration_s
        return duration_s(self.arrivals, asked_s) if self.open_loop else asked_s


@dataclass(frozen=True)
class Records:
    """Every request of a run, warm-up included, in the order of their schedule.

    Times are ns of `time.monotonic_ns`; 0 where something never happened.  In a
    closed loop a request is scheduled when it is sent.
    """

    scheduled_ns: npt.NDArray[np.int64]
    sent_ns: npt.NDArray[np.int64]
    done_ns: npt.NDArray[np.int64]
    lag_ns: npt.NDArray[np.int64]
    """How late we sent it though a connection was free: our own fault, never the server's."""
    outcome: npt.NDArray[np.uint8]
    template: npt.NDArray[np.uint16]
    connection: npt.NDArray[np.int32]
    """-1 for a request that was never sent."""

    def __len__(self) -> int:
        return len(self.scheduled_ns)

    def part(self, which: slice | npt.NDArray[Any]) -> Records:
        return Records(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def in_order(self) -> Records:
        """By schedule; itself where it is so already, as it nearly always is."""
        at = self.scheduled_ns
        if bool((at[1:] >= at[:-1]).all()):
            return self
        return self.part(np.argsort(at, kind="stable"))

    @classmethod
    def together(cls, parts: list[Records]) -> Records:
        """Those of several processes, by schedule.  Column by column, to need less at once."""
        order = np.argsort(np.concatenate([part.scheduled_ns for part in parts]), kind="stable")
        return cls(
            *(
                np.concatenate([getattr(part, name) for part in parts])[order]
                for name in cls.__dataclass_fields__
            )
        )


@dataclass(frozen=True)
class Facts:
    """What a summary says that is not in the records: what was asked, and what the engine saw.

    Plain values all, for a file of samples keeps them (`samples.py`).
    """

    target: str
    mix: str
    mode: str
    """`open` or `closed`."""
    arrivals: str | None
    """None for a closed loop; so is `rate`, and for a trace, which has times of its own."""
    rate: float | None
    seed: int
    connections: int
    connected: int
    processes: int
    warmup_s: float
    timeout_s: float
    slo_ms: float
    start_ns: int
    """Time 0 of the schedule, of the monotonic clock."""
    window_begin_ns: int
    """From the start, as is the end, which is the first moment after the window."""
    window_end_ns: int
    error_kinds: dict[str, int]
    reconnects: int
    cpu_s: float
    """CPU time of all processes in the window."""
    busy: float
    own_unsent: int
    first_wrong: str
    paused_s: float = 0.0
    """Of the window, how long the generator was held up: stopped, or without its core.  0 in files
    of samples of an earlier version."""

    @property
    def window_s(self) -> float:
        return (self.window_end_ns - self.window_begin_ns) / 1e9


@dataclass(frozen=True)
class Raw:
    """What the engine hands over when it is done."""

    records: Records
    start_ns: int
    """Time 0 of the schedule."""
    connected: int
    """Connections that were up at the start."""
    error_kinds: dict[str, int]
    """Everything that went wrong, by kind, over the whole run; finer than the outcomes."""
    reconnects: int
    cpu_ns: int
    """CPU time of this process between the window's two ends."""
    busy: float
    """Share of the window in which the loop had something to do."""
    own_unsent: int
    """Never sent although a connection was free in time."""
    first_wrong: str
    """What the first wrong reply was, in words."""
    paused_ns: int
    """Of the window, in which the loop was held up."""
