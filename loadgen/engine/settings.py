"""What an engine process is told first, and how that becomes a run's configuration.

The mix of a target is opened here too, for Locust's users as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.demand.mixes import Mix, Template, load_mix, single
from loadgen.http.probe import Url, ask, probe, read_url
from loadgen.http.run import HttpConfig
from loadgen.net.targets import LoadError

PROBE_S = 5.0
"""How long the first request may take."""


@dataclass(frozen=True)
class Settings:
    """The first line of standard input."""

    target: str
    mix: str | None = None
    connections: int = 64
    timeout_s: float = 5.0
    slo_s: float = 0.1
    arrivals: str = "poisson"
    """`poisson` or `constant`; everything else is a change of rate."""
    seed: int = 1
    spin: bool = False
    allow_remote: bool = False

    def config(self) -> HttpConfig:
        """Of the run, once somebody answered there.  Raises LoadError."""
        if self.arrivals not in ("poisson", "constant"):
            raise LoadError(f"arrivals of a swarm are poisson or constant, not {self.arrivals!r}")
        url = read_url(self.target, allow_remote=self.allow_remote)
        mix = open_mix(url, self.mix)
        probe(url, mix.templates[0], max(PROBE_S, self.timeout_s))
        return HttpConfig(
            target=url.target, host=url.host, mix=mix, connections=self.connections, rate=1.0,
            timeout_s=self.timeout_s, slo_s=self.slo_s, seed=self.seed, spin=self.spin,
        )  # fmt: skip


def open_mix(url: Url, name: str | None) -> Mix:
    """The mix of that name, which may need to ask the server what there is."""

    def fetch(path: str) -> bytes:
        status, body = ask(url, Template(path, "GET", path, 1.0), PROBE_S)
        if status != 200:
            raise LoadError(f"{url.target} answers {path} with {status}: mix {name!r} needs it")
        return body

    return single(url.path) if name is None else load_mix(name, fetch)
