"""peers: how fast are servers that nobody here wrote at the same work?

The static workload (SPECweb99's files), closed loop, at a few numbers of
connections: our architectures beside nginx, Apache httpd and whatever else is
installed or defined.  Throughput only; what happens beyond it is the question
of `overload --workload static`, which takes the same servers.  The loads of an
overload run are multiples of the fastest server's capacity, so nginx and a
server in Python in one such run would show the one at rest and the other
always flooded; here each is asked for what it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sedabench.analysis import peers as summary
from sedabench.analysis.compare import Question
from sedabench.experiments.plan import Cell
from sedabench.experiments.settings import Settings, setting
from sedabench.experiments.site import Site, SiteExperiment
from sedabench.figures import charts_levels
from sedabench.figures.charts import Chart
from sedabench.figures.peers import throughput
from sedabench.results.folder import Run
from sedabench.targets import ours
from sedabench.targets.external import ExternalSpec, joining
from sedabench.targets.servers import AnyServer, parse_specs
from sedabench.trials.trial import Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKLOAD = "static"

HELP = """Closed-loop throughput of SPECweb99's files, ours beside servers nobody here wrote.

\b
Examples:
  sedabench run peers --quick
  sedabench run peers --server seda --server nginx --connections 64
  sedabench run peers --definitions mine.toml
"""


class PeersSettings(Settings):
    """In full about 20 minutes for nine servers, quick about two."""

    QUICK: ClassVar[Mapping[str, Any]] = {
        "connections": (64, 1024), "repeats": 2, "duration_s": 1.0, "warmup_s": 0.5,
    }  # fmt: skip
    QUICK_HELP: ClassVar[str] = (
        "Few levels and repeats, short windows: two minutes. Without it 20 minutes."
    )

    servers: tuple[Any, ...] = setting(
        (),
        "A server to compare, one of your own as path/to/file.py:ClassName; repeat it.  "
        "[default: our architectures and every other that is installed]",
        option="--server",
        metavar="[LABEL=]NAME [OPTIONS]",
    )
    connections: tuple[int, ...] = setting(
        (1, 16, 64, 256, 1024), "The levels.", metavar="N,N,...", ge=1
    )


class Peers(SiteExperiment):
    """Throughput beside servers that nobody here wrote."""

    name = "peers"
    summary = "throughput of static files beside nginx, Apache httpd and others"
    help = HELP
    Settings = PeersSettings
    question = Question(("connections",), ("throughput_rps", "latency_p99_us"))
    definitions = True

    def offered(self, settings: PeersSettings) -> str:
        return WORKLOAD

    def usual_servers(
        self, settings: PeersSettings, external: Mapping[str, ExternalSpec], *, quick: bool
    ) -> tuple[AnyServer, ...]:
        """Our architectures, and the others that serve static files: see `joining`."""
        mine = parse_specs(tuple(ours.architectures()), {})
        return (*mine, *joining(external, WORKLOAD))

    def plan(self, settings: PeersSettings) -> list[dict[str, Any]]:
        """Every server at every level, in the order in which they are measured."""
        return [{**cell, "phase": "capacity"} for cell in super().plan(settings)]

    def workload(self, settings: PeersSettings, site: Site, cell: Cell) -> Workload:
        """A closed loop."""
        arguments = {
            "connections": cell["connections"], "duration": settings.duration_s,
            "warmup": settings.warmup_s, "seed": settings.seed,
        }  # fmt: skip
        return site.load(arguments, tail_s=1.0)

    def describe(self, row: Mapping[str, Any]) -> str:
        """A finished trial in one line."""
        cell = f"{row['server']} {row['connections']}"
        if row["throughput_rps"] is None:
            return f"{cell}  no result: {row['invalid_reason']}"
        invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
        return f"{cell}  {row['throughput_rps']:.0f} requests/s{invalid}"

    def sentences(self, run: Run) -> list[str]:
        return summary.sentences(run)

    def table(self, run: Run) -> Any:
        return summary.table(run)

    def figures(self, run: Run) -> Mapping[str, Callable[[Run], Figure | None]]:
        return {"figure": throughput}

    def charts(self, run: Run) -> list[Chart]:
        return charts_levels.peers(run)
