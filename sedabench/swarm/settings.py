"""What is asked of a swarm."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sedabench.errors import UserError


@dataclass(frozen=True)
class Swarm:
    """What is asked of a swarm; names are those of the locustfile's options."""

    target: str
    rate: float = 1000.0
    shape: str = "steady"
    duration: float = 10.0
    warmup: float = 1.0
    loads: str = "0.5,1,1.5,2"
    spike: str = "3,5,5"
    arrivals: str = "poisson"
    mix: str = ""
    connections: int = 64
    timeout: float = 5.0
    slo: float = 100.0
    seed: int = 1
    spin: bool = False
    admin: str = ""
    allow_remote: bool = False

    def arguments(self) -> list[str]:
        """As options of the locustfile."""
        found = []
        for name, value in asdict(self).items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                found += [option] if value else []
            elif value != "":
                found += [option, f"{value}"]
        return found

    @property
    def trials(self) -> int:
        return len(self.loads.split(",")) if self.shape == "overload" else 1

    @property
    def lasts_s(self) -> float:
        return self.trials * (self.warmup + self.duration)


def own_duration_s(shape: str, spike: str) -> float:
    """How long the trials of a shape count if nobody says.

    Raises:
        UserError: `spike` is no F,AT,FOR.
    """
    from loadgen.errors import LoadError
    from loadgen.swarm.plan import spike_duration_s

    if shape != "spike":
        return 10.0
    try:
        return spike_duration_s(spike)
    except LoadError as error:
        raise UserError(str(error)) from None
