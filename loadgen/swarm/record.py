"""What a swarm measured, put together from the reports of its engines.

Each trial becomes a result with the names of `load http --json`, so that the
same columns and figures serve.  Counts are sums; latencies are read from
buckets 1 % wide (`engine/histogram.py`).  Workers have clocks of their own:
the conductor takes the least delay it has seen as the difference between a
worker's clock and its own, and the timeline is on its own.  No Locust here.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadgen.engine.account import COUNTS, LAG, LATENCY, REJECTION, SERVICE
from loadgen.engine.histogram import percentile_us, summary_us
from loadgen.http.records import OUTCOMES

BIN_S = 0.5

LATE_US = 1000.0
"""Send lag (99th percentile) above which the generator was the limit."""

SHORT = 0.05
"""Of the rate: what was offered may be less, or more, without a word.  Beyond three standard
deviations of a Poisson process too."""

ALL_THE_TIME_S = 1.0
"""A worker whose part of a trial is shorter by less than this was there from begin to end."""

ERRORS = OUTCOMES[2:]


@dataclass
class _Trial:
    counts: Counter[str] = field(default_factory=Counter)
    ns_of: Counter[str] = field(default_factory=Counter)
    """By worker: how long its schedule was in this trial."""
    cpu_s: float = 0.0
    """Of all engines."""
    cells: defaultdict[int, Counter[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """By kind: how many by (class, bucket)."""

    def duration_s(self, span_s: float) -> float:
        """As the worker has it that was there longest; `span_s`, the conductor's clock, if none
        was there all the time: one was lost and another joined."""
        longest_s = max(self.ns_of.values(), default=0) / 1e9
        return longest_s if longest_s > span_s - ALL_THE_TIME_S else span_s

    def buckets(self, kind: int, which: int | None = None) -> Counter[int]:
        found: Counter[int] = Counter()
        for (of, bucket), number in self.cells[kind].items():
            if which is None or which == of:
                found[bucket] += number
        return found


@dataclass
class _Bin:
    counts: Counter[str] = field(default_factory=Counter)
    latency: Counter[int] = field(default_factory=Counter)
    workers: set[str] = field(default_factory=set)


class Record:
    """Of one run.  `parameters`: the options it was given, as JSON may hold them."""

    def __init__(self, parameters: Mapping[str, Any], run: int = 0, begun_s: float = 0.0) -> None:
        self.parameters = dict(parameters)
        self.run = run
        """Of this process: in the web page one can start several."""
        self.begun_s = begun_s
        """On the conductor's monotonic clock; all other times count from here."""
        self.workers: dict[str, dict[str, Any]] = {}
        self.classes: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.error = ""
        self._kinds: Counter[str] = Counter()
        self._trials: dict[int, _Trial] = {}
        self._bins: dict[int, _Bin] = {}
        self._asked: dict[int, tuple[float, str]] = {}
        self._spans_s: dict[int, tuple[float, float]] = {}
        self._factor_s: defaultdict[int, float] = defaultdict(float)
        self._warned: defaultdict[int, list[str]] = defaultdict(list)

    def asked(self, trial: int, factor: float, phase: str, at_s: float) -> None:
        """The highest factor of a trial is what it is known by; `at_s` is within it."""
        first_s, last_s = self._spans_s.get(trial, (at_s, at_s))
        self._spans_s[trial] = (first_s, at_s)
        self._factor_s[trial] += factor * (at_s - last_s)
        known = self._asked.get(trial, (0.0, phase))[0]
        self._asked[trial] = (max(known, factor), phase)

    def warn(self, text: str, trial: int | None) -> None:
        self.warnings.append(text)
        if trial is not None:
            self._warned[trial].append(text)

    def add(self, worker: str, report: Mapping[str, Any], until_s: float) -> None:
        """An engine's report; it was made `until_s` seconds after the run began."""
        all_ns = sum(counts["ns"] for counts in report["trials"].values()) or 1
        for number, counts in report["trials"].items():
            trial = self._trials.setdefault(int(number), _Trial())
            trial.ns_of[worker] += counts["ns"]
            trial.cpu_s += report["cpu_s"] * counts["ns"] / all_ns
            trial.counts.update({name: counts[name] for name in COUNTS if name != "ns"})
        middle = self._bin(until_s - report["elapsed_s"] / 2)
        for number, kind, which, bucket, count in report["cells"]:
            self._trials.setdefault(number, _Trial()).cells[kind][which, bucket] += count
            if kind == LATENCY:
                middle.latency[bucket] += count
        self._kinds.update(report["error_kinds"])
        if report["limited"]:
            text = "a worker was asked for more than it can keep account of; use more workers"
            if text not in self.warnings:
                self.warn(text, None)
        wrong = report["first_wrong"]
        if wrong and not any(wrong in text for text in self.warnings):
            self.warn(f"a reply was wrong; the first: {wrong}", None)
        self._spread(worker, report, until_s)

    def _bin(self, at_s: float) -> _Bin:
        return self._bins.setdefault(max(0, math.floor(at_s / BIN_S)), _Bin())

    def _spread(self, worker: str, report: Mapping[str, Any], until_s: float) -> None:
        """Over the bins that the report's time touches, by how much of it is in each."""
        totals: Counter[str] = Counter()
        for counts in report["trials"].values():
            totals.update(counts)
        elapsed_s = max(report["elapsed_s"], 1e-6)
        begin_s = max(0.0, until_s - elapsed_s)
        at_s = begin_s
        while at_s < until_s:
            end_s = min(until_s, (math.floor(at_s / BIN_S + 1e-9) + 1) * BIN_S)
            share = (end_s - at_s) / (until_s - begin_s)
            found = self._bin((at_s + end_s) / 2)
            found.workers.add(worker)
            for name, number in totals.items():
                found.counts[name] += share * number
            at_s = end_s

    def to_json(self, status: str) -> dict[str, Any]:
        """Everything, for a file."""
        return {
            "status": status,
            "run": self.run,
            "begun_s": self.begun_s,
            "error": self.error,
            "parameters": self.parameters,
            "workers": self.workers,
            "warnings": self.warnings,
            "error_kinds": dict(self._kinds),
            "trials": [self._trial(number) for number in sorted(self._trials) if number >= 0],
            "timeline": self._timeline(),
        }  # fmt: skip

    def write(self, path: Path, status: str) -> None:
        """Replace `path`, whole or not at all."""
        beside = path.with_name(f".{path.name}.tmp")
        beside.write_text(json.dumps(self.to_json(status)), encoding="utf-8")
        beside.replace(path)

    def _trial(self, number: int) -> dict[str, Any]:
        load, phase = self._asked.get(number, (1.0, "steady"))
        first_s, last_s = self._spans_s.get(number, (0.0, 0.0))
        return {
            "trial": number,
            "phase": phase,
            "load": load,
            "begin_s": first_s,
            "end_s": last_s,
            "result": self._result(number),
        }

    def _result(self, number: int) -> dict[str, Any]:
        trial, parameters = self._trials[number], self.parameters
        first_s, last_s = self._spans_s.get(number, (0.0, 0.0))
        counts, duration_s = trial.counts, trial.duration_s(last_s - first_s)
        workers = len(trial.ns_of)
        latency = summary_us(trial.buckets(LATENCY))
        lag = summary_us(trial.buckets(LAG))
        per_s = 1 / duration_s if duration_s else 0.0
        result: dict[str, Any] = {
            "workload": "http",
            "mode": "open",
            "target": parameters["target"],
            "mix": parameters["mix"] or None,
            "arrivals": parameters["arrivals"],
            "rate": parameters["rate"] * self._mean_factor(number),
            "seed": parameters["seed"],
            "workers": workers,
            "connections": parameters["connections"] * workers,
            "connected": sum(self.workers[w]["connected"] for w in trial.ns_of),
            "duration_s": duration_s,
            "warmup_s": parameters["warmup"],
            "timeout_s": parameters["timeout"],
            "slo_ms": parameters["slo"],
            "offered_rps": counts["scheduled"] * per_s,
            **{name: counts[name] for name in ("scheduled", "sent", "answered", "rejected")},
            "errors": {name: counts[name] for name in ERRORS},
            "throughput_rps": counts["done"] * per_s,
            "goodput_rps": counts["done_good"] * per_s,
            "latency_us": latency,
            "service_latency_us": summary_us(trial.buckets(SERVICE)),
            "rejected_latency_us": summary_us(trial.buckets(REJECTION)),
            "send_lag_us": {name: lag[name] for name in ("p50", "p99", "max")},
            "client_cpu": trial.cpu_s * per_s,
            "by_class": self._by_class(trial),
            "latency_quantiles": _quantiles(trial.buckets(LATENCY)),
        }
        reasons = _why_invalid(
            result, sum(counts[name] for name in OUTCOMES), counts["stalled_ns"] / 1e9
        )
        warnings = list(self._warned[number])
        if lag["p99"] and latency["p50"] and LATE_US >= lag["p99"] > latency["p50"] / 10:
            warnings.append(
                f"requests were sent late: 99th percentile {lag['p99']:.0f} us, "
                f"over a tenth of the median latency ({latency['p50']:.0f} us)"
            )
        return result | {
            "valid": not reasons, "invalid_reasons": reasons, "warnings": warnings,
        }  # fmt: skip

    def _mean_factor(self, number: int) -> float:
        """Over the trial's time: of a spike it is less than its peak."""
        first_s, last_s = self._spans_s.get(number, (0.0, 0.0))
        if last_s > first_s:
            return self._factor_s[number] / (last_s - first_s)
        return self._asked.get(number, (1.0, ""))[0]

    def _by_class(self, trial: _Trial) -> dict[str, dict[str, float | None]]:
        found: dict[str, dict[str, float | None]] = {}
        for which, (_, name) in enumerate(self.classes):
            right = trial.buckets(LATENCY, which)
            found[name] = {
                "answered": sum(right.values()),
                "rejected": sum(trial.buckets(REJECTION, which).values()),
                "p50_us": percentile_us(right, 0.5),
                "p99_us": percentile_us(right, 0.99),
            }
        return found

    def _timeline(self) -> dict[str, Any]:
        bins = [self._bins.get(n, _Bin()) for n in range(max(self._bins, default=-1) + 1)]

        def column(*names: str) -> list[float]:
            return [round(sum(found.counts[name] for name in names), 3) for found in bins]

        return {
            "bin_s": BIN_S,
            "t_s": [round(n * BIN_S, 3) for n in range(len(bins))],
            "offered": column("scheduled"),
            "answered": column("done"),
            "good": column("done_good"),
            "rejected": column("rejected"),
            "errors": column(*ERRORS),
            "never_sent": column("never_sent"),
            "workers": [len(found.workers) for found in bins],
            "p50_us": [percentile_us(found.latency, 0.5) for found in bins],
            "p99_us": [percentile_us(found.latency, 0.99) for found in bins],
        }


def _quantiles(buckets: Counter[int]) -> dict[str, list[float]]:
    """The whole distribution, a point a bucket."""
    total, seen = sum(buckets.values()), 0
    found: dict[str, list[float]] = {"q": [], "latency_us": []}
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        found["q"].append(seen / total)
        found["latency_us"].append(percentile_us({bucket: 1}, 1) or 0.0)
    return found


def _why_invalid(result: Mapping[str, Any], accounted: int, stalled_s: float) -> list[str]:
    reasons = []
    scheduled, asked = result["scheduled"], result["rate"] * result["duration_s"]
    if not scheduled:
        return ["no request was due in the trial"]
    if result["connected"] < result["connections"]:
        reasons.append(f"{result['connected']} of {result['connections']} connections came up")
    lag_us = result["send_lag_us"]["p99"]
    if lag_us is not None and lag_us > LATE_US:
        reasons.append(f"requests were sent late: 99th percentile {lag_us / 1e3:.2f} ms")
    if abs(scheduled - asked) > max(SHORT * asked, 3 * math.sqrt(asked)):
        reasons.append(
            f"{result['offered_rps']:.1f} of {result['rate']:.1f} requests/s were offered"
        )
    if stalled_s:
        reasons.append(f"workers stood still for {stalled_s:.1f} s together")
    if accounted < scheduled:
        reasons.append(f"{scheduled - accounted} requests were lost with a worker's account")
    return reasons if asked else ["no rate was asked for"]
