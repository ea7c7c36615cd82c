"""From the records of an HTTP run to its result: accounts, rates, percentiles, validity.

Pure functions of arrays.  Two kinds of figures, and the difference matters when
a server is overloaded:

- The account is of the requests *scheduled* in the window.  Every one has one
  outcome, so `scheduled` = `answered` + `rejected` + the errors, always.
  Times are theirs, too.
- Rates are of what *happened* in the window: `throughput_rps` counts replies
  that were whole and right and came in it, `goodput_rps` those of them that
  came within the SLO.  Otherwise a server that answers a window's requests long
  after it would be credited with them.

Percentiles are exact, by nearest rank: each is a latency that occurred.

Ten million requests are 390 MB of records, so nothing here copies all columns of a
part of them: the window is a slice of what is sorted by schedule, the rest is done with
one column and one mask at a time, and what needs a figure for each class or each
tenth of a second sorts once rather than looks once for each (`_percentiles_by`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.http.config import HttpConfig
from loadgen.http.records import (
    ANSWERED,
    CONNECTION,
    NEVER_SENT,
    OUTCOMES,
    REJECTED,
    TIMEOUT,
    WRONG,
    Facts,
    Raw,
    Records,
)
from loadgen.recorder import jain_index

BIN_NS = 100_000_000
"""Of the timeline."""

LATE_NS = 1_000_000
"""Send lag (99th percentile) above which the generator was the limit, whatever the latency."""

SATURATED = 0.95

PAUSED_SHARE = 0.01
"""Of the window, without the generator, above which the 99th percentile may be its own."""

LOST_SHARE = 0.01
"""Of the requests, timed out or never sent, above which the percentiles flatter the server."""

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HttpResult:
    """What was measured: `summary` is ready for `json.dumps`, `records` are all requests."""

    summary: dict[str, Any]
    records: Records
    facts: Facts

    def to_json(self, *, timeline: bool = False) -> dict[str, Any]:
        """The timeline and the quantiles of the whole distribution only if asked for."""
        if timeline:
            return self.summary
        return {k: v for k, v in self.summary.items() if k not in ("timeline", "latency_quantiles")}


def summarise(config: HttpConfig, raws: list[Raw]) -> HttpResult:
    """The result of a run by one process or several."""
    classes = [template.name for template in config.mix.templates]
    return summarise_records(_facts(config, raws), _together(raws), classes)


def summarise_records(facts: Facts, records: Records, classes: Sequence[str]) -> HttpResult:
    """The same from what a file of samples keeps; `classes`: of each template, by its number."""
    records = records.in_order()
    begin_ns = facts.start_ns + facts.window_begin_ns
    end_ns = facts.start_ns + facts.window_end_ns
    window_s = facts.window_s
    first, last = np.searchsorted(records.scheduled_ns, (begin_ns, end_ns))
    window = records.part(slice(int(first), int(last)))
    counts = np.bincount(window.outcome, minlength=len(OUTCOMES))
    sent = window.sent_ns > 0
    right = window.outcome == ANSWERED
    shed = window.outcome == REJECTED
    latency_ns = (window.done_ns - window.scheduled_ns)[right]
    by_class = _by_class(classes, window, latency_ns)
    latency_ns.sort()
    lag = percentiles_us(window.lag_ns[sent] if facts.mode == "open" else latency_ns[:0])
    latency = percentiles_us(latency_ns)

    came = (records.done_ns >= begin_ns) & (records.done_ns < end_ns)
    came &= records.outcome == ANSWERED
    in_time = (records.done_ns - records.scheduled_ns) <= round(facts.slo_ms * 1e6)
    shares = np.bincount(records.connection[came], minlength=facts.connections)
    summary: dict[str, Any] = {
        "workload": "http",
        "mode": facts.mode,
        "target": facts.target,
        "mix": facts.mix,
        "arrivals": facts.arrivals,
        "rate": facts.rate,
        "seed": facts.seed,
        "connections": facts.connections,
        "connected": facts.connected,
        "processes": facts.processes,
        "duration_s": window_s,
        "warmup_s": facts.warmup_s,
        "timeout_s": facts.timeout_s,
        "slo_ms": facts.slo_ms,
        "start_ns": facts.start_ns,
        "offered_rps": len(window) / window_s,
        "scheduled": len(window),
        "sent": int(sent.sum()),
        "answered": int(counts[ANSWERED]),
        "rejected": int(counts[REJECTED]),
        "errors": {
            OUTCOMES[which]: int(counts[which])
            for which in (WRONG, TIMEOUT, CONNECTION, NEVER_SENT)
        },
        "error_kinds": facts.error_kinds,
        "reconnects": facts.reconnects,
        "throughput_rps": int(came.sum()) / window_s,
        "goodput_rps": int((came & in_time).sum()) / window_s,
        "latency_us": latency,
        "service_latency_us": percentiles_us((window.done_ns - window.sent_ns)[right]),
        "rejected_latency_us": percentiles_us(window.done_ns[shed] - window.scheduled_ns[shed]),
        "send_lag_us": {name: lag[name] for name in ("p50", "p99", "max")},
        "jain_fairness": jain_index(shares.tolist()),
        "client_cpu": facts.cpu_s / window_s,
        "client_busy": facts.busy,
    }
    reasons = _why_invalid(facts, summary)
    summary |= {
        "valid": not reasons,
        "invalid_reasons": reasons,
        "warnings": _warnings(facts, summary),
        "by_class": by_class,
        "timeline": _timeline(facts, records),
        "latency_quantiles": _quantiles(latency_ns),
    }
    return HttpResult(summary, records, facts)


def _facts(config: HttpConfig, raws: list[Raw]) -> Facts:
    kinds: Counter[str] = Counter()
    for raw in raws:
        kinds.update(raw.error_kinds)
    return Facts(
        target=str(config.target),
        mix=config.mix.name,
        mode="open" if config.open_loop else "closed",
        arrivals=config.arrivals if config.open_loop else None,
        rate=None if config.arrivals.startswith("trace:") else config.rate,
        seed=config.seed,
        connections=config.connections,
        connected=sum(raw.connected for raw in raws),
        processes=len(raws),
        warmup_s=config.warmup_s,
        timeout_s=config.timeout_s,
        slo_ms=config.slo_s * 1e3,
        start_ns=raws[0].start_ns,
        window_begin_ns=round(config.warmup_s * 1e9),
        window_end_ns=round(config.length_s * 1e9),
        error_kinds=dict(kinds),
        reconnects=sum(raw.reconnects for raw in raws),
        cpu_s=sum(raw.cpu_ns for raw in raws) / 1e9,
        busy=max(raw.busy for raw in raws),
        own_unsent=sum(raw.own_unsent for raw in raws),
        first_wrong=next((raw.first_wrong for raw in raws if raw.first_wrong), ""),
        paused_s=max(raw.paused_ns for raw in raws) / 1e9,
    )


def _together(raws: list[Raw]) -> Records:
    if len(raws) == 1:
        return raws[0].records
    parts, first = [], 0
    for raw in raws:
        numbers = raw.records.connection
        parts.append(replace(raw.records, connection=np.where(numbers < 0, -1, numbers + first)))
        first += max(raw.connected, int(numbers.max(initial=-1)) + 1)
    return Records.together(parts)


def percentiles_us(values_ns: Times) -> dict[str, float | None]:
    """p50, p90, p99, p999, max and mean in microseconds; None each without a value."""
    names = ("p50", "p90", "p99", "p999", "max", "mean")
    count = len(values_ns)
    if not count:
        return dict.fromkeys(names)
    per_mille = (500, 900, 990, 999, 1000)
    ranks = [-(-count * share // 1000) - 1 for share in per_mille]
    ordered = np.partition(values_ns, sorted(set(ranks)))
    found = [float(ordered[rank]) / 1e3 for rank in ranks]
    return dict(zip(names, [*found, float(values_ns.mean()) / 1e3], strict=True))


def _percentiles_by(
    group: npt.NDArray[np.integer[Any]], values_ns: Times, groups: int
) -> list[dict[str, float | None]]:
    """`percentiles_us` of the values of each group 0 to `groups` - 1, with one sort for all."""
    if groups == 1:
        return [percentiles_us(values_ns)]
    # numpy sorts 16 bits by radix; bins of time, where there are more, come nearly sorted.
    narrow = group.astype(np.uint16 if groups <= 1 << 16 else np.int32)
    edges = np.concatenate(([0], np.cumsum(np.bincount(narrow, minlength=groups))))
    ordered = values_ns[np.argsort(narrow, kind="stable")]
    return [percentiles_us(ordered[first:last]) for first, last in itertools.pairwise(edges)]


def _quantiles(ordered_ns: Times, steps: int = 200) -> dict[str, list[float]]:
    """The whole distribution of latency, dense in its tail: 1 - q falls by equal factors to 1/n."""
    count = len(ordered_ns)
    if not count:
        return {"q": [], "latency_us": []}
    above = np.geomspace(1.0, 1.0 / count, steps)
    ranks = np.unique(np.clip(np.ceil((1 - above) * count).astype(np.int64), 1, count))
    return {
        "q": [float(rank) / count for rank in ranks],
        "latency_us": [float(value) / 1e3 for value in ordered_ns[ranks - 1]],
    }


def _by_class(
    classes: Sequence[str], window: Records, latency_ns: Times
) -> dict[str, dict[str, float | None]]:
    """`latency_ns`: of those of the window that were answered, in their order."""
    names = sorted(set(classes))
    number_of = {name: number for number, name in enumerate(names)}
    class_of = np.array([number_of[name] for name in classes], np.uint16)[window.template]
    scheduled, answered, rejected = (
        np.bincount(class_of if which is None else class_of[which], minlength=len(names))
        for which in (None, window.outcome == ANSWERED, window.outcome == REJECTED)
    )
    latencies = _percentiles_by(class_of[window.outcome == ANSWERED], latency_ns, len(names))
    return {
        name: {
            "scheduled": int(scheduled[number]),
            "answered": int(answered[number]),
            "rejected": int(rejected[number]),
            "p50_us": latencies[number]["p50"],
            "p99_us": latencies[number]["p99"],
        }
        for number, name in enumerate(names)
    }


def _timeline(facts: Facts, records: Records) -> dict[str, Any]:
    """What happened in each tenth of a second, warm-up and what came after the window included.

    Every request is in it twice: as offered when it was due, and as what became of it when that
    was known.  One that was never sent has no other time than the one at which it was due.
    """
    last_ns = max(
        int(records.done_ns.max(initial=0)) + 1,
        int(records.scheduled_ns.max(initial=0)) + 1,
        facts.start_ns + facts.window_end_ns,
    )
    bins = -(-(last_ns - facts.start_ns) // BIN_NS)

    def bin_of(times_ns: Times) -> Times:
        return (times_ns - facts.start_ns) // BIN_NS

    def count(numbers: Times) -> list[int]:
        found: list[int] = np.bincount(numbers, minlength=bins).tolist()
        return found

    right = records.outcome == ANSWERED
    unsent = records.outcome == NEVER_SENT
    failed_ns = np.where(unsent, records.scheduled_ns, records.done_ns)[records.outcome > REJECTED]
    answered = bin_of(records.done_ns[right])
    latency_ns = (records.done_ns - records.scheduled_ns)[right]
    in_time = latency_ns <= round(facts.slo_ms * 1e6)
    in_bins = _percentiles_by(answered, latency_ns, bins)
    return {
        "bin_s": BIN_NS / 1e9,
        "t_s": [number * BIN_NS / 1e9 for number in range(bins)],
        "offered": count(bin_of(records.scheduled_ns)),
        "answered": count(answered),
        "good": count(answered[in_time]),
        "rejected": count(bin_of(records.done_ns[records.outcome == REJECTED])),
        "errors": count(bin_of(failed_ns)),
        "never_sent": count(bin_of(records.scheduled_ns[unsent])),
        "p50_us": [found["p50"] for found in in_bins],
        "p99_us": [found["p99"] for found in in_bins],
    }


def _why_invalid(facts: Facts, summary: dict[str, Any]) -> list[str]:
    """Was it the generator that was measured?"""
    reasons = []
    if facts.connected < facts.connections:
        reasons.append(f"{facts.connected} of {facts.connections} connections came up")
    if facts.busy > SATURATED:
        reasons.append(
            f"the load generator's core was saturated ({facts.busy:.0%}): "
            "what it measured is a lower bound for the server"
        )
    lag_us, median_us = summary["send_lag_us"]["p99"], summary["latency_us"]["p50"]
    if lag_us is not None:
        if lag_us > LATE_NS / 1e3:
            reasons.append(f"requests were sent late: 99th percentile {lag_us / 1e3:.2f} ms")
        elif median_us is not None and lag_us > median_us / 10:
            reasons.append(
                f"requests were sent late: 99th percentile {lag_us:.0f} us, "
                f"over a tenth of the median latency ({median_us:.0f} us)"
            )
    if facts.paused_s > PAUSED_SHARE * facts.window_s:
        reasons.append(
            f"the load generator stood still: for {facts.paused_s * 1e3:.0f} ms of the window, "
            "and the latency of those is its own"
        )
    if facts.own_unsent > 0.01 * summary["scheduled"]:
        reasons.append(f"{facts.own_unsent} requests were never sent though a connection was free")
    if not summary["scheduled"]:
        reasons.append("no request was due in the window")
    return reasons


def _warnings(facts: Facts, summary: dict[str, Any]) -> list[str]:
    found = []
    errors, scheduled = summary["errors"], summary["scheduled"]
    if facts.first_wrong:
        found.append(f"a reply was wrong; the first: {facts.first_wrong}")
    if not summary["answered"]:
        found.append("no request was answered as expected: there are no latencies")
    elif summary["answered"] < 1000:
        found.append(f"percentiles rest on {summary['answered']} answers only")
    lost = errors["timeout"] + errors["never_sent"]
    if summary["answered"] and lost > LOST_SHARE * scheduled:
        found.append(
            f"{lost / scheduled:.1%} of the requests timed out or were never sent: the latencies "
            f"are of those that were answered, within the time-out of {facts.timeout_s:g} s"
        )
    if errors["connection"]:
        found.append(
            f"{errors['connection']} requests were lost with their connections "
            f"({_lost_with_connections(facts)})"
        )
    return found


def _lost_with_connections(facts: Facts) -> str:
    """How, as far as it is known: kinds are counted over the whole run."""
    others = ("timeout", "bad_reply", "wrong_length", "unexpected_bytes")
    kinds = ", ".join(
        f"{kind} {number}"
        for kind, number in facts.error_kinds.items()
        if kind not in others and not kind.startswith(("status_", "connect_"))
    )
    return f"in the whole run, warm-up included: {kinds}"
