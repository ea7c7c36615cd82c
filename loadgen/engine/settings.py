"""The first message to an engine process, and how it becomes an `HttpConfig`."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.errors import LoadError
from loadgen.http.config import HttpConfig
from loadgen.http.probe import open_mix, probe, read_url


@dataclass(frozen=True)
class Settings:
    """The first line of standard input, as JSON."""

    target: str
    mix: str | None = None
    connections: int = 64
    timeout_s: float = 5.0
    slo_s: float = 0.1
    arrivals: str = "poisson"
    """`poisson` or `constant`; steps and spikes are changes of the rate."""
    seed: int = 1
    spin: bool = False
    allow_remote: bool = False

    def config(self) -> HttpConfig:
        """The configuration of the run; probes the target.  Raises LoadError."""
        if self.arrivals not in ("poisson", "constant"):
            raise LoadError(f"arrivals of a swarm are poisson or constant, not {self.arrivals!r}")
        url = read_url(self.target, allow_remote=self.allow_remote)
        mix = open_mix(url, self.mix)
        probe(url, mix.templates[0], self.timeout_s)
        return HttpConfig(
            target=url.target, host=url.host, mix=mix, connections=self.connections, rate=1.0,
            timeout_s=self.timeout_s, slo_s=self.slo_s, seed=self.seed, spin=self.spin,
        )  # fmt: skip
