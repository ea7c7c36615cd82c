"""Checks that each number of a configuration is within its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable

from loadgen.errors import LoadError


def check_bounds(config: object, bounds: Iterable[tuple[str, float, float]]) -> None:
    """Check each field (name, minimum, maximum); None means "not set" and is allowed.

    Raises LoadError naming the option: field `slo_s` is `--slo`, which is in ms.
    """
    for name, low, high in bounds:
        value = getattr(config, name)
        if value is None or (math.isfinite(value) and low <= value <= high):
            continue
        if name == "slo_s":
            raise LoadError(
                f"--slo must be from {low * 1e3:.10g} to {high * 1e3:.10g} ms, not {value * 1e3:g}"
            )
        option = name.removesuffix("_s").replace("_", "-")
        raise LoadError(f"--{option} must be from {low:g} to {high:g}, not {value:g}")
