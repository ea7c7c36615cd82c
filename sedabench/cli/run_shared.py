"""What the commands of all experiments share: --resume alone, and the report at the end."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from loadgen.output import tell
from sedabench.errors import UserError

if TYPE_CHECKING:
    from sedabench.experiments.base import Experiment
    from sedabench.experiments.plan import Outcome
    from sedabench.results.folder import Run


def carry_out(
    ctx: click.Context,
    experiment: Experiment,
    out: Path | None,
    resumed: Path | None,
    quick: bool,
    servers: tuple[str, ...],
    definitions: tuple[Path, ...] = (),
    **settings: Any,
) -> None:
    """Run an experiment, or take its run up again, and report.

    `settings` are the options of the command by the name of their setting, None
    where an option was not given.
    """
    from sedabench.experiments import carry_out as carrying
    from sedabench.experiments.configure import configure
    from sedabench.progress import Progress, about, standard_output
    from sedabench.results.folder import new_folder_path

    console = standard_output()
    progress = Progress(console)
    if resumed is not None:
        _only_resume(ctx)
        _report(console, experiment, *carrying.resume(experiment, resumed, progress))
        return
    given = {key: value for key, value in settings.items() if value is not None}
    config = configure(
        experiment, given, quick=quick, servers=servers or None, definitions=definitions
    )
    path = out if out is not None else new_folder_path(Path("results"), experiment.name)
    carrying.check(experiment, config)
    plan = carrying.plan_of(experiment, config)
    labels = ", ".join(spec.label for spec in config.servers) or experiment.name
    trials = f"{len(plan)} trial{'s' if len(plan) > 1 else ''}"
    lasts_s = carrying.lasts_s(experiment, config, plan)
    progress.say(f"{labels}: {trials}, about {about(lasts_s)}")
    _report(console, experiment, *carrying.run(experiment, config, path, progress))


def finish(folder: Path) -> None:
    """Take up the run in `folder`, of whatever experiment it is, and report."""
    from sedabench.experiments import carry_out as carrying
    from sedabench.experiments.registry import of_folder
    from sedabench.progress import Progress, standard_output

    experiment = of_folder(folder)
    console = standard_output()
    _report(console, experiment, *carrying.resume(experiment, folder, Progress(console)))


def _only_resume(ctx: click.Context) -> None:
    """Refuse any other option beside --resume: a run is finished with its own settings."""
    for name in ctx.params:
        if name != "resumed" and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise UserError(f"--resume takes its settings from the run folder; leave out {flag}")


def _report(console: Any, experiment: Experiment, finished: Run, outcome: Outcome) -> None:
    """Table, sentences, warnings and, last, where it all is."""
    from sedabench.experiments.registry import shown_by

    name = shlex.quote(experiment.where or experiment.name)
    if len(finished.trials):
        with shown_by(experiment, finished, "it cannot be shown"):
            experiment.show(finished, console)
    for warning in finished.manifest.get("warnings", ()):
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    if outcome.signum is not None:
        tell(
            f"interrupted: {outcome.finished} of {outcome.planned} trials are kept; finish with: "
            f"sedabench run {name} --resume {shlex.quote(str(finished.path))}"
        )
        sys.exit(128 + outcome.signum)
    figures = sorted(finished.path.glob("*.png"))
    if len(figures) == 1:
        tell(f"{finished.path}  (figure: {figures[0]})")
    elif figures:
        names = ", ".join(figure.name for figure in figures)
        tell(f"{finished.path}  (figures: {names})")
    else:
        tell(str(finished.path))
