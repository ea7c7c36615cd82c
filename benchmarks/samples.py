"""Ten million kept samples: how long it takes to write, read and summarise them, and in how much.

Each of it in a process of its own, whose peak of resident memory is its own, then: the
interpreter and its libraries are in it.  The records are made up: 64 connections, 100 s,
latencies of 50 us to 10 ms, a request in a hundred rejected.  What `sedabench load samples`
does is the second row.

Measured with 10 M requests, medians of 3 (range), on 2 cores of a virtual machine (CPython 3.11)
with a load average of 9 to 23 from other programs: written in 3.2 s (1.8 to 3.4; 1.7 s of CPU)
and 0.9 GB, read and summarised in 6.3 s (3.8 to 10.0; 3.9 s of CPU) and 1.3 GB.  Aimed at is
10 s and 2 GB.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from benchmarks.tables import show
from loadgen.demand.mixes import single
from loadgen.http.config import HttpConfig
from loadgen.http.records import ANSWERED, REJECTED, Raw, Records
from loadgen.http.result import summarise, summarise_records
from loadgen.http.samples import read_parquet, write_hlog, write_parquet
from loadgen.lifeline import die_with
from loadgen.net.targets import Target
from sedabench import scratch

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

REQUESTS = 10_000_000
CONNECTIONS = 64
START_NS = 1_000_000_000_000
CONFIG = HttpConfig(
    Target("127.0.0.1", 80, socket.AF_INET, ("127.0.0.1", 80)), "benchmark", single("/"),
    connections=CONNECTIONS, rate=REQUESTS / 100, duration_s=99.0, warmup_s=1.0,
)  # fmt: skip

Measured = tuple[float, float, float]
"""Seconds, CPU seconds, and the peak of resident memory in GB."""


def made() -> Raw:
    random = np.random.default_rng(1)
    due_ns = np.sort(random.integers(0, 100_000_000_000, REQUESTS)) + START_NS
    took_ns = np.minimum(50_000 + random.exponential(500_000, REQUESTS).astype(np.int64), 10**7)
    records = Records(
        due_ns, due_ns + 10_000, due_ns + took_ns,
        random.integers(0, 20_000, REQUESTS),
        np.where(random.random(REQUESTS) < 0.01, REJECTED, ANSWERED).astype(np.uint8),
        np.zeros(REQUESTS, np.uint16),
        random.integers(0, CONNECTIONS, REQUESTS, np.int32),
    )  # fmt: skip
    return Raw(records, START_NS, CONNECTIONS, {}, 0, 10**9, 0.5, 0, "")


def timed(work: Callable[[], object]) -> Measured:
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    return seconds, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write(folder: Path) -> Measured:
    result = summarise(CONFIG, [made()])
    return timed(lambda: write_parquet(folder / "samples", result, CONFIG.mix))


def read(folder: Path) -> Measured:
    return timed(lambda: summarise_records(*read_parquet(folder / "samples")))


def log(folder: Path) -> Measured:
    result = summarise_records(*read_parquet(folder / "samples"))
    return timed(lambda: write_hlog(folder / "log", result))


def alone(work: Callable[[Path], Measured], folder: Path) -> Measured:
    """In a process that nobody has used yet."""
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1, die_with, (os.getpid(),)) as pool:
        return pool.apply(work, (folder,))


def main(effort: Effort) -> None:
    works = {"write the samples": write, "read and summarise": read, "write the log": log}
    found: dict[str, list[Measured]] = {name: [] for name in works}
    with scratch.folder() as folder:
        for _ in range(effort.rounds):
            for what, work in works.items():
                found[what].append(alone(work, folder))
        size = (folder / "samples").stat().st_size
    table = Table(title=f"{REQUESTS:,} samples, {size / 1e6:,.0f} MB: median (range)")
    for name in ("", "s", "CPU s", "peak memory, GB"):
        table.add_column(name, justify="right" if name else "left")
    for what, runs in found.items():
        table.add_row(what, *(_cell(values) for values in zip(*runs, strict=True)))
    show(table, 100)


def _cell(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
