"""The registry of experiments: a sweep of trials with a question.

A new experiment is one new file here and one line below.  Its module has the
functions of `Experiment`; its settings are a frozen dataclass.  A line in
`settings.KINDS` lets the command line, notebooks and suites make one from keys
and values and run it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sedabench.errors import unknown
from sedabench.results.folder import Run

if TYPE_CHECKING:
    from sedabench.experiments.plan import Outcome
    from sedabench.progress import Progress

EXPERIMENTS: dict[str, str] = {
    "figure1": "sedabench.experiments.figure1",
    "overload": "sedabench.experiments.overload",
    "peers": "sedabench.experiments.peers",
    "swarm": "sedabench.swarm.run",
}
"""name -> module; imported only when asked for."""


class Experiment(Protocol):
    """What the module of an experiment has."""

    SUMMARY: str

    def draw(self, run: Run) -> list[Path]:
        """(Re)draw every figure of a run into its folder; return the files."""

    def show(self, run: Run, console: Any) -> None:
        """Print table and sentences to a `rich` console."""


class Runnable(Experiment, Protocol):
    """What the module of an experiment in `settings.KINDS` has besides."""

    def run(self, config: Any, out: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
        """Measure a new run into a folder that is new or empty."""

    def resume(self, path: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
        """Measure what an interrupted run lacks."""

    def check(self, config: Any) -> None:
        """Find out what would make trials fail, as `UserError`."""

    def plan_of(self, config: Any) -> list[dict[str, Any]]:
        """The trials of a run with these settings."""


def find(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return cast(Experiment, importlib.import_module(EXPERIMENTS[name]))
