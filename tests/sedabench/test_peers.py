"""peers: what is said of a run whose numbers are known."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import sedabench
from sedabench.errors import UserError
from sedabench.experiments.peers import Peers
from sedabench.results.folder import Run

FULL = "the load generator's core was saturated (98%): what it measured is a lower bound"
LATE = "requests were sent late: 99th percentile 2 ms"


def a_run(*trials: tuple[str, int, float, str]) -> Run:
    """Trials as server, connections, requests/s, why it is invalid."""
    frame = pd.DataFrame(
        trials, columns=["server", "connections", "throughput_rps", "invalid_reason"]
    )
    frame["valid"] = frame["invalid_reason"] == ""
    frame["workload"] = "static"
    labels = dict.fromkeys(frame["server"])
    servers = [{"label": label, "architecture": label, "options": []} for label in labels]
    levels = sorted(set(frame["connections"]))
    manifest = {
        "experiment": "peers", "started_utc": "2026-01-31T12:00:00Z", "seed": 1, "git": None,
        "parameters": {"servers": servers, "connections": levels, "repeats": 4, "duration_s": 1.0},
        "machine": {"cpu": "a processor", "cores_logical": 2, "kernel": "Linux"},
        "interpreters": {"server": {"title": "CPython"}}, "versions": {}, "plan": [{}] * len(frame),
    }  # fmt: skip
    return Run(Path("none"), manifest, frame)


PEERS = Peers()

RUN = a_run(
    ("seda", 64, 8000, ""),
    ("seda", 64, 12_000, ""),
    ("nginx", 64, 40_000, ""),
    ("nginx", 64, 90_000, FULL),
    ("seda", 1024, 5000, ""),
    ("nginx", 1024, 9000, FULL),
    ("nginx", 1024, 11_000, FULL),
    ("nginx", 1024, 99_000, f"{FULL} | {LATE}"),
)


def test_the_fastest_at_each_level_is_named_with_the_others_as_shares_of_it() -> None:
    assert PEERS.sentences(RUN) == [
        "4 of 8 trials are invalid: the load generator's core was saturated (98%) (4).",
        "With 64 connections nginx answers 40,000 requests/s; as a share of that: seda 0.25.",
        (
            "With 1024 connections nginx answers at least 10,000 requests/s, for the load "
            "generator was the limit; as a share of that: seda 0.50."
        ),
    ]


def test_the_table_has_each_server_in_its_order_with_the_range_of_its_trials() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    PEERS.show(RUN, console)
    rows = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert rows[4:6] == [
        "seda 10,000 (8,000 to 12,000) 5,000",
        "nginx 40,000 at least 10,000 (9,000 to 11,000)",
    ]


def test_nothing_valid_is_said_without_a_number() -> None:
    run = a_run(("seda", 1, 8000, LATE), ("eventloop", 1, 9000, ""))
    assert PEERS.sentences(run) == [
        "1 of 2 trials is invalid: requests were sent late (1).",
        "With 1 connection eventloop answers 9,000 requests/s.",
        "With 1 connection no trial is valid of seda.",
    ]


def test_the_figure_has_a_panel_a_level_and_a_line_a_server() -> None:
    figure = sedabench.plots.throughput(RUN)
    assert figure is not None
    first, second = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "64 connections", "1024 connections",
    ]  # fmt: skip
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["seda", "nginx"]
    assert first.get_xlim() == second.get_xlim()


def test_what_measured_nothing_has_no_figure() -> None:
    nothing = a_run(("seda", 64, float("nan"), "the server did not answer"))
    assert sedabench.plots.throughput(nothing) is None


def test_a_run_of_something_else_is_refused_by_name() -> None:
    trials = RUN.trials.rename(columns={"throughput_rps": "bandwidth_bps"})
    other = Run(RUN.path, {**RUN.manifest, "experiment": "figure1"}, trials)
    said = "is a run of figure1; it has no column 'throughput_rps', which throughput is drawn from"
    with pytest.raises(UserError, match=said):
        sedabench.plots.throughput(other)
