"""A run from its begin to its end, and taken up again: written once, for every experiment.

From the settings comes the plan; a recorded run is taken up again only if its
plan is the one that its settings make.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from loadgen.output import visible
from sedabench.errors import DamagedRunError, UserError
from sedabench.experiments import bench as common
from sedabench.experiments import plan as plans
from sedabench.experiments.base import Experiment, Rig
from sedabench.experiments.bench import Bench
from sedabench.experiments.plan import Cell, Outcome
from sedabench.experiments.registry import OWN, named_by, own_faults, shown_by
from sedabench.experiments.settings import Settings
from sedabench.figures.style import not_drawn
from sedabench.progress import Progress
from sedabench.results.folder import Run, RunWriter, check_new_folder, load_run
from sedabench.trials.trial import Measured


def run(
    experiment: Experiment, settings: Any, out: Path, progress: Progress | None = None
) -> tuple[Run, Outcome]:
    """Measure a new run into the folder `out`, which must not exist or be empty.

    Raises:
        UserError: see `Experiment.check`; or a server cannot be started; or `out` cannot
            be used; or what was measured says that the rest cannot be, and then it is kept.
    """
    with own_faults(experiment):
        experiment.check(settings)
        check_new_folder(out)
        bench = Bench.of(settings.python)
        shared = experiment.prepare(bench, settings, {})
        plan = plan_of(experiment, settings)
        _try(experiment, settings, shared, plan, bench)
        common.import_readers()
        more = experiment.manifest(settings, shared) | _own(experiment, out)
    manifest = common.manifest(experiment.name, settings, bench, plan, more)
    with RunWriter.create(out, manifest, experiment.columns) as writer:
        rig = Rig(bench, settings, shared, writer)
        return _finish(experiment, rig, progress or Progress())


def resume(
    experiment: Experiment, path: Path, progress: Progress | None = None
) -> tuple[Run, Outcome]:
    """Measure what an interrupted run lacks, with its own settings and order.

    Finished trials stay as they are, invalid ones too: to repeat only what
    displeased would bias the run.

    Raises:
        DamagedRunError: see `sedabench.results.folder.read_folder`.
        UserError: it is a run of another experiment, or another process is writing it.
    """
    progress = progress or Progress()
    with RunWriter.reopen(path) as writer:
        settings = recorded_settings(experiment, path, writer.manifest)
        check(experiment, settings)
        plan = writer.manifest["plan"]
        if len(writer.finished) == len(plan):
            progress.say("nothing is missing: every trial of this run is finished")
            return _finish(experiment, Rig(Bench.of(None), settings, None, writer), progress)
        bench = Bench.again(settings.python, writer.manifest)
        with own_faults(experiment):
            shared = experiment.prepare(bench, settings, writer.manifest)
            _try(experiment, settings, shared, plan, bench)
        common.import_readers()
        for difference in plans.note_resume(writer, bench.interpreter):
            progress.say(f"warning: {difference}")
        return _finish(experiment, Rig(bench, settings, shared, writer), progress)


def try_servers(experiment: Experiment, settings: Any) -> None:
    """Start and stop each server of a run once; make the files that it will serve.

    Raises:
        UserError: one does not start, or `python` is no interpreter.
    """
    bench = Bench.of(settings.python)
    with own_faults(experiment):
        shared = experiment.prepare_to_try(bench, settings)
        _try(experiment, settings, shared, plan_of(experiment, settings), bench)


def check(experiment: Experiment, settings: Any) -> None:
    """`Experiment.check`; what a class of one's own raises there is one line too."""
    with own_faults(experiment):
        experiment.check(settings)


def plan_of(experiment: Experiment, settings: Any) -> list[dict[str, Any]]:
    """Raises UserError if there is nothing to measure, or a cell has a field without a column."""
    with own_faults(experiment):
        plan = experiment.plan(settings)
    if not plan:
        raise UserError(f"{experiment.name} has no trial to measure with these settings")
    known = {column.name for column in experiment.columns}
    if lacking := sorted(set(plan[0]) - known):
        raise UserError(
            f"{experiment.name} has no column {lacking[0]!r}, which its plan names; "
            "add one to its `columns`"
        )
    return plan


def _try(
    experiment: Experiment, settings: Any, shared: Any, plan: Sequence[Cell], bench: Bench
) -> None:
    if settings.servers and type(experiment).workload is not Experiment.workload:
        workload = experiment.workload(settings, shared, plan[0])
        common.try_servers(settings.servers, workload, bench)


def lasts_s(experiment: Experiment, settings: Any, plan: Sequence[Cell]) -> float:
    """About how long these trials take, in seconds."""
    with own_faults(experiment):
        return sum(experiment.estimate_s(settings, cell) for cell in plan)


def _finish(experiment: Experiment, rig: Rig, progress: Progress) -> tuple[Run, Outcome]:
    def measure(cell: Cell) -> Measured:
        with own_faults(experiment):
            return experiment.measure(rig, cell)

    with own_faults(experiment):
        outcome = plans.carry_out(
            rig.writer, measure, experiment.describe, partial(experiment.estimate_s, rig.settings),
            progress,
        )  # fmt: skip
    finished = load_run(rig.writer.path)
    draw(experiment, finished)
    return finished, outcome


def draw(experiment: Experiment, finished: Run) -> list[Path]:
    """The figures of a run that was just measured; one line says it when there can be none.

    Whatever keeps them from being drawn, a label or a full disk, the data is kept.
    """
    try:
        with shown_by(experiment, finished, "its figures cannot be drawn"):
            return experiment.draw(finished)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else not_drawn(finished.path, error)
        print(f"warning: {visible(text)}", file=sys.stderr)
        return []


def _own(experiment: Experiment, out: Path) -> dict[str, Any]:
    """Of an experiment in a person's file: where it is, and what a reader without it needs."""
    if not experiment.where:
        return {}
    question = experiment.question
    return {
        OWN: {
            "class": experiment.where,
            "started_in": os.path.relpath(Path.cwd(), out.absolute()),
            "summary": experiment.summary,
            "level": experiment.level,
            "question": None if question is None else asdict(question),
        }
    }


# -- taking a run up again ----------------------------------------------------------------


def recorded_settings(experiment: Experiment, path: Path, manifest: Mapping[str, Any]) -> Any:
    """The settings of a recorded run, proved to belong to its plan.

    Raises:
        UserError: it is a run of another experiment.
        DamagedRunError: they cannot be read, or make another plan.
    """
    if manifest["experiment"] != experiment.name:
        raise UserError(
            f"{path} is a run of {manifest['experiment']}; continue it with: "
            f"sedabench run {shlex.quote(named_by(manifest))} --resume {shlex.quote(str(path))}"
        )
    try:
        parameters = dict(manifest["parameters"])
        parameters["servers"] = tuple(map(common.recorded_server, parameters["servers"]))
        settings: Settings = experiment.Settings.of(parameters)
        driver = (manifest.get("interpreters") or {}).get("driver", {}).get("path")
        if settings.python is not None and settings.python == driver:
            settings = settings.but(python=None)
        fits = _same_cells(experiment.plan(settings), manifest["plan"])
    except (UserError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedRunError(
            f"{path} is damaged: its settings cannot be read ({error}); start a new run"
        ) from None
    if not fits:
        raise DamagedRunError(
            f"{path} is damaged: its plan is not that of its settings; start a new run"
        )
    return settings


def _same_cells(made: Sequence[Cell], recorded: Sequence[Cell]) -> bool:
    """The same trials, in whatever order, numbered as they come."""

    def cells(plan: Sequence[Cell]) -> Counter[str]:
        return Counter(
            json.dumps({k: v for k, v in cell.items() if k != "trial"}, sort_keys=True)
            for cell in plan
        )

    numbers = [cell["trial"] for cell in recorded]
    return (
        cells(made) == cells(recorded)
        and numbers == list(range(len(recorded)))
        and all(type(number) is int for number in numbers)
    )
