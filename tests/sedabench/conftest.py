"""Run folders made of invented numbers, and the command as a process."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sedabench.experiments.bench import parameters
from sedabench.experiments.figure1 import Figure1Settings
from sedabench.experiments.registry import find
from sedabench.machine import facts as machine
from sedabench.results.folder import RunWriter, Value
from sedabench.trials.burst_columns import COLUMNS

MakeRun = Callable[..., Path]
FIGURE1, OVERLOAD, PEERS = find("figure1"), find("overload"), find("peers")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def bandwidth(server: str, connections: int, noise: random.Random) -> float:
    """A curve of each server's own, in bit/s."""
    fall = {"threaded": 0.06, "eventloop": 0.01, "seda": 0.012}.get(server, 0.02)
    top = {"threaded": 12e9, "eventloop": 14.5e9, "seda": 13.5e9}.get(server, 10e9)
    octaves = connections.bit_length() - 1
    return top * (1 - fall * max(0, octaves - 4)) * (1 - 0.3 / connections) * noise.gauss(1, 0.02)


def write_run(
    path: Path,
    config: Figure1Settings | None = None,
    *,
    invalid: Sequence[tuple[int, str]] = (),
    stop_after: int | None = None,
    client_cpu: float = 0.8,
) -> Path:
    """A run folder as `sedabench run figure1` writes it, with invented results."""
    config = config or FIGURE1.settings(quick=True)
    plan = FIGURE1.plan(config)
    manifest = {
        "experiment": "figure1", "status": "complete", "started_utc": "2026-01-31T12:00:00Z",
        "ended_utc": "2026-01-31T12:10:00Z", "parameters": parameters(config), "seed": config.seed,
        "warnings": [], "resumed": [], "machine": machine.facts(), "git": machine.git_state(),
        "versions": machine.versions(), "plan": plan,
        "interpreters": {"server": {"title": "CPython 3.11.7 (GIL)"}},
    }  # fmt: skip
    noise = random.Random(1)
    reasons = dict(invalid)
    with RunWriter.create(path, manifest, COLUMNS) as writer:
        for cell in plan[:stop_after]:
            row: dict[str, Value] = dict.fromkeys(column.name for column in COLUMNS)
            row.update(cell)
            reason = reasons.get(cell["trial"], "")
            row.update(
                bandwidth_bps=bandwidth(cell["server"], cell["connections"], noise),
                valid=not reason, invalid_reason=reason, jain_fairness=0.998,
                ack_p50_us=5200.0, ack_p99_us=9100.0, client_cpu=client_cpu, server_cpu=0.9,
                server_options="", client_errors="", server_errors="", warnings="",
            )  # fmt: skip
            writer.add(row, {"result": None})
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(name: str = "run", **options: object) -> Path:
        return write_run(tmp_path / name, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def sedabench(tmp_path: Path) -> Command:
    """Run the command as a person would, in a folder of its own."""

    def run(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sedabench", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=timeout, check=False,
            env={**os.environ, "COLUMNS": "120"},
        )  # fmt: skip

    return run
