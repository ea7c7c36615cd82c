"""`--fail-if 'p99>50ms'`: parsing a condition, and checking it against a result.

    NAME OP VALUE[UNIT]      p99>50ms   errors>0.1%   goodput<1000   bandwidth<8Gbit/s

The condition names what is bad: if it holds, the load has failed.  A figure that
the result lacks (no request was answered, so there is no p99) fails too: an
instrument that measured nothing has not shown that all is well.

Latencies are those of answered requests.  If more than 1 % of the requests were
lost (wrong, timed out, with their connection, never sent), a condition on
latency fails as well: the slowest are missing, and none of the others can be
slower than the timeout.  Rejections are not losses.  For bursts it is the share
of connections.

`invalid`, alone, fails if the result says that its numbers cannot be trusted.

`FIGURES` lists all names: where each is in a result of `load http` and of
`load burst`, and which units it takes.  Latency is from the scheduled time,
`service_...` from the send; in a burst result latency is that of the ACK.
Nothing here measures, prints or exits.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loadgen.errors import LoadError
from loadgen.names import unknown

OPERATORS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {
    ">": (operator.gt, "over"), "<": (operator.lt, "under"),
    ">=": (operator.ge, "not under"), "<=": (operator.le, "not over"),
}  # fmt: skip

# unit -> factor to the unit of the result
_TIME = {"us": 1.0, "ms": 1e3, "s": 1e6}
_RATE = {"": 1.0, "rps": 1.0}
_BANDWIDTH = {"": 1.0, "bps": 1.0, "Mbit/s": 1e6, "Gbit/s": 1e9}
_COUNT = {"": 1.0, "%": math.nan}
"""A share needs a whole: see `_share`."""
_CPU = {"": 1.0, "%": 0.01}
_INDEX = {"": 1.0}

MAX_LOST_SHARE = 0.01
"""Share of lost requests above which a percentile of the others proves nothing."""
INVALID = "invalid"

Result = Mapping[str, Any]


@dataclass(frozen=True)
class _Figure:
    """A name: its units, and the keys that lead to its value, by workload; () if it has none."""

    units: Mapping[str, float]
    http: tuple[str, ...]
    burst: tuple[str, ...] = ()
    of_answered: bool = False
    """A latency, which lost requests do not have."""

    def keys(self, workload: str) -> tuple[str, ...]:
        return self.burst if workload == "burst" else self.http


def _figures() -> dict[str, _Figure]:
    found = {}
    for name in ("p50", "p90", "p99", "p999", "max", "mean"):
        of_bursts = ("ack_latency_us", name) if name not in ("p999", "mean") else ()
        found[name] = _Figure(_TIME, ("latency_us", name), of_bursts, of_answered=True)
    for name in ("p50", "p90", "p99", "p999", "max", "mean"):
        found[f"service_{name}"] = _Figure(_TIME, ("service_latency_us", name), of_answered=True)
    for name in ("p50", "p99"):
        found[f"rejected_{name}"] = _Figure(_TIME, ("rejected_latency_us", name))
    for name in ("p50", "p99", "max"):
        found[f"send_lag_{name}"] = _Figure(_TIME, ("send_lag_us", name))
    return found | {
        "errors": _Figure(_COUNT, ("errors",), ("errors",)),
        "rejected": _Figure(_COUNT, ("rejected",)),
        "throughput": _Figure(_RATE, ("throughput_rps",)),
        "goodput": _Figure(_RATE, ("goodput_rps",)),
        "offered": _Figure(_RATE, ("offered_rps",)),
        "bandwidth": _Figure(_BANDWIDTH, (), ("bandwidth_bps",)),
        "client_cpu": _Figure(_CPU, ("client_cpu",), ("client_cpu",)),
        "fairness": _Figure(_INDEX, ("jain_fairness",), ("jain_fairness",)),
    }


FIGURES: Mapping[str, _Figure] = _figures()

_FORM = re.compile(
    r"\s*(?P<name>\w+)\s*(?P<op>[<>]=?)\s*(?P<value>\d{1,15}(\.\d{0,15})?|\.\d{1,15})\s*(?P<unit>[A-Za-z%/]*)\s*",
    re.ASCII,
)


@dataclass(frozen=True)
class Condition:
    """What must not hold; `value` is in `unit`.  `INVALID` has neither, and no operator."""

    name: str
    op: str
    value: float
    unit: str

    def why_failed(self, result: Result) -> str | None:
        """A sentence if the condition holds for `result`, which means failure; otherwise None.

        `result` is that of `load http` or `load burst` as in JSON.
        """
        if self.name == INVALID:
            reasons = "; ".join(result["invalid_reasons"])
            return None if result["valid"] else f"the result is invalid: {reasons}"
        whole = " of " + _whole(result)[0] if self.unit == "%" and _is_count(self.name) else ""
        found = self._found(result)
        if found is None:
            return f"{self.name}{whole} was not measured, so it cannot pass {self}"
        holds, words = OPERATORS[self.op]
        if not holds(found, self.value):
            return self._too_many_lost(result)
        shown = self.value if found == self.value else _short(found, self.value)
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name} is {shown:.15g}{unit}{whole}, {words} {self.value:.15g}{unit}"

    def __str__(self) -> str:
        if self.name == INVALID:
            return INVALID
        return f"{self.name}{self.op}{self.value:.15f}".rstrip("0").rstrip(".") + self.unit

    def _too_many_lost(self, result: Result) -> str | None:
        """A sentence if this is a condition on latency and too many requests have none."""
        if not FIGURES[self.name].of_answered:
            return None
        what, whole = _whole(result)
        errors = {kind: number for kind, number in result["errors"].items() if number}
        lost = sum(errors.values())
        if not whole or lost <= MAX_LOST_SHARE * whole:
            return None
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in errors.items())
        return (
            f"{self.name} is of the rest only: {100 * lost / whole:.1f} % of {what} were lost "
            f"({kinds}), over {100 * MAX_LOST_SHARE:.0f} %, so it cannot pass {self}"
        )

    def _found(self, result: Result) -> float | None:
        """The figure in `unit`; None if the result lacks it."""
        found: Any = result
        for key in FIGURES[self.name].keys(result["workload"]) or (None,):
            found = found.get(key) if isinstance(found, Mapping) else None
        if isinstance(found, Mapping):  # errors, by kind
            found = sum(found.values())
        if found is None:
            return None
        if self.unit == "%" and _is_count(self.name):
            _, whole = _whole(result)
            return 100 * found / whole if whole else None
        return float(found) / FIGURES[self.name].units[self.unit]


def parse_condition(text: str, workload: str | None = None) -> Condition:
    """Parse a condition such as `p99>50ms`.

    With `workload` ("http", "burst"), a figure that this workload never has is
    refused too, before anything is sent.

    Raises:
        LoadError: the form, the name or the unit is unknown.
    """
    if text.strip() == INVALID:
        return Condition(INVALID, "", 0.0, "")
    form = _FORM.fullmatch(text)
    if form is None:
        raise LoadError(
            f"--fail-if {text!r} is not NAME, one of > < >= <=, and a number with its unit; "
            "write --fail-if 'p99>50ms' or --fail-if invalid"
        )
    name, unit = form["name"], form["unit"]
    known = [n for n, figure in FIGURES.items() if workload is None or figure.keys(workload)]
    if name not in known:
        of = f" of {workload}" if workload and name in FIGURES else ""
        if name == INVALID:
            raise LoadError(f"--fail-if {text!r}: a result is invalid or not; give invalid alone")
        raise unknown(f"figure{of} in --fail-if", name, known)
    units = FIGURES[name].units
    if unit not in units:
        fitting = ", ".join(u or "no unit" for u in units)
        what = f"unit {unit!r} does not fit {name}" if unit else f"{name} needs a unit"
        raise LoadError(f"--fail-if {text!r}: {what}; give {fitting}")
    if not unit:
        unit = next((plain for plain in ("rps", "bps") if plain in units), "")
    return Condition(name, form["op"], float(form["value"]), unit)


def _is_count(name: str) -> bool:
    return FIGURES[name].units is _COUNT


def _whole(result: Result) -> tuple[str, float | None]:
    """100 % of errors and rejections: requests scheduled; for bursts, connections."""
    if result["workload"] == "burst":
        return "connections", result.get("connections")
    return "requests scheduled", result.get("scheduled")


def _short(found: float, limit: float) -> float:
    """`found` in as few digits, at least four, as keep it on the same side of `limit`."""
    for digits in range(4, 17):
        short = float(f"{found:.{digits}g}")
        if (short > limit) == (found > limit) and (short < limit) == (found < limit):
            return short
    return found
