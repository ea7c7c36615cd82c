"""What a notebook or a script calls: `sedabench.run`, `sedabench.resume`, `sedabench.findings`.

A thin layer, as the command is one: the same settings, the same checks, the
same folder.  What only differs is that an interruption is raised, so that a
script stops too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedabench.errors import StoppedBySignal, UserError

if TYPE_CHECKING:
    from sedabench.experiments.plan import Outcome
    from sedabench.progress import Progress
    from sedabench.results.folder import Run

KEYWORDS = ("out", "progress")
"""Keywords of `run` that are no settings."""


def run(
    experiment: str,
    *,
    quick: bool = False,
    servers: Iterable[str] | None = None,
    definitions: Iterable[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **settings: Any,
) -> Run:
    """Run an experiment and return what was measured.

    The same as `sedabench run EXPERIMENT`, with the same checks, into the same
    kind of folder.  It starts servers and load generators as processes of their
    own, and returns when the last trial is finished.

    Args:
        experiment: "figure1", "overload" or "peers"; one of your own as
            "path/to/file.py:ClassName".
        quick: begin with the settings of --quick instead of the full ones.
        servers: what is compared, each as behind --server: "seda --batch 32",
            "mine=threaded --writers 16".  None: those of the experiment.
        definitions: TOML files with servers that are not ours (docs/external-servers.md).
        out: the run folder, new or empty.  None: ./results/EXPERIMENT/<UTC time>.
        progress: print a bar on a terminal, a line a trial elsewhere.
        settings: any other field of the experiment's `Settings`: docs/suites.md has them,
            and `sedabench run EXPERIMENT --help`, where they are options.  Names end in
            their units: `duration_s`, `warmup_s`, `timeout_s` in seconds, `slo_ms` in
            milliseconds; `loads` are multiples of the measured capacity;
            `packet_bytes` are bytes.

    Raises:
        UserError: an unknown setting (the nearest known one is named), a value that
            cannot be, a server that does not start, a folder that cannot be used;
            before the first trial, unless no server has a valid trial of its capacity.
        KeyboardInterrupt: interrupted.  What is finished is kept; its text says how
            to `resume`.

    Example:
        >>> import sedabench
        >>> run = sedabench.run("overload", quick=True, workload="dynamic",
        ...                     servers=["eventloop", "seda --batch 32"], loads=[0.5, 2])
        >>> valid = run.trials[run.trials.valid]
        >>> valid.groupby(["server", "load"])["goodput_rps"].median()
        >>> sedabench.plots.goodput(run)
    """
    from sedabench.experiments import carry_out
    from sedabench.experiments.configure import configure
    from sedabench.experiments.registry import runnable
    from sedabench.results.folder import new_folder_path

    _only_main_thread()
    asked = runnable(experiment)
    config = configure(
        asked, settings, quick=quick, servers=servers, definitions=definitions,
        also_known=KEYWORDS,
    )  # fmt: skip
    folder = new_folder_path(Path("results"), asked.name) if out is None else Path(out)
    return _finished(*carry_out.run(asked, config, folder, _progress(progress)))


def resume(path: str | os.PathLike[str], *, progress: bool = False) -> Run:
    """Measure what the interrupted run in the folder `path` lacks, with its own settings.

    A run that is complete is returned as it is.

    Raises:
        DamagedRunError: the folder cannot be understood.
        UserError: it is not a run of `sedabench.run`, or another process is writing it.
        KeyboardInterrupt: interrupted again.
    """
    from sedabench.experiments import carry_out
    from sedabench.experiments.registry import of_folder

    _only_main_thread()
    folder = Path(path)
    return _finished(*carry_out.resume(of_folder(folder), folder, _progress(progress)))


def findings(run: Run) -> list[str]:
    """What was found, in the sentences that the command prints, computed from the trials."""
    from sedabench.experiments.registry import of_run, shown_by

    if not len(run.trials):
        return []
    experiment = of_run(run)
    with shown_by(experiment, run, "its sentences cannot be made"):
        return experiment.sentences(run)


def _finished(run: Run, outcome: Outcome) -> Run:
    if outcome.signum is None:
        return run
    stopped = StoppedBySignal(outcome.signum)
    kept = f"{outcome.finished} of {outcome.planned} trials are kept"
    stopped.args = (f"{kept}; finish with: sedabench.resume({str(run.path)!r})",)
    raise stopped


def _progress(wanted: bool) -> Progress:
    from sedabench.progress import Progress, standard_output

    return Progress(standard_output() if wanted else None)


def _only_main_thread() -> None:
    """Only there can a signal be made to stop the processes of a trial."""
    if threading.current_thread() is not threading.main_thread():
        raise UserError("an experiment runs in the main thread only; call it from there")
