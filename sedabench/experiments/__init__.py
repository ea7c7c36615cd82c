"""The registry of experiments: a sweep of trials with a question.

A new experiment is one new file here and one line below.  Its module has the
functions of `Experiment`; its settings are a frozen dataclass, so that the
command line and a notebook can both make one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from sedabench.errors import unknown
from sedabench.results import Run

EXPERIMENTS: dict[str, str] = {
    "figure1": "sedabench.experiments.figure1",
    "overload": "sedabench.experiments.overload",
    "peers": "sedabench.experiments.peers",
    "swarm": "sedabench.swarm",
}
"""name -> module; imported only when asked for."""


class Experiment(Protocol):
    """What the module of an experiment has."""

    SUMMARY: str

    def draw(self, run: Run) -> list[Path]:
        """(Re)draw every figure of a run into its folder; return the files."""

    def show(self, run: Run, console: Any) -> None:
        """Print table and sentences to a `rich` console."""


def find(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return cast(Experiment, importlib.import_module(EXPERIMENTS[name]))
