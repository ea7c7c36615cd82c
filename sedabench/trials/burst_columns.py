"""What a burst trial keeps: its columns, how they come from the result, and the check.

The window belongs to the load generator: its counts are the result.  The
server's counts are the check.  Its two snapshots never fall exactly on the
window's ends (a process with thousands of threads may take a second to
answer), so each carries the server's own clock, and the client's bytes are
interpolated at those two instants: both sides are asked about the same
interval.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from sedabench.results.folder import Column, Value
from sedabench.trials.columns import (
    CONDITIONS,
    COUNTS_AGREE,
    MACHINE,
    PROCESSES,
    SERVER,
    SWITCHES,
    TRIAL,
    kinds,
)

TOLERANCE = 0.02
"""How far server and client may disagree about the bytes of one interval."""

COLUMNS: tuple[Column, ...] = (
    *TRIAL,
    *SERVER,
    *CONDITIONS,
    Column("bandwidth_bps", "float", "bit/s", "bytes * 8 / duration_s"),
    Column("bytes", "int", "B", "payload that the client handed to its sockets in the window"),
    Column("bursts", "int", "", "bursts acknowledged in the window"),
    Column("bursts_per_s", "float", "1/s", "bursts / duration_s"),
    Column("ack_p50_us", "float", "us", "median time from a burst's first byte to its ACK"),
    Column("ack_p90_us", "float", "us", "90th percentile of the same"),
    Column("ack_p99_us", "float", "us", "99th percentile of the same"),
    Column("ack_max_us", "float", "us", "largest of the same"),
    Column("ack_samples", "int", "", "bursts behind these percentiles; none: no percentiles"),
    Column("jain_fairness", "float", "", "Jain's index over the connections' bytes, 1/n to 1"),
    Column("client_errors", "str", "", "the client's errors, as kind=count"),
    *PROCESSES,
    *SWITCHES,
    Column("server_bytes", "int", "B", "bytes received between the server's two snapshots"),
    Column(COUNTS_AGREE, "float", "", "server_bytes / client's bytes of that time - 1"),
    *MACHINE,
)  # fmt: skip


def of_result(result: Mapping[str, Any]) -> dict[str, Value]:
    """The columns that come from what the load generator said."""
    names = (
        "connected", "duration_s", "bandwidth_bps", "bytes", "bursts", "bursts_per_s",
        "jain_fairness", "client_cpu",
    )  # fmt: skip
    latency = result.get("ack_latency_us") or {}
    return {
        **{name: result.get(name) for name in names},
        **{f"ack_{name}_us": latency.get(name) for name in ("p50", "p90", "p99", "max")},
        "ack_samples": latency.get("samples"),
        "client_errors": kinds(result.get("errors")),
    }


def of_snapshots(
    begin: Mapping[str, Any], end: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[dict[str, Value], str | None]:
    """The columns that need the server's two snapshots, and what about them spoils the trial."""
    row: dict[str, Value] = {"server_bytes": end["bytes_in"] - begin["bytes_in"]}
    reason = None
    if (timeline := result.get("timeline")) is not None:
        row[COUNTS_AGREE], reason = compare_counts(begin, end, timeline)
    return row, reason


def to_keep(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the raw record keeps of a result: the timeline has served its purpose."""
    return {name: value for name, value in result.items() if name != "timeline"}


def compare_counts(
    begin: Mapping[str, Any], end: Mapping[str, Any], timeline: Mapping[str, Sequence[int]]
) -> tuple[float | None, str | None]:
    """Server's bytes between two snapshots, beside the client's in the same interval.

    Returns the relative disagreement and, if it spoils the trial, the reason.
    """
    times, counts = timeline["t_ns"], timeline["bytes"]
    first, last = begin["time_ns"], end["time_ns"]
    if not times or first < times[0] or last > times[-1] or last <= first:
        late_ms = (last - times[-1]) / 1e6 if times else 0.0
        return None, (
            f"counts not comparable: the server's snapshot came {late_ms:.0f} ms after the "
            "client's last count"
            if late_ms > 0
            else "counts not comparable: the server's snapshots are outside the client's counts"
        )
    sent = _interpolate(times, counts, last) - _interpolate(times, counts, first)
    received = end["bytes_in"] - begin["bytes_in"]
    if sent <= 0:
        return None, "the client sent nothing between the server's snapshots"
    disagreement = received / sent - 1
    if abs(disagreement) > TOLERANCE:
        return disagreement, (
            f"counts disagree: the server received {abs(disagreement):.1%} "
            f"{'more' if disagreement > 0 else 'less'} than the client sent"
        )
    return disagreement, None


def _interpolate(times: Sequence[int], values: Sequence[int], at: int) -> float:
    right = bisect_left(times, at)
    if times[right] == at:
        return values[right]
    left = right - 1
    share = (at - times[left]) / (times[right] - times[left])
    return values[left] + share * (values[right] - values[left])
