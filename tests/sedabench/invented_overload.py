"""Run folders of `overload` made of invented numbers with known answers.

`Model` says how each server behaves: its goodput as a share of the capacity at
each offered load, its latency, and when it recovers after the spike.
"""

from __future__ import annotations

import math
import random
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedabench.results.folder import Column, Kind, RunWriter, Value

CAPACITY_RPS = 3000.0
SLO_MS = 200.0
LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 2.5, 3.0)
SPIKE_S, SPIKE_END_S, TRIAL_S, BIN_S = 3.0, 5.0, 9.0, 0.1

_TEXT = "server architecture server_options workload started_utc invalid_reason warnings phase server_errors"  # noqa: E501
_WHOLE = """trial block connections connected scheduled sent answered rejected wrong timeouts
connection_errors never_sent server_rss_bytes server_threads server_requests"""
_REAL = """load offered_rps warmup_s duration_s throughput_rps goodput_rps latency_p50_us
latency_p90_us latency_p99_us latency_p999_us latency_max_us latency_mean_us service_p50_us
service_p99_us rejected_p50_us send_lag_p50_us send_lag_p99_us send_lag_max_us jain_fairness
client_cpu server_cpu count_disagreement steal other_cpu load_1m"""
_KINDS: tuple[tuple[Kind, str], ...] = (
    ("str", _TEXT), ("int", _WHOLE), ("float", _REAL), ("bool", "valid"),
)  # fmt: skip
COLUMNS = [Column(name, kind, "", "") for kind, names in _KINDS for name in names.split()]


@dataclass(frozen=True)
class Model:
    """A server that never was."""

    architecture: str
    capacity: float = 1.0
    """Share of the highest."""
    rejects: bool = False
    kept_at_twice: float = 1.0
    """Of its peak goodput; falls in a line from load 1 on."""
    recovery_s: float | None = 0.0
    jain_at_thrice: float = 1.0
    options: tuple[str, ...] = ()


MODELS: Mapping[str, Model] = {
    "threaded": Model("threaded", 0.86, kept_at_twice=0.15, recovery_s=2.3, jain_at_thrice=0.55),
    "eventloop": Model("eventloop", 1.0, kept_at_twice=0.04, recovery_s=None, jain_at_thrice=0.9),
    "seda": Model("seda", 0.97, rejects=True, kept_at_twice=0.95, recovery_s=0.4),
}


def write_overload_run(
    path: Path,
    models: Mapping[str, Model] = MODELS,
    *,
    loads: Sequence[float] = LOADS,
    repeats: int = 5,
    noise: float = 0.015,
    invalid: Mapping[int, str] | None = None,
    phases: Sequence[str] = ("capacity", "sweep", "spike"),
    bins_noise: bool = True,
) -> Path:
    """A finished run; a trial that `invalid` names by number is invalid for that reason."""
    chance = random.Random(1)
    cells: list[dict[str, Any]] = [
        {"block": block, "phase": phase, "server": server, "load": load}
        for phase in phases
        for block in range(1 if phase == "spike" else repeats)
        for server in models
        for load in {"capacity": [None], "sweep": loads, "spike": [2.0]}[phase]
    ]
    plan = [
        {"trial": n} | {key: c[key] for key in ("block", "phase", "server")}
        for n, c in enumerate(cells)
    ]
    with RunWriter.create(path, _manifest(models, loads, repeats, plan), COLUMNS) as writer:
        for trial, cell in enumerate(cells):
            model = models[cell["server"]]
            row, raw = _trial(cell, model, lambda: max(0.0, chance.gauss(1, noise)))
            reason = (invalid or {}).get(trial, "")
            row.update(trial=trial, valid=not reason, invalid_reason=reason)
            if cell["phase"] == "spike":
                raw["result"].update(
                    arrivals=f"spike:4,{SPIKE_S:g},{SPIKE_END_S - SPIKE_S:g}",
                    timeline=_timeline(model, chance if bins_noise else None),
                )
                raw["server_timeline"] = _inside(model, chance)
            writer.add({c.name: row.get(c.name) for c in COLUMNS}, raw)
    return path


def _manifest(
    models: Mapping[str, Model], loads: Sequence[float], repeats: int, plan: list[dict[str, Any]]
) -> dict[str, Any]:
    servers = [
        {"label": label, "architecture": model.architecture, "options": [*model.options]}
        for label, model in models.items()
    ]
    return {
        "experiment": "overload", "status": "complete", "started_utc": "2026-01-31T12:00:00Z",
        "ended_utc": "2026-01-31T12:30:00Z", "seed": 2001, "warnings": [], "resumed": [],
        "parameters": {
            "servers": servers, "workload": "dynamic", "loads": list(loads), "repeats": repeats,
            "duration_s": 5.0, "warmup_s": 1.0, "slo_ms": SLO_MS, "connections": 256, "seed": 2001,
        },
        "capacity_rps": CAPACITY_RPS,
        "capacity_by_server_rps": {k: CAPACITY_RPS * m.capacity for k, m in models.items()},
        "machine": {"cpu": "Invented CPU 1", "cores_logical": 2, "kernel": "Linux 6.18",
                    "virtual_machine": True},
        "git": None, "versions": {"sedabench": "0.1.0"}, "plan": plan,
        "interpreters": {"server": {"title": "CPython 3.11.7 (GIL)"}},
    }  # fmt: skip


def _goodput(model: Model, load: float) -> float:
    """Share of the capacity that is answered in time."""
    if load <= model.capacity:
        return load
    return model.capacity * max(0.0, 1 - (1 - model.kept_at_twice) * (load - model.capacity))


def _trial(cell: Mapping[str, Any], model: Model, noisy: Any) -> tuple[dict[str, Any], Any]:
    load = cell["load"] or model.capacity
    shared = noisy()
    good = _goodput(model, load) * CAPACITY_RPS * shared
    answered = good if model.rejects else min(load, model.capacity) * CAPACITY_RPS * shared
    over = max(0.0, load - model.capacity)
    p50_us = 1500 / max(0.03, 1 - load / model.capacity) * noisy()
    if over:
        p50_us = (60e3 if model.rejects else 40e3 + over * 1.5e6) * noisy()
    row: dict[str, Value] = dict(cell)
    duration_s = 5.0
    scheduled = round(load * CAPACITY_RPS * duration_s)
    rejected = round(scheduled - answered * duration_s) if model.rejects and over else 0
    row.update(
        architecture=model.architecture, server_options=shlex.join(model.options),
        workload="dynamic", warnings="",
        duration_s=duration_s, warmup_s=1.0, connections=256, connected=256,
        offered_rps=None if cell["load"] is None else load * CAPACITY_RPS, scheduled=scheduled,
        answered=scheduled - rejected, rejected=rejected, throughput_rps=answered,
        goodput_rps=good, latency_p50_us=p50_us, latency_p99_us=p50_us * (2.2 if over else 4),
        jain_fairness=1 - (1 - model.jain_at_thrice) * max(0.0, load - 0.8) / 2.2 * noisy(),
    )  # fmt: skip
    q = [1 - 10 ** (-k * 4.2 / 60) for k in range(61)]
    latency_us = [p50_us * 0.3 + p50_us * (-math.log(max(1e-9, 1 - v))) ** 0.8 * noisy() for v in q]
    raw: dict[str, Any] = {
        "server": {}, "snapshots": [], "server_timeline": None,
        "result": {
            "scheduled": scheduled, "answered": scheduled - rejected, "rejected": rejected,
            "latency_quantiles": {"q": q, "latency_us": sorted(latency_us)},
        },
    }  # fmt: skip
    return row, raw


def _timeline(model: Model, chance: random.Random | None) -> dict[str, Any]:
    t_s = [round(k * BIN_S, 3) for k in range(round(TRIAL_S / BIN_S))]
    made: dict[str, list[Any]] = {
        key: [] for key in ("offered", "answered", "good", "rejected", "errors", "p50_us", "p99_us")
    }
    top = CAPACITY_RPS * model.capacity * BIN_S
    recovered_s = SPIKE_END_S + (math.inf if model.recovery_s is None else model.recovery_s)
    for t in t_s:
        rate = CAPACITY_RPS * BIN_S * (2.0 if SPIKE_S <= t < SPIKE_END_S else 0.5)
        offered = round(chance.gauss(rate, math.sqrt(rate)) if chance else rate)
        bad = SPIKE_S + 0.15 <= t < recovered_s - 1e-9
        answered = round(min(top, offered)) if not bad or model.rejects else round(top)
        since = min(t, SPIKE_END_S) - SPIKE_S - max(0.0, t - SPIKE_END_S) * 0.3
        p50 = 4e3 if not bad else (220e3 if model.rejects else 210e3 + max(0.0, since) * 9e5)
        jitter = chance.gauss(1, 0.08) if chance else 1.0
        made["offered"].append(offered)
        made["answered"].append(answered)
        made["good"].append(
            answered if not bad else round(answered * (0.9 if model.rejects else 0.03))
        )
        made["rejected"].append(max(0, offered - answered) if model.rejects else 0)
        made["errors"].append(0)
        made["p50_us"].append(p50 * jitter)
        made["p99_us"].append(p50 * jitter * (1.4 if bad else 3))
    return {"bin_s": BIN_S, "t_s": t_s, **made}


def _inside(model: Model, chance: random.Random) -> list[dict[str, Any]]:
    found = []
    for k in range(round(TRIAL_S / BIN_S)):
        t = k * BIN_S + 0.03
        hot = SPIKE_S < t < SPIKE_END_S + 0.4
        names = ("accept", "read", "parse", "route", "lookup", "read_file", "compute", "respond")
        stages = [
            {
                "name": name,
                "queue_length": None if name == "accept" else
                round((400 if hot else 6) * chance.random()) if name == "compute" else
                round((30 if hot else 3) * chance.random()),
                "threads": 6 if hot and name == "compute" else 1,
                "batch": 64 if hot and name == "compute" else 16,
            }
            for name in names
        ]  # fmt: skip
        limit = None if t < SPIKE_S + 0.3 else 2900.0 - 300 * math.sin(3 * t)
        seda = model.architecture == "seda"
        found.append({
            "t_s": t, "requests": 10 * k, "replies": 10 * k, "rejected": 0,
            "threads": 14 if seda else 259 if model.architecture == "threaded" else 2,
            "connections": 256, "stages": stages if seda else [],
            "admission": {"limit_per_s": limit, "p90_ms": 90.0} if seda else None,
        })  # fmt: skip
    return found
