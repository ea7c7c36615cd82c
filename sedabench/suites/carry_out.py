"""Carrying a suite out: one run after another into one folder, and taking it up again.

    results/quick/2026-01-31T12-00-00Z/
      suite.toml         the file as it was
      suite.json         how far it has come: a status, and one for each run
      figure1/           a run folder like any other
      overload-mixed/    another

What is finished is decided by the run folders alone; `suite.json` is for
readers, and says where relative paths begin: those of the file, and those that
its runs recorded, which is where the suite was started.  There it is taken up,
wherever the person is by then.  A run that cannot be carried out does not keep
the others from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedabench.errors import DamagedRunError, StoppedBySignal, UserError
from sedabench.experiments import carry_out as carrying
from sedabench.experiments.bench import import_readers
from sedabench.experiments.plan import signals_as_exceptions
from sedabench.experiments.settings import at
from sedabench.machine import facts as machine
from sedabench.progress import Advance, Progress
from sedabench.results.folder import (
    MANIFEST,
    check_new_folder,
    read_folder,
    utc_now,
    write_atomically,
)
from sedabench.suites.file import RECORD, SUITE, PlannedRun, Suite, read

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA = 1


@dataclass(frozen=True)
class RunState:
    """How far a run of the suite has come, as its folder says."""

    name: str
    experiment: str
    status: str
    """"not begun", "interrupted", "complete", or "failed"."""
    trials: int
    finished: int = 0
    valid: int = 0
    error: str = ""


@dataclass(frozen=True)
class SuiteOutcome:
    """How carrying out a suite ended."""

    runs: tuple[RunState, ...]
    signum: int | None
    """The signal that ended it early, if one did."""

    @property
    def failed(self) -> tuple[RunState, ...]:
        return tuple(run for run in self.runs if run.status == "failed")


def is_suite_folder(path: Path) -> bool:
    return (path / RECORD).is_file()


def start(suite: Suite, folder: Path, console: Console | None) -> SuiteOutcome:
    """Carry out a suite in `folder`, which must not exist or be empty.

    Raises:
        UserError: `folder` cannot be used, or a server of any run does not start; then
            nothing was measured.
    """
    check_new_folder(folder)
    _try_servers(suite.runs, console)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); name another") from None
    write_atomically(folder / SUITE, suite.text)
    record = {
        "schema": SCHEMA,
        "suite": suite.name,
        "title": suite.title,
        "status": "running",
        "started_utc": utc_now(),
        "ended_utc": None,
        "resumed_utc": [],
        "paths_begin_at": os.path.relpath(suite.base, folder.absolute()),
        "started_in": os.path.relpath(Path.cwd(), folder.absolute()),
        "command": machine.command_line(),
        "git": machine.git_state(),
        "runs": [],
    }
    with _only_writer(folder):
        return _carry_out(suite, folder, record, console)


def reopen(folder: Path) -> tuple[Suite, dict[str, Any]]:
    """The suite of a folder, and its record.

    Raises:
        DamagedRunError: the record cannot be read.
        UserError: the suite cannot be carried out here and now.
    """
    try:
        record = json.loads((folder / RECORD).read_bytes())
        name, base = str(record["suite"]), folder.absolute() / record["paths_begin_at"]
        record["resumed_utc"] = [*record["resumed_utc"]]
    except OSError as error:
        raise UserError(
            f"{folder} is not the folder of a suite ({RECORD}: {error.strerror}); "
            "name one that `sedabench run SUITE.toml` made"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRunError(f"{folder / RECORD} is damaged ({error!r}); restore it") from None
    file = folder.absolute() / SUITE
    with _where_it_was_started(record, folder):
        return replace(read(file, base.resolve()), name=name), record


def resume(
    suite: Suite, record: dict[str, Any], folder: Path, console: Console | None
) -> SuiteOutcome:
    """Carry out what a reopened suite lacks: finished runs stay, an interrupted one goes on.

    Raises:
        UserError: another process is writing it, or a server does not start.
    """
    folder = folder.absolute()
    with _where_it_was_started(record, folder), _only_writer(folder):
        missing = [run for run in suite.runs if state_of(run, folder).status == "not begun"]
        _try_servers(missing, console)
        record["resumed_utc"].append(utc_now())
        return _carry_out(suite, folder, record, console)


@contextmanager
def _where_it_was_started(record: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """A server in a file of one's own is recorded with its path from there."""
    there = folder.absolute() / str(record.get("started_in", os.devnull))
    with chdir(there) if there.is_dir() else nullcontext():
        yield


def left_s(suite: Suite, folder: Path) -> float:
    """About how long it takes to carry out what is missing, in seconds."""
    return sum(_left_s(run, folder) for run in suite.runs)


def state_of(run: PlannedRun, folder: Path) -> RunState:
    """What the folder of a run says, without an error of any kind."""
    state = RunState(run.name, run.experiment.name, "not begun", run.trials)
    path = folder / run.name
    if not (path / MANIFEST).exists():
        return state
    try:
        manifest, rows = read_folder(path)
    except DamagedRunError as error:
        return replace(state, status="failed", error=str(error))
    trials = len(manifest["plan"])
    whole = manifest.get("status") == "complete" and len(rows) == trials
    return replace(
        state,
        status="complete" if whole else "interrupted",
        trials=trials,
        finished=len(rows),
        valid=sum(row["valid"] == "True" for row in rows),
    )


def _try_servers(runs: Sequence[PlannedRun], console: Console | None) -> None:
    """A server that does not start is known before the first trial, not an hour later."""
    count = sum(len(run.config.servers) for run in runs)
    if count:
        Progress(console).say(f"trying {count} servers of {len(runs)} runs ...")
    for run in runs:
        with at(f"run {run.name!r}"):
            carrying.try_servers(run.experiment, run.config)
    import_readers()


def _carry_out(
    suite: Suite, folder: Path, record: dict[str, Any], console: Console | None
) -> SuiteOutcome:
    errors: dict[str, str] = {}

    def states() -> tuple[RunState, ...]:
        found = (state_of(run, folder) for run in suite.runs)
        return tuple(
            replace(state, status="failed", error=errors[state.name])
            if state.name in errors
            else state
            for state in found
        )

    def keep(status: str, **more: Any) -> None:
        record.update(status=status, runs=[asdict(state) for state in states()], **more)
        write_atomically(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())

    signum: int | None = None
    try:
        with signals_as_exceptions():  # between two runs, too
            keep("running", ended_utc=None)
            for number, run in enumerate(suite.runs):
                if state_of(run, folder).status == "complete":
                    continue
                progress = _PartOfAll(suite, number, folder, console)
                try:
                    signum = _one(run, folder / run.name, progress)
                except UserError as error:
                    errors[run.name] = str(error)
                    progress.say(f"run {run.name} failed: {error}")
                if signum is not None:
                    break
                keep("running")
    except KeyboardInterrupt as stop:
        signum = stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT
    outcome = SuiteOutcome(states(), signum)
    status = "interrupted" if signum is not None else "failed" if outcome.failed else "complete"
    keep(status, ended_utc=utc_now())
    return outcome


def _one(run: PlannedRun, path: Path, progress: Progress) -> int | None:
    """Measure what a run lacks; return the signal that ended it early, if one did."""
    if (path / MANIFEST).exists():
        return carrying.resume(run.experiment, path, progress)[1].signum
    return carrying.run(run.experiment, run.config, path, progress)[1].signum


def _left_s(run: PlannedRun, folder: Path) -> float:
    """All of a run that is not begun; of another, the trials without a row."""
    state = state_of(run, folder)
    if state.status != "interrupted":
        return run.estimate_s if state.status == "not begun" else 0.0
    manifest, rows = read_folder(folder / run.name)
    finished = {int(row["trial"]) for row in rows}
    return sum(run.trial_s(cell) for cell in manifest["plan"] if cell["trial"] not in finished)


class _PartOfAll(Progress):
    """The progress of one run, counted and timed over the whole suite."""

    def __init__(self, suite: Suite, number: int, folder: Path, console: Console | None) -> None:
        super().__init__(console)
        self._name = suite.runs[number].name
        self._before = sum(run.trials for run in suite.runs[:number])
        self._total = sum(run.trials for run in suite.runs)
        self._later_s = sum(_left_s(run, folder) for run in suite.runs[number + 1 :])

    @contextmanager
    def bar(self, total: int, done: int, left_s: float) -> Iterator[Advance]:
        with super().bar(self._total, self._before + done, left_s + self._later_s) as advance:
            yield self._within(advance)

    def _within(self, advance: Advance) -> Callable[[str, float, float], None]:
        return lambda line, left, missed: advance(
            f"{self._name}: {line}", left + self._later_s, missed
        )


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Two drivers in one suite would measure each other.

    Raises:
        UserError: another process is carrying it out.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder} is being written by another process; wait for its end"
            ) from None
        yield
    finally:
        os.close(descriptor)
