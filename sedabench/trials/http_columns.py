"""What an HTTP trial keeps: its columns, how they come from the result, and the check.

The server's counts are the check, as for bursts, but two things are looser.
The client's counts come in bins of 100 ms, so at the server's two instants
they are known within bounds only.  And a reply that the server made may have
no reader any more: its client gave up, perhaps long before, and counted a
time-out instead.  A trial is spoiled by what neither can explain.  Under
overload a server may answer /stats seconds late; then the interval is another
one than the window, for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import ceil, floor
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
)

TOLERANCE = 0.02
"""How far server and client may disagree beyond what the bins leave open."""
A_FEW = 10
"""Replies on their way at a snapshot that nobody need explain."""

COLUMNS: tuple[Column, ...] = (
    *TRIAL,
    Column("phase", "str", "", "capacity (closed loop), sweep (open loop) or spike"),
    *SERVER,
    Column("workload", "str", "", "what was asked for"),
    Column("load", "float", "", "offered load over the run's capacity; of a spike its peak"),
    Column("offered_rps", "float", "1/s", "requests scheduled in the window / duration_s"),
    *CONDITIONS,
    Column("scheduled", "int", "", "requests whose scheduled time is in the window"),
    Column("sent", "int", "", "of these, sent"),
    Column("answered", "int", "", "of these, answered as expected: status and length"),
    Column("rejected", "int", "", "of these, answered by a 503"),
    Column("wrong", "int", "", "of these, answered by something else"),
    Column("timeouts", "int", "", "of these, sent and not answered in time"),
    Column("connection_errors", "int", "", "of these, lost with their connection"),
    Column("never_sent", "int", "", "of these, without a free connection until their time was over"),  # noqa: E501
    Column("throughput_rps", "float", "1/s", "right replies that came in the window, due whenever / duration_s"),  # noqa: E501
    Column("goodput_rps", "float", "1/s", "those of them within the SLO of their scheduled time / duration_s"),  # noqa: E501
    Column("latency_p50_us", "float", "us", "median time from the scheduled time to the answer"),
    Column("latency_p90_us", "float", "us", "90th percentile of the same"),
    Column("latency_p99_us", "float", "us", "99th percentile of the same"),
    Column("latency_p999_us", "float", "us", "99.9th percentile of the same"),
    Column("latency_max_us", "float", "us", "largest of the same"),
    Column("latency_mean_us", "float", "us", "mean of the same"),
    Column("service_p50_us", "float", "us", "median time from the send to the answer"),
    Column("service_p99_us", "float", "us", "99th percentile of the same"),
    Column("rejected_p50_us", "float", "us", "median time from the scheduled time to a 503"),
    Column("send_lag_p50_us", "float", "us", "median time by which the generator sent too late"),
    Column("send_lag_p99_us", "float", "us", "99th percentile of the same"),
    Column("send_lag_max_us", "float", "us", "largest of the same"),
    Column("jain_fairness", "float", "", "Jain's index over each connection's right replies in the window, 1/n to 1"),  # noqa: E501
    *PROCESSES,
    *SWITCHES,
    Column("server_requests", "int", "", "replies of the server between its two snapshots"),
    Column(COUNTS_AGREE, "float", "", "server_requests / client's replies of that time - 1"),
    *MACHINE,
)  # fmt: skip

_PERCENTILES = ("p50", "p90", "p99", "p999", "max", "mean")


def of_result(result: Mapping[str, Any]) -> dict[str, Value]:
    """The columns that come from what the load generator said."""
    names = (
        "connected", "duration_s", "offered_rps", "scheduled", "sent", "answered", "rejected",
        "throughput_rps", "goodput_rps", "jain_fairness", "client_cpu",
    )  # fmt: skip
    row: dict[str, Value] = {name: result.get(name) for name in names}
    errors = result.get("errors") or {}
    for column, kind in (
        ("wrong", "wrong"), ("timeouts", "timeout"), ("connection_errors", "connection"),
        ("never_sent", "never_sent"),
    ):  # fmt: skip
        row[column] = errors.get(kind, 0) if result else None
    for prefix, source, wanted in (
        ("latency", "latency_us", _PERCENTILES),
        ("service", "service_latency_us", ("p50", "p99")),
        ("rejected", "rejected_latency_us", ("p50",)),
        ("send_lag", "send_lag_us", ("p50", "p99", "max")),
    ):
        found = result.get(source) or {}
        row.update({f"{prefix}_{name}_us": found.get(name) for name in wanted})
    if result.get("mode") == "closed":
        row["offered_rps"] = None
    return row


def of_snapshots(
    begin: Mapping[str, Any], end: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[dict[str, Value], str | None]:
    """The columns that need the server's two snapshots, and what about them spoils the trial."""
    if "replies" not in begin or "replies" not in end:
        return {}, None
    row: dict[str, Value] = {"server_requests": end["replies"] - begin["replies"]}
    reason = None
    if result.get("timeline") and result.get("start_ns") is not None:
        row[COUNTS_AGREE], reason = compare_counts(begin, end, result)
    return row, reason


def to_keep(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the raw record keeps of a result: all of it."""
    return result


def compare_counts(
    begin: Mapping[str, Any], end: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[float | None, str | None]:
    """Server's replies between two snapshots, beside the client's in the same interval.

    Returns the relative disagreement (interpolated within the client's bins;
    None when the client had no reply) and, if it spoils the trial, the reason.
    Between the two: whole bins inside the interval are the fewest replies that
    the client can have had in it, whole bins that touch it the most.
    """
    timeline, start_ns = result["timeline"], result["start_ns"]
    bin_ns = timeline["bin_s"] * 1e9
    first, last = ((edge["time_ns"] - start_ns) / bin_ns for edge in (begin, end))
    made = end["replies"] - begin["replies"]
    answers = [sum(counts) for counts in zip(timeline["answered"], timeline["rejected"],
                                             strict=True)]  # fmt: skip
    had = _Counts(answers)
    unsent = timeline.get("never_sent") or [0] * len(answers)  # an older run's errors have none
    lost = _Counts([n - never for n, never in zip(timeline["errors"], unsent, strict=True)])
    seen = had.at(last) - had.at(first)
    least = had.at(floor(last)) - had.at(ceil(first))
    most = had.at(ceil(last)) - had.at(floor(first))
    unread = lost.at(ceil(last))
    disagreement = made / seen - 1 if seen > 0 else None
    margin = TOLERANCE * made + A_FEW
    if made < least - margin:
        return disagreement, (
            f"counts disagree: the server made {made} replies and the client had {least:.0f}"
        )
    if made > most + unread + margin:
        return disagreement, (
            f"counts disagree: the server made {made} replies and the client had {most:.0f}"
            + (f" and had given up {unread:.0f}" if unread else "")
        )
    return disagreement, None


class _Counts:
    """Counts a bin as a running total that can be asked for between bins."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._totals = [0, *accumulate(counts)]

    def at(self, bins: float) -> float:
        """The total after so many bins; nothing happened outside of them."""
        bins = min(max(bins, 0.0), len(self._totals) - 1.0)
        whole = int(bins)
        if whole == bins:
            return self._totals[whole]
        before, after = self._totals[whole], self._totals[whole + 1]
        return before + (bins - whole) * (after - before)
