"""A request that is timed: one of each batch, for admission control and `--trace`."""

from __future__ import annotations

from typing import TypeAlias

Trail: TypeAlias = list[tuple[str, int, int, int]]
"""Per stage: its name, when its handler began and ended, and the events of that batch."""


class Sample:
    """What is known of it; kept in `Request.context`, which is None for all other requests."""

    __slots__ = ("entered_ns", "trail")

    def __init__(self, entered_ns: int, trail: Trail | None = None) -> None:
        self.entered_ns = entered_ns
        """When it may have arrived, at the earliest: waiting in the kernel counts."""
        self.trail = trail
        """Its path through the stages so far, if it is traced."""
