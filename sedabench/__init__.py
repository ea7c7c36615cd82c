"""What decides, keeps and shows.

The package starts servers and load generators as processes of their own,
keeps what they measured in a run folder, and draws it.  It measures nothing
itself.  `import sedabench` is cheap: numpy, pandas and matplotlib are
imported by the function that needs them.

    >>> run = sedabench.run("figure1", quick=True, servers=["threaded", "eventloop"])
    >>> run = sedabench.load_run("results/figure1/2026-01-31T12-00-00Z")
    >>> valid = run.trials[run.trials.valid]
    >>> valid.groupby(["server", "connections"]).bandwidth_bps.median()
    >>> run.manifest["machine"]["cpu"]
    >>> sedabench.findings(run)           # what was found, in sentences
    >>> sedabench.plots.figure1(run)      # a matplotlib Figure

These names are the public interface; no module may be called as one of them
that is a function (`run`, `resume`, `findings`, `load_run`), for it would hide it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sedabench.analysis import stats
    from sedabench.api import findings, resume, run
    from sedabench.errors import DamagedRunError, UserError
    from sedabench.figures import plots
    from sedabench.results.folder import Run, load_run

__all__ = [
    "DamagedRunError", "Run", "UserError",
    "findings", "load_run", "plots", "resume", "run", "stats",
]  # fmt: skip

_LAZY = {
    "DamagedRunError": "sedabench.errors",
    "Run": "sedabench.results.folder",
    "UserError": "sedabench.errors",
    "findings": "sedabench.api",
    "load_run": "sedabench.results.folder",
    "resume": "sedabench.api",
    "run": "sedabench.api",
}
_MODULES = {"plots": "sedabench.figures.plots", "stats": "sedabench.analysis.stats"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'sedabench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
