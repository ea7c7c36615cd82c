"""From the records of an HTTP run to its result: accounts, rates, percentiles, validity.

Pure functions of arrays.  Two kinds of figures, and the difference matters when
a server is overloaded:

- The account is of the requests *scheduled* in the window.  Every one has one
  outcome, so `scheduled` = `answered` + `rejected` + the errors, always.
  Latencies are theirs, too.
- Rates are of what *happened* in the window: `throughput_rps` counts replies
  that were whole and right and came in it, `goodput_rps` those of them that
  came within the SLO.  Otherwise a server that answers a window's requests long
  after it would be credited with them.

Percentiles are exact, by nearest rank: each is a latency that occurred.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.http_run import (
    ANSWERED,
    CONNECTION,
    NEVER_SENT,
    OUTCOMES,
    REJECTED,
    TIMEOUT,
    WRONG,
    HttpConfig,
    Raw,
    Records,
)

BIN_NS = 100_000_000
"""Of the timeline."""

LATE_NS = 1_000_000
"""Send lag (99th percentile) above which the generator was the limit, whatever the latency."""

SATURATED = 0.95

Latencies = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HttpResult:
    """What was measured: `summary` is ready for `json.dumps`, `records` are all requests."""

    summary: dict[str, Any]
    records: Records
    start_ns: int

    def to_json(self, *, timeline: bool = False) -> dict[str, Any]:
        """The timeline and the quantiles of the whole distribution only if asked for."""
        if timeline:
            return self.summary
        return {k: v for k, v in self.summary.items() if k not in ("timeline", "latency_quantiles")}


def summarise(config: HttpConfig, raws: list[Raw]) -> HttpResult:
    """The result of a run by one process or several."""
    start_ns = raws[0].start_ns
    everything = _together(raws)
    begin_ns = start_ns + round(config.warmup_s * 1e9)
    end_ns = start_ns + round(config.length_s * 1e9)
    window_s = (end_ns - begin_ns) / 1e9
    at = everything.scheduled_ns
    window = everything.part((at >= begin_ns) & (at < end_ns))
    counts = np.bincount(window.outcome, minlength=len(OUTCOMES))
    right = window.part(window.outcome == ANSWERED)
    shed = window.part(window.outcome == REJECTED)
    latency_ns = right.done_ns - right.scheduled_ns
    lag_ns = window.lag_ns[window.sent_ns > 0]
    done = everything.part((everything.done_ns >= begin_ns) & (everything.done_ns < end_ns))
    done = done.part(done.outcome == ANSWERED)
    good = int(((done.done_ns - done.scheduled_ns) <= config.slo_s * 1e9).sum())
    kinds: dict[str, int] = {}
    for raw in raws:
        for kind, number in raw.error_kinds.items():
            kinds[kind] = kinds.get(kind, 0) + number
    first_wrong = next((raw.first_wrong for raw in raws if raw.first_wrong), "")
    latency = percentiles_us(latency_ns)
    lag = percentiles_us(lag_ns)
    busy = max(raw.busy for raw in raws)
    connected = sum(raw.connected for raw in raws)
    summary: dict[str, Any] = {
        "workload": "http",
        "mode": "open" if config.open_loop else "closed",
        "target": str(config.target),
        "mix": config.mix.name,
        "arrivals": config.arrivals if config.open_loop else None,
        "rate": config.rate,
        "seed": config.seed,
        "connections": config.connections,
        "connected": connected,
        "processes": len(raws),
        "duration_s": window_s,
        "warmup_s": config.warmup_s,
        "timeout_s": config.timeout_s,
        "slo_ms": config.slo_s * 1e3,
        "start_ns": start_ns,
        "offered_rps": len(window) / window_s,
        "scheduled": len(window),
        "sent": int((window.sent_ns > 0).sum()),
        "answered": int(counts[ANSWERED]),
        "rejected": int(counts[REJECTED]),
        "errors": {
            OUTCOMES[which]: int(counts[which])
            for which in (WRONG, TIMEOUT, CONNECTION, NEVER_SENT)
        },
        "error_kinds": kinds,
        "reconnects": sum(raw.reconnects for raw in raws),
        "throughput_rps": len(done) / window_s,
        "goodput_rps": good / window_s,
        "latency_us": {
            name: latency[name] for name in ("p50", "p90", "p99", "p999", "max", "mean")
        },
        "service_latency_us": percentiles_us(right.done_ns - right.sent_ns),
        "rejected_latency_us": percentiles_us(shed.done_ns - shed.scheduled_ns),
        "send_lag_us": {name: lag[name] for name in ("p50", "p99", "max")},
        "jain_fairness": _fairness(done, config.connections),
        "client_cpu": sum(raw.cpu_ns for raw in raws) / 1e9 / window_s,
        "client_busy": busy,
    }
    if not config.open_loop:
        summary["send_lag_us"] = dict.fromkeys(("p50", "p99", "max"))
    reasons = _why_invalid(config, summary, sum(raw.own_unsent for raw in raws))
    summary |= {
        "valid": not reasons,
        "invalid_reasons": reasons,
        "warnings": _warnings(summary, first_wrong),
        "by_class": _by_class(config, window),
        "timeline": _timeline(config, everything, start_ns),
        "latency_quantiles": _quantiles(latency_ns),
    }
    return HttpResult(summary, everything, start_ns)


def _together(raws: list[Raw]) -> Records:
    if len(raws) == 1:
        return raws[0].records
    parts, first = [], 0
    for raw in raws:
        numbers = raw.records.connection
        parts.append(replace(raw.records, connection=np.where(numbers < 0, -1, numbers + first)))
        first += max(raw.connected, int(numbers.max(initial=-1)) + 1)
    return Records.together(parts)


def percentiles_us(values_ns: Latencies) -> dict[str, float | None]:
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


def _fairness(done: Records, connections: int) -> float | None:
    """Jain's index of the right replies of each connection (`recorder.jain_index`)."""
    shares = np.bincount(done.connection, minlength=connections).astype(np.float64)
    squares = float((shares**2).sum())
    return float(shares.sum()) ** 2 / (len(shares) * squares) if squares else None


def _quantiles(latency_ns: Latencies, steps: int = 200) -> dict[str, list[float]]:
    """The whole distribution of latency, dense in its tail: 1 - q falls by equal factors to 1/n."""
    count = len(latency_ns)
    if not count:
        return {"q": [], "latency_us": []}
    above = np.geomspace(1.0, 1.0 / count, steps)
    ranks = np.unique(np.clip(np.ceil((1 - above) * count).astype(np.int64), 1, count))
    ordered = np.sort(latency_ns)
    return {
        "q": [float(rank) / count for rank in ranks],
        "latency_us": [float(value) / 1e3 for value in ordered[ranks - 1]],
    }


def _by_class(config: HttpConfig, window: Records) -> dict[str, dict[str, float | None]]:
    names = sorted({template.name for template in config.mix.templates})
    number_of = {name: number for number, name in enumerate(names)}
    class_of = np.array([number_of[template.name] for template in config.mix.templates])
    classes = class_of[window.template]
    found: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(names):
        those = window.part(classes == number)
        right = those.part(those.outcome == ANSWERED)
        latency = percentiles_us(right.done_ns - right.scheduled_ns)
        found[name] = {
            "scheduled": len(those),
            "answered": len(right),
            "rejected": int((those.outcome == REJECTED).sum()),
            "p50_us": latency["p50"],
            "p99_us": latency["p99"],
        }
    return found


def _timeline(config: HttpConfig, records: Records, start_ns: int) -> dict[str, Any]:
    """What happened in each tenth of a second, warm-up and what came after the window included."""
    last_ns = max(
        int(records.done_ns.max(initial=0)) + 1,
        int(records.scheduled_ns.max(initial=0)) + 1,
        start_ns + round(config.length_s * 1e9),
    )
    bins = -(-(last_ns - start_ns) // BIN_NS)

    def number_of(times_ns: Latencies) -> npt.NDArray[np.int64]:
        return (times_ns - start_ns) // BIN_NS

    def count(times_ns: Latencies) -> list[int]:
        return [int(n) for n in np.bincount(number_of(times_ns), minlength=bins)]

    ended = records.part(records.done_ns > 0)
    right = ended.part(ended.outcome == ANSWERED)
    latency_ns = right.done_ns - right.scheduled_ns
    within = latency_ns <= config.slo_s * 1e9
    failed = ended.part((ended.outcome != ANSWERED) & (ended.outcome != REJECTED))
    where = number_of(right.done_ns)
    order = np.argsort(where, kind="stable")
    edges = np.searchsorted(where[order], np.arange(bins + 1))
    in_bins = [
        percentiles_us(latency_ns[order[first:last]]) for first, last in itertools.pairwise(edges)
    ]
    return {
        "bin_s": BIN_NS / 1e9,
        "t_s": [number * BIN_NS / 1e9 for number in range(bins)],
        "offered": count(records.scheduled_ns),
        "answered": count(right.done_ns),
        "good": count(right.done_ns[within]),
        "rejected": count(ended.done_ns[ended.outcome == REJECTED]),
        "errors": count(failed.done_ns),
        "p50_us": [found["p50"] for found in in_bins],
        "p99_us": [found["p99"] for found in in_bins],
    }


def _why_invalid(config: HttpConfig, summary: dict[str, Any], own_unsent: int) -> list[str]:
    """Was it the generator that was measured?"""
    reasons = []
    if summary["connected"] < config.connections:
        reasons.append(f"{summary['connected']} of {config.connections} connections came up")
    if summary["client_busy"] > SATURATED:
        reasons.append(
            f"the load generator's core was saturated ({summary['client_busy']:.0%}): "
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
    if own_unsent > 0.01 * summary["scheduled"]:
        reasons.append(f"{own_unsent} requests were never sent though a connection was free")
    if not summary["scheduled"]:
        reasons.append("no request was due in the window")
    return reasons


def _warnings(summary: dict[str, Any], first_wrong: str) -> list[str]:
    found = []
    if first_wrong:
        found.append(f"a reply was wrong; the first: {first_wrong}")
    if not summary["answered"]:
        found.append("no request was answered as expected: there are no latencies")
    elif summary["answered"] < 1000:
        found.append(f"percentiles rest on {summary['answered']} answers only")
    if summary["errors"]["connection"]:
        found.append(
            f"{summary['errors']['connection']} requests were lost with their connections "
            f"({', '.join(f'{kind}: {n}' for kind, n in summary['error_kinds'].items())})"
        )
    return found
