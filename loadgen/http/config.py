"""`HttpConfig`: the settings of one HTTP run.  Nothing here sends or measures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from loadgen.bounds import check_bounds
from loadgen.demand.arrivals import duration_s
from loadgen.demand.mixes import Mix
from loadgen.errors import LoadError
from loadgen.net.targets import Target


@dataclass(frozen=True)
class HttpConfig:
    """The settings of one trial.  Raises LoadError if a value is out of bounds."""

    target: Target
    host: str
    """The value of the Host header."""
    mix: Mix
    connections: int = 64
    duration_s: float = 5.0
    warmup_s: float = 1.0
    rate: float | None = None
    """Scheduled requests per second; None: closed loop."""
    arrivals: str = "poisson"
    seed: int = 1
    timeout_s: float = 5.0
    slo_s: float = 0.1
    requests_per_connection: int = 0
    """Close and reopen each connection after this many requests; 0: never."""
    spin: bool = True
    """Never sleep: for a load generator with a core of its own."""
    connect_rate: float = 5000.0

    def __post_init__(self) -> None:
        check_bounds(
            self,
            (
                ("connections", 1, 1_000_000),
                ("duration_s", 0.001, 86_400),
                ("warmup_s", 0, 86_400),
                ("rate", 1e-3, 1e8),
                ("timeout_s", 0.001, 86_400),
                ("slo_s", 1e-6, 86_400),
                ("requests_per_connection", 0, 1_000_000_000),
                ("connect_rate", 1, 1e9),
            ),
        )
        if self.length_s <= self.warmup_s:
            raise LoadError(
                f"{self.arrivals} lasts {self.length_s:g} s, all of it warm-up: use a shorter "
                "--warmup, such as 0"
            )

    @property
    def open_loop(self) -> bool:
        return self.rate is not None

    @cached_property
    def length_s(self) -> float:
        """Length of the schedule, warm-up included; steps and traces define their own."""
        requested_s = self.warmup_s + self.duration_s
        return duration_s(self.arrivals, requested_s) if self.open_loop else requested_s
