"""`Ledger`: the arrays in which the hot loops note what happens to each request.

A finite run has one element per request.  The engine (`loadgen/engine`), which
runs without an end, uses rings: request `i` is element `i & mask`.  A closed
loop appends as it sends.  Every request starts out as `never_sent`, so none can
go missing from the account.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from loadgen.http.records import NEVER_SENT

UNBOUNDED = (1 << 62) - 1
"""Mask of a ledger with one element per request."""


@dataclass(slots=True)
class Ledger:
    """Times are ns of the monotonic clock."""

    scheduled: array[int]
    sent: array[int]
    done: array[int]
    lag: array[int]
    connection: array[int]
    outcome: bytearray
    choice: array[int]
    """The template of each request, drawn beforehand; element `i & choice_mask`."""
    choice_mask: int
    mask: int = UNBOUNDED
    size: array[int] | None = None
    """Bytes of each reply from the end of its head on, head terminator included; None: not kept."""
    own_unsent: int = 0
    """Requests never sent although a connection was free in time."""


def finite(scheduled: array[int], choice: array[int]) -> Ledger:
    """For an open loop whose whole schedule is known."""
    count = len(scheduled)
    return Ledger(
        scheduled, _zeros(count), _zeros(count), _zeros(count), _nobody(count),
        bytearray([NEVER_SENT]) * count, choice, UNBOUNDED,
    )  # fmt: skip


def growing(choice: array[int]) -> Ledger:
    """For a closed loop: a request is scheduled when it is sent.  `len(choice)` is 2**n."""
    sent = _zeros(0)
    return Ledger(
        sent, sent, _zeros(0), _zeros(0), _nobody(0), bytearray(), choice, len(choice) - 1
    )


def ring(slots: int, choice: array[int], outcome: int) -> Ledger:
    """For an open loop without an end; `slots` and `len(choice)` are powers of two."""
    return Ledger(
        _zeros(slots), _zeros(slots), _zeros(slots), _zeros(slots), _nobody(slots),
        bytearray([outcome]) * slots, choice, len(choice) - 1, slots - 1, _zeros(slots),
    )  # fmt: skip


def _zeros(count: int) -> array[int]:
    return array("q", bytes(8 * count))


def _nobody(count: int) -> array[int]:
    return array("i", b"\xff" * (4 * count))
