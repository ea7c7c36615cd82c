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

from loadgen.arrivals import duration_s
from loadgen.mix import Mix
from loadgen.target import LoadError, Target

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

    @classmethod
    def together(cls, parts: list[Records]) -> Records:
        """Those of several processes, by schedule; connections are numbered on."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in cls.__dataclass_fields__
        }
        order = np.argsort(columns["scheduled_ns"], kind="stable")
        return cls(**{name: column[order] for name, column in columns.items()})


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
