"""The settings of the architecture `seda`, and the two that are lists: threads and gathering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from servers.options import UsageError, option
from servers.seda.application import CAPACITY
from servers.seda.policies import POLICIES
from servers.seda.runners import RUNNERS
from servers.seda.shared_threads import SCHEDULES
from servers.seda.stage import BATCH

BLOCKING_THREADS = 8
"""Initial threads of a stage whose step blocks."""

MAX_BLOCKING_THREADS = 40
"""And its maximum; the paper's section 3.2 gives its disk as many."""

MAX_THREADS = 10_000
"""Of one stage; so that a typing error does not take down the machine."""

MAX_SHARED_THREADS = 1000
"""Fewer, because idle ones wake 20 times a second (`shared_threads.FOLLOWER_WAKE_S`)."""


@dataclass(frozen=True)
class SedaOptions:
    """Who runs the stages, how large they are, which controllers are on."""

    run: str = option(
        "pools", "who runs the stages: one thread pool per stage, a few shared threads, or direct "
        "calls on one thread", choices=RUNNERS,
    )  # fmt: skip
    shared_threads: int = option(
        1,
        "number of threads for all stages under --run shared",
        minimum=1,
        maximum=MAX_SHARED_THREADS,
    )
    schedule: str = option(
        "downstream", "which stage runs next under --run shared", choices=tuple(SCHEDULES)
    )
    threads: str = option(
        "", "threads per stage under --run pools, such as read=2,write=2 (default: 1, or "
        f"{BLOCKING_THREADS} where the step blocks)", metavar="STAGE=N,...",
    )  # fmt: skip
    queue_capacity: int = option(
        CAPACITY, "maximum number of events waiting for one stage", minimum=1
    )
    queue_policy: str = option(
        "auto", "what a full queue does; auto: reject if the service can refuse a request, else "
        "block", choices=("auto", *POLICIES),
    )  # fmt: skip
    gather: str = option(
        "", "stages that wait until N events have gathered or the first has waited MS milliseconds "
        "(cohort scheduling), such as read_file=8/5", metavar="STAGE=N/MS,...",
    )  # fmt: skip
    batch: int | None = option(
        None, f"maximum number of events per batch (default: {BATCH}, or the queue capacity); "
        "always 1 where a step blocks, unless it gathers",
        minimum=1, metavar="N",
    )  # fmt: skip
    pool_controller: bool = option(True, "adapt the thread pools of stages that block (SOSP 2001)")
    batch_controller: bool = option(True, "adapt the batch sizes (SOSP 2001)")
    admission_controller: bool = option(True, "shed requests when they take too long (USITS 2003)")
    admission_target_ms: float = option(
        100.0,
        "target of admission control for the 90th percentile of the response time",
        minimum=0.1,
    )
    trace: str = option("", "write the paths of sampled requests to FILE (Chrome trace JSON)",
                        metavar="FILE")  # fmt: skip
    trace_every: int = option(1, "trace every N-th of the sampled requests", minimum=1)


def parse_threads(text: str, names: Sequence[str]) -> dict[str, int]:
    """`read=2,write=2` as a dictionary.  Raises UsageError."""
    threads: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in names:
            raise UsageError(f"--threads: there is no stage {name!r}; there are {', '.join(names)}")
        if not number.isdecimal() or not 1 <= int(number) <= MAX_THREADS:
            raise UsageError(f"--threads: {part!r} is not STAGE=N with N from 1 to {MAX_THREADS}")
        threads[name] = int(number)
    return threads


def parse_gather(text: str, names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """`read_file=8/5` as events and seconds by stage.  Raises UsageError."""
    found: dict[str, tuple[int, float]] = {}
    for part in filter(None, text.split(",")):
        name, _, amount = part.partition("=")
        events, _, within_ms = amount.partition("/")
        if name not in names:
            raise UsageError(f"--gather: there is no step {name!r}; there are {', '.join(names)}")
        if not (events.isdecimal() and within_ms.isdecimal() and int(events) and int(within_ms)):
            raise UsageError(
                f"--gather: {part!r} is not STAGE=N/MS, N events or MS milliseconds, both over 0"
            )
        found[name] = int(events), int(within_ms) / 1e3
    return found
