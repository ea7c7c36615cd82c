"""An experiment of one's own: how does throughput fall as a request takes more work?

    sedabench run examples/own_experiment.py:Work --quick
    sedabench run examples/own_experiment.py:Work --work 100,1000 --server eventloop --server seda

Every request is for /compute?us=N, closed loop, for several N.  The class says
what is asked (each setting is an option, a key of a suite, and a keyword of
`sedabench.run`), what one trial sends, and what it is about; order, resuming,
checks, table, figure, page and comparison are as for every experiment:

    sedabench compare before after
    sedabench report before
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sedabench.analysis.compare import Question
from sedabench.experiments.plan import Cell
from sedabench.experiments.settings import Settings, setting
from sedabench.experiments.site import Site, SiteExperiment
from sedabench.results.folder import Column
from sedabench.trials import http_columns
from sedabench.trials.trial import Workload


class WorkSettings(Settings):
    QUICK: ClassVar[Mapping[str, Any]] = {**Settings.QUICK, "work_us": (50, 800)}

    work_us: tuple[int, ...] = setting(
        (50, 200, 800, 3200), "Computing that a request asks for.", unit="us", metavar="US,US", ge=1
    )
    connections: int = setting(32, "Connections of the closed loop.", metavar="N", ge=1)


class Work(SiteExperiment):
    """Throughput against the work of a request."""

    name = "work"
    summary = "throughput against the work of a request"
    Settings = WorkSettings
    level = "work_us"
    columns = (
        *http_columns.COLUMNS,
        Column("work_us", "int", "us", "computing that each request asked for"),
    )
    question = Question(("work_us",), ("throughput_rps", "latency_p99_us"))

    def workload(self, settings: WorkSettings, site: Site, cell: Cell) -> Workload:
        """Every server at every level is the plan that an experiment has by itself."""
        arguments = {
            "connections": settings.connections, "duration": settings.duration_s,
            "warmup": settings.warmup_s, "seed": settings.seed,
        }  # fmt: skip
        return site.load(arguments, tail_s=1.0, path=f"/compute?us={cell['work_us']}")
