"""Load over time, for Locust: `Figure1Shape`, `OverloadShape`, `SpikeShape`, `SteadyShape`.

Locust's knob is the number of users.  That is right for `Figure1Shape`, where a
user is a connection.  For the others it depends on who the users are: of
`WebUser` there are more or fewer; of `EngineUser` always one a worker, and its
rate follows `factor`, which the conductor (`swarm/conductor.py`) sends to the
workers ten times a second if it changes.

In a locustfile of one's own:

    from loadgen.swarm.shapes import SpikeShape
    from loadgen.swarm.users import WebUser

With this project's locustfile, `--shape spike`.
"""

from __future__ import annotations

import logging
import math
import time
from argparse import Namespace

from locust import LoadTestShape

from loadgen.errors import LoadError
from loadgen.swarm import options as locust_options
from loadgen.swarm import plan as locust_plan
from loadgen.swarm.plan import Plan, Step

log = logging.getLogger("sedabench")

Tick = tuple[int, float]

SPAWN_RATE = 100.0
"""Users a second; engines are started at once, and Locust warns above it."""


class PlanShape(LoadTestShape):
    """A plan of steps.  Its clock starts when whoever runs it says that all are ready."""

    abstract = True
    use_common_options = True
    name = "steady"

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.engines = False
        """True: users are engines, one a worker; the conductor sets it and calls `begin`."""
        self.drained = True
        self.by_option = False
        """True: `--shape` says which plan it is, and may say another in Locust's page."""
        self._begun_s: float | None = None
        self._plan: Plan | None = None

    def reset_time(self) -> None:
        super().reset_time()  # type: ignore[no-untyped-call]
        self._plan = None
        self._begun_s = None

    def begin(self) -> None:
        if self._begun_s is None:
            self._begun_s = time.perf_counter()

    @property
    def begun(self) -> bool:
        return self._begun_s is not None

    @property
    def elapsed_s(self) -> float:
        """Since all were ready; 0 before."""
        return 0.0 if self._begun_s is None else time.perf_counter() - self._begun_s

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            options = _options(self)
            if self.by_option and options.shape in locust_options.PLANS:
                self.name = options.shape
            options.shape = self.name
            self._plan = locust_options.plan(options, self.name)
        return self._plan

    @property
    def step(self) -> Step | None:
        """What is due now; None after the end."""
        return locust_plan.step_at(self.plan, self.elapsed_s)

    def tick(self) -> Tick | None:
        assert self.runner is not None
        try:
            step = self.step
        except LoadError as error:  # nonsense from the form in Locust's page
            log.error("error: %s", error)
            return None
        if not self.engines:
            self.begin()
        if step is None and (self.drained or not self.engines):
            return None
        if self.engines:
            return max(1, getattr(self.runner, "worker_count", 1)), SPAWN_RATE
        assert step is not None
        users = _options(self).num_users or 1
        return max(1, math.ceil(users * step.factor)), SPAWN_RATE


def _options(shape: LoadTestShape) -> Namespace:
    assert shape.runner is not None
    options: Namespace | None = shape.runner.environment.parsed_options
    assert options is not None
    return options


class SteadyShape(PlanShape):
    """One rate: `--warmup` seconds, then `--duration` seconds that count."""

    abstract = False


class OverloadShape(PlanShape):
    """Each of `--loads` times the rate, for `--warmup` and then `--duration` seconds."""

    abstract = False
    name = "overload"


class SpikeShape(PlanShape):
    """The rate, and `--spike F,AT,FOR`: F times as much from AT for FOR seconds."""

    abstract = False
    name = "spike"


class Figure1Shape(LoadTestShape):
    """Connections step by step: each of `--levels` users for `--warmup` + `--duration` s."""

    abstract = False
    use_common_options = True

    def tick(self) -> Tick | None:
        options = _options(self)
        levels = locust_plan.numbers("levels", options.levels)
        lasts_s = float(options.warmup) + (float(options.duration) or 10.0)
        number = int((time.perf_counter() - self.start_time) / lasts_s)
        return (int(levels[number]), SPAWN_RATE) if number < len(levels) else None


def shape_named(name: str) -> LoadTestShape:
    """A new one; `name` is one of `locust_options.SHAPES`, without none."""
    shapes: dict[str, type[LoadTestShape]] = {
        "steady": SteadyShape,
        "overload": OverloadShape,
        "spike": SpikeShape,
        "figure1": Figure1Shape,
    }
    shape = shapes[name]()
    if isinstance(shape, PlanShape):
        shape.by_option = True
    return shape


def all_shapes() -> dict[str, LoadTestShape]:
    """For Locust's class picker."""
    shapes = (SteadyShape, OverloadShape, SpikeShape, Figure1Shape)
    return {shape.__name__: shape() for shape in shapes}
