"""The figures on the page of experiments that sweep over connections: `figure1` and `peers`."""

from __future__ import annotations

from typing import Any

from sedabench.figures.charts import (
    MILLISECONDS,
    Axis,
    Chart,
    Mark,
    Panel,
    chart,
    connections_axis,
    curves,
)
from sedabench.figures.figure1 import PAPER_THREADS_STOP
from sedabench.results.folder import Run


def figure1(run: Run) -> list[Chart]:
    """Bandwidth, latency, fairness and CPU against connections."""
    x = connections_axis(run.trials)
    trials = run.trials[run.trials["connections"] > 0]
    paper = (Mark("threads of the paper stopped here", x=float(PAPER_THREADS_STOP)),)
    most = max((value for value, _ in x.ticks), default=0.0)
    marks = paper if most >= PAPER_THREADS_STOP / 4 else ()

    def made(
        y: Axis, factor: float, *columns: tuple[str, str], marks: tuple[Mark, ...] = ()
    ) -> Any:
        return curves(run, trials, "connections", columns, x, y, factor, marks)

    return [
        *chart(
            run, "bandwidth", "How does bandwidth change with the number of connections?",
            made(Axis("bandwidth (Gbit/s)", "Gbit/s"), 1e-9, ("bandwidth_bps", "bandwidth"),
                 marks=marks),
        ),
        *chart(
            run, "latency", "How long does a burst take, from its first byte to its ACK?",
            made(MILLISECONDS, 1e-3, ("ack_p50_us", "median"), ("ack_p99_us", "99th percentile")),
        ),
        *chart(
            run, "shared", "Is every connection served alike, and what does it cost?",
            (*made(Axis("Jain's index", low=0, high=1), 1.0, ("jain_fairness", "fairness")),
             *made(Axis("cores", "cores", low=0), 1.0, ("server_cpu", "CPU of the server"))),
        ),
    ]  # fmt: skip


def peers(run: Run) -> list[Chart]:
    """Throughput and latency against connections."""
    x = connections_axis(run.trials)
    trials = run.trials[run.trials["connections"] > 0]

    def made(y: Axis, factor: float, *columns: tuple[str, str]) -> tuple[Panel, ...]:
        return curves(run, trials, "connections", columns, x, y, factor)

    return [
        *chart(
            run, "throughput", "How much does each answer?",
            made(Axis("requests/s", "requests/s"), 1.0, ("throughput_rps", "throughput")),
        ),
        *chart(
            run, "latency", "How long does an answer take?",
            made(MILLISECONDS, 1e-3, ("latency_p50_us", "median"),
                 ("latency_p99_us", "99th percentile")),
        ),
    ]  # fmt: skip
