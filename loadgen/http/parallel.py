"""One schedule, split over several processes, and put together again.

Each process takes every P-th request and its share of the connections, on a
core of its own where there are as many.  All begin at one instant, and none
outlives the process that started them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from loadgen.errors import LoadError
from loadgen.http import loop
from loadgen.http.config import HttpConfig
from loadgen.http.loop import OnEvent
from loadgen.http.records import Raw
from loadgen.http.result import HttpResult, summarise
from loadgen.lifeline import die_with

PREPARE_NS = 2_000_000_000
"""From the start of the processes to time 0: the interpreter, numpy, and the schedule."""


def run(config: HttpConfig, processes: int = 1, on_event: OnEvent | None = None) -> HttpResult:
    """Drive the load with so many processes; `LoadError` if it makes no sense to."""
    if processes == 1:
        return summarise(config, [loop.run(config, on_event)])
    if not 1 <= processes <= config.connections:
        raise LoadError(
            f"--processes must be from 1 to the number of connections ({config.connections}), "
            f"not {processes}"
        )
    tell = on_event or (lambda name, t_ns: None)
    cores = sorted(os.sched_getaffinity(0))
    prepare_ns = PREPARE_NS + round(config.connections / config.connect_rate * 1e9)
    start_ns = time.monotonic_ns() + prepare_ns
    spawn = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with (
        ProcessPoolExecutor(processes, spawn, die_with, (os.getpid(),)) as pool,
        _ended_on_error(others),
    ):
        parts = [
            pool.submit(
                _part, _share(config, number, processes), (number, processes), start_ns,
                cores[number % len(cores)] if processes <= len(cores) else None,
            )
            for number in range(processes)
        ]  # fmt: skip
        for name, at_s in (
            ("connected", 0.0),
            ("window_begin", config.warmup_s),
            ("window_end", config.length_s),
        ):
            _wait_until(start_ns + round(at_s * 1e9), parts)
            tell(name, time.monotonic_ns())
        raws = [part.result() for part in parts]
    return summarise(config, raws)


@contextmanager
def _ended_on_error(others: list[BaseProcess]) -> Iterator[None]:
    """When one part has failed, or somebody pressed Ctrl-C, the pool's exit waits for no other."""
    try:
        yield
    except BaseException as error:
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise LoadError("a load generator process died; is there enough memory?") from None
        raise


def _share(config: HttpConfig, number: int, processes: int) -> HttpConfig:
    whole, rest = divmod(config.connections, processes)
    return dataclasses.replace(
        config,
        connections=whole + (number < rest),
        connect_rate=config.connect_rate / processes,
    )


def _part(config: HttpConfig, part: tuple[int, int], start_ns: int, core: int | None) -> Raw:
    if core is not None:
        os.sched_setaffinity(0, [core])
    return loop.run(config, part=part, start_ns=start_ns)


def _wait_until(at_ns: int, parts: list[Future[Raw]]) -> None:
    """Until then, or until a part fails: raises what it raised."""
    left_s = max(0.0, (at_ns - time.monotonic_ns()) / 1e9)
    for part in wait(parts, timeout=left_s, return_when="FIRST_EXCEPTION").done:
        part.result()
