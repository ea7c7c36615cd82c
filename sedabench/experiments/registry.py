"""Which experiments there are, and which one a run folder belongs to.

A new experiment of the project is one new file and one line below.  One's own
is a class in a file: path/to/file.py:ClassName stands wherever a name of ours
can, and a run folder remembers it.  Nothing else in the program knows an
experiment by its name.
"""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sedabench.analysis.compare import Question
from sedabench.errors import UserError, one_line, unknown
from sedabench.experiments.base import Experiment
from sedabench.results.folder import Run, read_folder
from sedabench.results.raw_trials import damage_is_named
from servers.options import UsageError
from servers.registry import find as find_class

EXPERIMENTS: dict[str, str] = {
    "figure1": "sedabench.experiments.figure1:Figure1",
    "overload": "sedabench.experiments.overload:Overload",
    "peers": "sedabench.experiments.peers:Peers",
    "swarm": "sedabench.swarm.experiment:Swarms",
}
"""name -> "module:class"; imported only when asked for."""

OWN = "own_experiment"
"""The key of a manifest under which a person's own experiment is named."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def find(name: str) -> Experiment:
    """The experiment called `name`: one of ours, or path/to/file.py:ClassName.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    if is_own(name):
        return _own(name)
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return _ours(name)


def runnable(name: str) -> Experiment:
    """The same, of those that `run` carries out.

    Raises:
        UserError: also if it is run by a command of its own.
    """
    experiment = find(name) if name in EXPERIMENTS or is_own(name) else None
    if experiment is None:
        raise unknown("experiment", name, runnable_names())
    if experiment.command is not None:
        raise UserError(f"{name} is run by a command of its own; see {experiment.command} --help")
    return experiment


def runnable_names() -> list[str]:
    """Of ours, those that `run` carries out."""
    return [name for name in EXPERIMENTS if _ours(name).command is None]


def is_own(name: str) -> bool:
    """Whether a name means a class in a person's file or module."""
    return ":" in name and not name.endswith(".toml")


@cache
def _ours(name: str) -> Experiment:
    module, _, attribute = EXPERIMENTS[name].partition(":")
    found: type[Experiment] = getattr(import_module(module), attribute)
    return found()


def _own(where: str) -> Experiment:
    """A class in a file, named from the current folder.

    Raises:
        UserError: it cannot be loaded, or is no whole experiment.
    """
    file, _, attribute = where.rpartition(":")
    if not file or not attribute:
        raise UserError(f"{where!r} names no class; write path/to/file.py:ClassName")
    try:
        made = find_class("experiment", Experiment, where, {})()
    except UsageError as error:
        raise UserError(one_line(str(error))) from None
    if type(made).workload is Experiment.workload and type(made).measure is Experiment.measure:
        raise UserError(f"{where} measures nothing: it needs a method `workload`")
    if not _NAME.fullmatch(made.name) or made.name in EXPERIMENTS:
        raise UserError(
            f"{where}: name {made.name!r} cannot be that of an experiment of one's own; use "
            f"letters, digits, '.', '_' and '-', and none of {', '.join(EXPERIMENTS)}"
        )
    if file.endswith(".py") or os.sep in file:
        where = f"{os.path.relpath(Path(file).expanduser())}:{attribute}"
    made.where = where
    return made


# -- of a run -----------------------------------------------------------------------------


def named_by(manifest: Mapping[str, Any]) -> str:
    """What a person writes for the experiment of a run: its name, or where its class is."""
    own = manifest.get(OWN)
    found = own.get("class") if isinstance(own, dict) else None
    return found if isinstance(found, str) else str(manifest["experiment"])


def of_folder(path: Path) -> Experiment:
    """The experiment that carries on the run in `path`.

    Raises:
        UserError: it cannot be found, or does not carry out runs.
        DamagedRunError: the folder cannot be read.
    """
    manifest = read_folder(path)[0]
    if OWN not in manifest:
        return runnable(manifest["experiment"])
    try:
        return _recorded(manifest, path)
    except UserError as error:
        raise UserError(
            f"the experiment of {path} cannot be found: {error}; name where it is now: "
            f"sedabench run path/to/file.py:ClassName --resume {path}"
        ) from None


def of_run(run: Run) -> Experiment:
    """The experiment that reads a run.

    Where it is not at hand, or no longer fits, the folder speaks for itself: an
    experiment whose `note` says why.
    """
    manifest = run.manifest
    try:
        if OWN not in manifest:
            return find(manifest["experiment"])
        found = _recorded(manifest, run.path)
        lacking = [
            column.name for column in found.columns if column.name not in manifest["columns"]
        ]
        if found.name != manifest["experiment"] or lacking:
            raise UserError(f"{found.where} has changed and no longer fits")
    except UserError as error:
        return Unknown(run, f"{run.path} is shown by what its folder says alone: {error}")
    return found


def _recorded(manifest: Mapping[str, Any], path: Path) -> Experiment:
    """The class that a manifest names: from the current folder, or from where the run began.

    A folder of results is no program: nothing is loaded from inside it.
    """
    where = named_by(manifest)
    file, _, attribute = where.rpartition(":")
    if not (file.endswith(".py") or os.sep in file):
        return find(where)
    started_in = str(manifest[OWN].get("started_in", ""))
    for begin in (Path(), path.absolute() / started_in):
        there = Path(os.path.normpath(begin / file))
        if there.is_file() and path.resolve() not in there.resolve().parents:
            return find(f"{there}:{attribute}")
    raise UserError(f"there is no file {file}")


class Unknown(Experiment):
    """Stands for an experiment that is not at hand: what the folder itself says."""

    def __init__(self, run: Run, note: str) -> None:
        own = run.manifest.get(OWN)
        said = own if isinstance(own, dict) else {}
        self.note = note
        self.name = str(run.manifest["experiment"])
        self.summary = str(said.get("summary") or self.name)
        known = (str(said.get("level")), "load", "connections")
        self.level = next((name for name in known if name in run.trials), "connections")
        try:
            self.question = Question.recorded(said["question"])
        except (KeyError, TypeError, AttributeError):
            pass


@contextmanager
def shown_by(experiment: Experiment, run: Run, what: str) -> Iterator[None]:
    """What goes wrong while a run is shown is one line, and says whose fault it may be.

    Raises:
        DamagedRunError: the folder holds what cannot be shown.
        UserError: see `own_faults`.
    """
    with damage_is_named(run, what), own_faults(experiment):
        yield


@contextmanager
def own_faults(experiment: Experiment) -> Iterator[None]:
    """What a person's own class raises inside is one line that names its file and line.

    Raises:
        UserError: in place of anything that went through that file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # somebody's own code: whatever it raises
        line = _line(experiment, error)
        if line is None:
            raise
        said = one_line(f"{type(error).__name__}: {error}")
        raise UserError(f"{experiment.where} raised {said} ({line})") from error


def _line(experiment: Experiment, error: BaseException) -> str | None:
    """The last line of the experiment's own file that an error went through."""
    own = inspect.getfile(type(experiment)) if experiment.where else None
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own
    ]
    return f"{Path(own).name} line {lines[-1]}" if own is not None and lines else None
