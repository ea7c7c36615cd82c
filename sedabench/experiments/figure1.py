"""figure1: how does bandwidth change with the number of connections?

The experiment behind Figure 1 of Welsh and Culler, "Virtualization Considered
Harmful: OS Design Directions for Well-Conditioned Services" (HotOS 2001): N
clients send bursts of 1000 packets of 8 KB, closed loop, and wait for one
32-byte acknowledgement a burst.  The paper's claim: a thread per connection
degrades with N and stops at about 400; events do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from sedabench.analysis import figure1 as summary
from sedabench.analysis.compare import Question
from sedabench.experiments.base import Experiment
from sedabench.experiments.plan import Cell
from sedabench.experiments.settings import Settings, setting
from sedabench.figures import charts_levels
from sedabench.figures.charts import Chart
from sedabench.figures.figure1 import figure1
from sedabench.results.folder import Run
from sedabench.trials import burst_columns
from sedabench.trials.trial import Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_OPTIONS: dict[str, tuple[str, ...]] = {
    "threaded": ("--writers", "120", "--blocking-writers")
}
"""Options of a server that is named without any: the paper's variant of threads."""

FILLING, LONGEST_FILLING_S = 512, 8.0
"""Connections a second is added to the warm-up for, and how many seconds at most.

Before the flow is steady, the buffers of all connections have filled in the
first rush, and the server has caught up: with 1024 connections and 0.6 s of
warm-up the server's count was up to 8 % off the client's, with 2.3 s under
0.1 % in most trials; with 8192 and 9 s, 0.1 %.
"""

ANSWERING = 2048
"""Connections a second of load after the window is added for.

A server with a thread for each of 8192 connections answers `/stats` 2 to 3 s
after it was asked; the load must last until then, or the counts of the two
sides cannot be compared.
"""

LARGEST_BUFFER, SMALLEST_BUFFER, BUFFERS = 128 << 10, 16 << 10, 1 << 30
"""Bytes of a receive buffer, and of all together: what the load generator's send buffers have."""


HELP = """Bandwidth of bursts against the number of connections: the paper's Figure 1.

Every trial starts a fresh server and a fresh load generator on cores of
their own. Trials run in a random order drawn from --seed. Ctrl-C keeps
what is finished; --resume does the rest.

\b
Examples:
  sedabench run figure1 --quick
  sedabench run figure1 --connections 1,64,512 --repeats 3 --duration 2
  sedabench run figure1 --quick --server eventloop --server 'eventloop --poller poll'
  sedabench run figure1 --quick --server 'paper=threaded --writers 120 --blocking-writers' \\
                                --server 'plain=threaded --writers 0'
  sedabench run figure1 --resume results/figure1/2026-01-31T12-00-00Z

In the folder: figure.png, figure.svg, trials.csv (a row a trial) and
manifest.json (machine, versions, settings). From Python:
sedabench.load_run(DIR).trials is a pandas DataFrame.
"""


class Figure1Settings(Settings):
    """In full 14 levels, about 25 minutes; quick 5 levels, a minute and a bit."""

    QUICK: ClassVar[Mapping[str, Any]] = {
        "connections": (1, 16, 64, 256, 1024), "repeats": 2, "duration_s": 1.0, "warmup_s": 0.3,
    }  # fmt: skip
    QUICK_HELP: ClassVar[str] = (
        "Few levels and repeats, short windows: under 90 s. Without it 25 minutes."
    )

    servers: tuple[Any, ...] = setting(
        (),
        "A server to compare, one of your own as path/to/file.py:ClassName; repeat it. A bare "
        "name takes the paper's settings ('threaded' is 'threaded --writers 120 "
        "--blocking-writers').  "
        "[default: threaded, eventloop, seda]",
        option="--server",
        metavar="[LABEL=]NAME [OPTIONS]",
    )
    connections: tuple[int, ...] = setting(
        tuple(2**power for power in range(14)), "The levels.", metavar="N,N,...", ge=1
    )
    packets: int = setting(1000, "Packets in a burst.", metavar="N", ge=1)
    packet_bytes: int = setting(
        8192, "Bytes in a packet.", option="--packet-bytes", metavar="N", unit="bytes", ge=1
    )
    warmup_s: float = setting(
        1.0,
        "Warm-up before it, in seconds; to it is added a second for every 512 connections, 8 at "
        "most, while kernel buffers fill.",
        unit="s",
        metavar="S",
        ge=0,
    )

    def warmup_for(self, connections: int) -> float:
        """The warm-up of a level, in seconds: the base, and one for every `FILLING`, to a limit."""
        return round(self.warmup_s + min(LONGEST_FILLING_S, connections / FILLING), 3)

    def tail_for(self, connections: int) -> float:
        """How long load goes on after the window, in seconds: 0.5, and 1 for every `ANSWERING`."""
        return round(0.5 + connections / ANSWERING, 3)

    def receive_buffer_for(self, connections: int) -> int:
        """SO_RCVBUF of the server's connections in bytes, the same for every server.

        Left to itself the kernel grows each to megabytes while a trial runs;
        then the client hands over bytes that no server has read, and bandwidth
        depends on how long one waits.
        """
        return max(SMALLEST_BUFFER, min(LARGEST_BUFFER, BUFFERS // connections))


class Figure1(Experiment):
    """The paper's Figure 1."""

    name = "figure1"
    summary = "bandwidth of bursts against the number of connections (the paper's Figure 1)"
    help = HELP
    Settings = Figure1Settings
    columns = burst_columns.COLUMNS
    question = Question(("connections",), ("bandwidth_bps",))

    def usual_options(self, settings: Figure1Settings) -> Mapping[str, tuple[str, ...]]:
        return DEFAULT_OPTIONS

    def estimate_s(self, settings: Figure1Settings, cell: Cell) -> float:
        """0.7 s are start and stop."""
        n = int(cell["connections"])
        flowing = settings.warmup_for(n) + settings.duration_s + settings.tail_for(n)
        return 0.7 + n / 4000 + flowing

    def manifest(self, settings: Figure1Settings, shared: Any) -> dict[str, Any]:
        levels = settings.connections
        return {
            "warmup_by_connections_s": {str(n): settings.warmup_for(n) for n in levels},
            "receive_buffer_by_connections_bytes": {
                str(n): settings.receive_buffer_for(n) for n in levels
            },
        }

    def workload(self, settings: Figure1Settings, shared: Any, cell: Cell) -> Workload:
        connections = int(cell["connections"])
        warmup_s, tail_s = settings.warmup_for(connections), settings.tail_for(connections)
        size = ("--packets", str(settings.packets), "--packet-bytes", str(settings.packet_bytes))
        buffer = str(settings.receive_buffer_for(connections))
        return Workload(
            name="burst",
            columns=burst_columns,
            arguments=(
                "--connections", str(connections), "--duration", str(settings.duration_s),
                "--warmup", str(warmup_s), "--tail", str(tail_s), *size, "--events",
            ),
            service="burst",
            service_options=(*size, "--receive-buffer", buffer),
            connections=connections,
            warmup_s=warmup_s,
            duration_s=settings.duration_s,
            tail_s=tail_s,
        )  # fmt: skip

    def describe(self, row: Mapping[str, Any]) -> str:
        """A finished trial in one line."""
        cell = f"{row['server']} {row['connections']}"
        if row["bandwidth_bps"] is None:
            return f"{cell}  no result: {row['invalid_reason']}"
        invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
        return f"{cell}  {row['bandwidth_bps'] / 1e9:.2f} Gbit/s{invalid}"

    def sentences(self, run: Run) -> list[str]:
        return summary.sentences(run)

    def table(self, run: Run) -> Any:
        return summary.table(run)

    def figures(self, run: Run) -> Mapping[str, Callable[[Run], Figure | None]]:
        return {} if run.trials["bandwidth_bps"].isna().all() else {"figure": figure1}

    def charts(self, run: Run) -> list[Chart]:
        return charts_levels.figure1(run)
