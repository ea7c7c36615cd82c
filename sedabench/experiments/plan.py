"""What every experiment does alike: carry out a plan, keep each trial, stop cleanly.

An experiment says what the trials are and how one is measured.  The order,
the folder, progress, interruption and resuming are here and know nothing of
servers.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loadgen.interruption import raise_once
from sedabench import scratch
from sedabench.errors import StoppedBySignal, UserError
from sedabench.machine import facts as machine
from sedabench.progress import Progress
from sedabench.results.folder import RunWriter, utc_now
from sedabench.trials.trial import Measured

Cell = Mapping[str, Any]
"""One entry of a plan: the fields that say which trial it is, as in its row."""


def blocked_order(
    servers: Sequence[str],
    levels: Sequence[Any],
    repeats: int,
    seed: int,
    column: str = "connections",
) -> list[dict[str, Any]]:
    """The plan of a sweep over the levels of a column: every server at each, in each block."""
    cells = [{"server": server, column: level} for server in servers for level in levels]
    return numbered(shuffled_blocks(cells, repeats, random.Random(seed)))


def shuffled_blocks(cells: Sequence[Cell], repeats: int, source: random.Random) -> list[Cell]:
    """A randomised complete block design (Fisher, 1935).

    Each repeat is a block that holds every cell once, in an order of its own.
    A machine drifts (it warms up, a neighbour wakes): within a block the drift
    hits servers and levels alike, and blocks differ by it, which shows in the
    spread of the repeats instead of between the curves.  A single permutation
    of all trials could put one server's repeats together.
    """
    blocks: list[Cell] = []
    for block in range(repeats):
        shuffled = list(cells)
        source.shuffle(shuffled)
        blocks += [{"block": block, **cell} for cell in shuffled]
    return blocks


def numbered(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Cells as a plan: trial 0 is the first to be measured."""
    return [{"trial": number, **cell} for number, cell in enumerate(cells)]


@dataclass(frozen=True)
class Outcome:
    """How carrying out a plan ended."""

    finished: int
    planned: int
    signum: int | None
    """The signal that ended it early, if one did."""


def carry_out(
    writer: RunWriter,
    measure: Callable[[Cell], Measured],
    describe: Callable[[Mapping[str, Any]], str],
    estimate_s: Callable[[Cell], float],
    progress: Progress,
) -> Outcome:
    """Measure every trial of the plan that has no row yet.

    `describe` makes the plain progress line of a finished row.  Ctrl-C, SIGTERM
    and SIGHUP end it after the processes of the current trial are gone; what is
    finished is kept.
    """
    scratch.sweep()
    plan: list[Cell] = writer.manifest["plan"]
    finished = writer.finished
    missing = [cell for cell in plan if cell["trial"] not in finished]
    if not missing:
        if writer.manifest.get("status") != "complete":  # killed after the last row
            ended = writer.manifest.get("ended_utc") or utc_now()
            writer.update(status="complete", ended_utc=ended)
        return Outcome(len(finished), len(plan), None)
    writer.update(status="running")
    signum: int | None = None
    left_s = sum(map(estimate_s, missing))
    try:
        with signals_as_exceptions(), progress.bar(len(plan), len(finished), left_s) as advance:
            for cell in missing:
                began = time.monotonic()
                measured = measure(cell)
                row = {**measured.row, **cell}
                writer.add(row, {**cell, **measured.raw})
                left_s -= estimate_s(cell)
                advance(describe(row), left_s, time.monotonic() - began - estimate_s(cell))
    except KeyboardInterrupt as stop:
        signum = stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT
    except UserError:  # what was measured says that the rest cannot be
        writer.update(status="interrupted", ended_utc=utc_now())
        raise
    status = "complete" if signum is None else "interrupted"
    writer.update(status=status, ended_utc=utc_now(), load_average_at_end=list(os.getloadavg()))
    return Outcome(len(writer.finished), len(plan), signum)


def note_resume(writer: RunWriter, interpreter: machine.Interpreter) -> list[str]:
    """Record in the manifest that the run is continued; return what differs from its start."""
    now, git = machine.facts(), machine.git_state()
    then = writer.manifest.get("machine") or {}
    differences = [
        f"resumed with another {name}: {then.get(name)} at the start, {now[name]} now"
        for name in ("cpu", "kernel", "cores_usable")
        if then.get(name) != now[name]
    ]
    if (writer.manifest.get("git") or {}).get("commit") != (git or {}).get("commit"):
        differences.append("resumed with another commit of sedabench")
    title = recorded_server(writer.manifest).get("title", interpreter.title)
    if title != interpreter.title:
        differences.append(f"resumed with servers on {interpreter.title} instead of {title}")
    entry = {
        "utc": utc_now(),
        "finished_trials": len(writer.finished),
        "git": git,
        "load_average": now["load_average"],
        "differences": differences,
    }
    writer.update(
        resumed=[*(writer.manifest.get("resumed") or []), entry],
        warnings=[*(writer.manifest.get("warnings") or []), *differences],
    )
    return differences


def recorded_server(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest says of the servers' interpreter; empty when it says nothing."""
    found = (manifest.get("interpreters") or {}).get("server")
    return found if isinstance(found, dict) else {}


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so children are stopped; and once."""
    before = raise_once()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
