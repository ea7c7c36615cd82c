"""What the commands of all experiments share: options, --resume alone, the report at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from loadgen.output import tell
from sedabench.errors import UserError

if TYPE_CHECKING:
    from sedabench.experiments.plan import Outcome
    from sedabench.results.folder import Run

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(name: str, warmup: str) -> Callable[[Command], Command]:
    """The options that every experiment has; `warmup` is the help of --warmup."""
    seconds = {"type": click.FloatRange(min=0), "metavar": "S"}
    positive = {"type": click.FloatRange(min=0, min_open=True), "metavar": "S"}
    folder = {"type": click.Path(path_type=Path), "metavar": "DIR"}
    out = f"The run folder, new or empty.  [default: ./results/{name}/<UTC time>]"
    resume = "Finish an interrupted run with its own settings; takes no other option."
    options: tuple[tuple[tuple[str, ...], dict[str, Any], str], ...] = (
        (("--repeats",), {"type": click.IntRange(min=1)}, "Trials of each server at each level."),
        (("--duration", "duration_s"), positive, "Length of the measured window, in seconds."),
        (("--warmup", "warmup_s"), seconds, warmup),
        (("--seed",), {"type": click.IntRange(min=0)}, "Draws the order of the trials.  [default: 2001]"),  # noqa: E501
        (("--python",), {"metavar": "PATH"}, "The servers' interpreter.  [default: this one]"),
        (("--out",), folder, out),
        (("--resume", "resumed"), folder, resume),
    )  # fmt: skip

    def add(command: Command) -> Command:
        for names, how, text in reversed(options):
            command = click.option(*names, **how, help=text)(command)
        return command

    return add


def levels(
    _ctx: click.Context, _param: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """ "1,16,64" as a tuple of positive whole numbers, ascending."""
    if text is None:
        return None
    try:
        found = sorted(int(part) for part in text.split(","))
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise UserError(
            f"levels must be positive whole numbers, not {text!r}; write --connections 1,16,64"
        )
    return tuple(found)


def carry_out(
    ctx: click.Context,
    name: str,
    out: Path | None,
    resumed: Path | None,
    settings: Mapping[str, Any],
    *,
    quick: bool,
    servers: tuple[str, ...],
    definitions: tuple[Path, ...] = (),
) -> None:
    """Run an experiment, or take its run up again, and report.

    `settings` are the options of the command by the name of their setting, None
    where an option was not given.
    """
    from sedabench.experiments.settings import configure, runnable
    from sedabench.progress import Progress, about, standard_output
    from sedabench.results.folder import new_folder_path

    console = standard_output()
    if resumed is not None:
        _only_resume(ctx)
        _report(console, *runnable(name).resume(resumed, Progress(console)))
        return
    given = {key: value for key, value in settings.items() if value is not None}
    config = configure(name, given, quick=quick, servers=servers or None, definitions=definitions)
    path = out if out is not None else new_folder_path(Path("results"), name)
    experiment, progress = runnable(name), Progress(console)
    experiment.check(config)
    plan = experiment.plan_of(config)
    labels = ", ".join(spec.label for spec in config.servers)
    trials = f"{len(plan)} trial{'s' if len(plan) > 1 else ''}"
    progress.say(f"{labels}: {trials}, about {about(sum(map(config.estimate_s, plan)))}")
    _report(console, *experiment.run(config, path, progress))


def finish(folder: Path) -> None:
    """Take up the run in `folder`, of whatever experiment it is, and report."""
    from sedabench.experiments.settings import runnable
    from sedabench.progress import Progress, standard_output
    from sedabench.results.folder import read_folder

    experiment = runnable(read_folder(folder)[0]["experiment"])
    console = standard_output()
    _report(console, *experiment.resume(folder, Progress(console)))


def _only_resume(ctx: click.Context) -> None:
    """Refuse any other option beside --resume: a run is finished with its own settings."""
    for name in ctx.params:
        if name != "resumed" and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = next(p.opts[0] for p in ctx.command.params if p.name == name)
            raise UserError(f"--resume takes its settings from the run folder; leave out {flag}")


def _report(console: Any, finished: Run, outcome: Outcome) -> None:
    """Table, sentences, warnings and, last, where it all is."""
    from sedabench.experiments import find

    name = finished.manifest["experiment"]
    if len(finished.trials):
        find(name).show(finished, console)
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
