"""What a load over time is made of: steps, each with its factor, its length and its trial.

The shapes (`swarm/shapes.py`) are plans; this file knows no Locust.  A step
whose `trial` is None is warm-up: it is sent and not counted.  Steps of one
trial are counted together: a spike is a trial of three steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.errors import LoadError


@dataclass(frozen=True)
class Step:
    """`factor` times the rate for `lasts_s` seconds."""

    factor: float
    lasts_s: float
    trial: int | None
    phase: str = "steady"


Plan = tuple[Step, ...]


def steady(duration_s: float, warmup_s: float) -> Plan:
    """One trial at the rate itself; `duration_s` may be infinite."""
    return _without_nothing(Step(1, warmup_s, None), Step(1, duration_s, 0))


def overload(loads: Sequence[float], duration_s: float, warmup_s: float) -> Plan:
    """A trial for each load, after a warm-up at that load."""
    steps = []
    for trial, factor in enumerate(loads):
        steps += [
            Step(factor, warmup_s, None, "sweep"),
            Step(factor, duration_s, trial, "sweep"),
        ]
    return _without_nothing(*steps)


def spike(factor: float, at_s: float, for_s: float, duration_s: float, warmup_s: float) -> Plan:
    """One trial in which the rate is `factor` times as high for a while."""
    if not for_s:
        raise LoadError("--spike must last above 0 s")
    if at_s + for_s > duration_s:
        raise LoadError(
            f"the spike ends at {at_s + for_s:g} s and the run at {duration_s:g} s: "
            "ask for a longer --duration or an earlier spike"
        )
    return _without_nothing(
        Step(1, warmup_s, None, "spike"),
        Step(1, at_s, 0, "spike"),
        Step(factor, for_s, 0, "spike"),
        Step(1, duration_s - at_s - for_s, 0, "spike"),
    )


def spike_duration_s(text: str) -> float:
    """How long the trial of a spike `"F,AT,FOR"` lasts if nobody says: twice its length after it,
    so that one sees how the server recovers.  Raises LoadError."""
    _, at_s, for_s = numbers("spike", text, 3)
    return at_s + 3 * for_s


def _without_nothing(*steps: Step) -> Plan:
    return tuple(step for step in steps if step.lasts_s > 0)


def step_at(plan: Plan, elapsed_s: float) -> Step | None:
    """The step that is due; None after the last."""
    for step in plan:
        if elapsed_s < step.lasts_s:
            return step
        elapsed_s -= step.lasts_s
    return None


def numbers(option: str, text: str, count: int | None = None) -> tuple[float, ...]:
    """`"0.5,1,2"` as numbers, none negative.  Raises LoadError naming the option."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    wrong = count is not None and len(found) != count
    if not found or wrong or not all(0 <= number < math.inf for number in found):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise LoadError(f"--{option} must be {wanted} with commas between them, not {text!r}")
    return found
