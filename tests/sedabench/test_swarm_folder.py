"""The folder of a swarm, written as it goes: from records that the master would have written."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loadgen.engine.account import COUNTS, LAG, LATENCY, SERVICE
from loadgen.swarm.record import Record
from sedabench import load_run, report
from sedabench.analysis import compare
from sedabench.errors import UserError
from sedabench.experiments.registry import find
from sedabench.swarm.folder import SwarmFolder
from sedabench.swarm.server import Moment, ServerWatch, columns
from sedabench.swarm.settings import Swarm, own_duration_s

RATE = 1000.0

OVERLOAD = Swarm(
    "http://127.0.0.1:1/", RATE, "overload", duration=4, warmup=0, loads="0.5,1", timeout=1
)


def report_of(trial: int, count: int) -> dict[str, Any]:
    """Half a second of one of two workers."""
    counts = dict.fromkeys(COUNTS, 0) | {"ns": 500_000_000}
    counts |= dict.fromkeys(("scheduled", "sent", "answered", "done", "done_good"), count)
    cells = [(trial, kind, 0, bucket, count) for kind, bucket in
             ((LATENCY, 500), (SERVICE, 490), (LAG, 100))]  # fmt: skip
    return {
        "elapsed_s": 0.5, "trials": {str(trial): counts}, "cells": cells, "error_kinds": {},
        "cpu_s": 0.1, "limited": False, "first_wrong": "",
    }  # fmt: skip


class Told:
    """A master's record that grows as time goes by."""

    def __init__(self, config: Swarm, begun_s: float = 0.0) -> None:
        names = ("target", "rate", "mix", "arrivals", "seed", "connections", "warmup", "timeout",
                 "slo", "shape", "duration", "loads", "spike")  # fmt: skip
        self.config = config
        self.record = Record({name: getattr(config, name) for name in names}, begun_s=begun_s)
        self.record.classes = [("GET", "/")]
        self.record.workers = {w: {"connected": 64, "kernel": "Linux 6"} for w in ("a", "b")}
        self.elapsed_s = 0.0

    def go_on(self, for_s: float) -> dict[str, Any]:
        for _ in range(round(for_s / 0.5)):
            trial = int(self.elapsed_s // self.config.duration)
            load = float(self.config.loads.split(",")[trial])
            self.record.asked(trial, load, "sweep", self.elapsed_s)
            self.elapsed_s += 0.5
            self.record.asked(trial, load, "sweep", self.elapsed_s - 0.01)
            for worker in ("a", "b"):
                news = report_of(trial, round(RATE * load / 4))
                self.record.add(worker, news, self.elapsed_s)
        return self.to_json("running")

    def to_json(self, status: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(self.record.to_json(status)))
        return found


def whole_run(path: Path, config: Swarm = OVERLOAD) -> Path:
    told = Told(config)
    folder = SwarmFolder(path, config, 2, ServerWatch(""), told.go_on(4))
    told.go_on(4)
    folder.take(told.to_json("complete"), "the master ended")
    folder.close()
    return path


def test_whatever_is_killed_the_folder_has_what_was_measured_until_then(tmp_path: Path) -> None:
    told = Told(OVERLOAD)
    said = told.go_on(1)
    folder = SwarmFolder(tmp_path / "run", OVERLOAD, 2, ServerWatch(""), said)
    folder.take(said)
    (row,) = load_run(tmp_path / "run").trials.to_dict("records")
    assert row["answered"] == 500
    assert not row["valid"]
    assert row["invalid_reason"] == "it ended after 1.0 of 4 s"
    folder.take(told.go_on(5))
    run = load_run(tmp_path / "run")
    assert run.manifest["status"] == "running"
    assert run.trials["valid"].tolist() == [True, False]
    assert run.trials["answered"].tolist() == [2000, 2000]
    folder.take(told.to_json("running"), "the master ended with exit status -9")
    folder.close()
    run = load_run(tmp_path / "run")
    assert run.manifest["status"] == "interrupted"
    assert "exit status -9" in run.manifest["warnings"][-1]
    assert len(run.trials) == 2


def test_a_row_has_what_was_asked_offered_answered_and_used(tmp_path: Path) -> None:
    run = load_run(whole_run(tmp_path / "run"))
    assert run.manifest["status"] == "complete"
    assert set(run.manifest["machines"]) == {"a", "b"}
    for row, load in zip(run.trials.to_dict("records"), (0.5, 1), strict=True):
        assert (row["load"], row["phase"], row["workers"]) == (load, "sweep", 2)
        assert row["asked_rps"] == pytest.approx(load * RATE)
        assert row["offered_rps"] == row["throughput_rps"] == pytest.approx(load * RATE)
        assert row["client_cpu"] == pytest.approx(0.4)
        assert row["valid"], row["invalid_reason"]


def test_plot_show_and_report_read_it(tmp_path: Path) -> None:
    run = load_run(whole_run(tmp_path / "run"))
    assert {path.suffix for path in find("swarm").draw(run)} == {".png", ".svg"}
    console = Console(record=True, width=120)
    find("swarm").show(run, console)
    assert "500.0" in console.export_text()
    page = report.write([run.path]).read_text()
    assert "from many machines" in page
    assert "trials" in page


def test_two_swarms_are_compared_load_by_load(tmp_path: Path) -> None:
    a, b = (load_run(whole_run(tmp_path / name)) for name in ("a", "b"))
    found = compare.compare(a, b, find("swarm").question_of(a))
    assert {cell.level for cell in found.cells} == {(0.5,), (1.0,)}
    assert all(cell.ratio is None or cell.ratio.value == 1 for cell in found.cells)


def moment(at_s: float, replies: int, **more: Any) -> Moment:
    stats = {
        "architecture": "seda", "threads": 19, "replies": replies, "requests": replies,
        "rejected": 0, "connections": {"now": 128, "refused": 0}, "errors": {"reset": 2},
        "stages": [{"name": "read", "queue_length": 3, "threads": 1, "batch": 256}],
        "admission": None,
    }  # fmt: skip
    return Moment(
        at_s, stats, cpu_s=at_s * 0.5, rss_bytes=1 << 20, switches=(0, replies, 0), **more
    )


@pytest.mark.parametrize(("times", "odd"), [(1.0, False), (1.5, True)])
def test_what_the_admin_port_told_is_in_the_servers_columns(
    times: float, odd: bool, tmp_path: Path
) -> None:
    config = replace(OVERLOAD, loads="1", admin="http://127.0.0.1:2")
    begun_s = time.monotonic()
    told, watch = Told(config, begun_s), ServerWatch("")
    watch.moments = [
        moment(begun_s + at_s, round(times * RATE * max(0.0, at_s))) for at_s in (-1, 1, 2, 3.5, 9)
    ]
    folder = SwarmFolder(tmp_path / "run", config, 2, watch, told.go_on(4))
    folder.take(told.to_json("complete"), "the master ended")
    folder.close()
    run = load_run(tmp_path / "run")
    (row,) = run.trials.to_dict("records")
    assert row["architecture"] == "seda"
    assert row["server_cpu"] == pytest.approx(0.5)
    assert row["server_threads"] == 19
    assert row["server_rss_bytes"] == 1 << 20
    assert row["server_errors"] == "reset=2"
    assert row["server_requests"] == times * 2500
    assert row["count_disagreement"] == pytest.approx(times - 1, abs=0.01)
    assert ("other clients" in row["warnings"]) == odd
    raw = run.raw(0)
    assert raw is not None
    assert [found["t_s"] for found in raw["server_timeline"]] == [1, 2, 3.5]
    assert raw["server_timeline"][0]["stages"][0]["queue_length"] == 3


def test_of_a_server_that_was_started_anew_no_counts_are_made_up() -> None:
    before, after = moment(1, 1000), moment(2, 10)
    before.stats["pid"], after.stats["pid"] = 1, 2
    row, (odd,) = columns([before, after], {}, 0)
    assert row == {}
    assert "started anew" in odd


def test_what_failed_is_said_and_what_nobody_answered_has_no_latency(tmp_path: Path) -> None:
    told = Told(replace(OVERLOAD, loads="1"))
    told.record.asked(0, 1, "sweep", 0)
    news = report_of(0, 0) | {"cells": []}
    news["trials"]["0"] |= {"scheduled": 250, "sent": 250, "rejected": 250}
    told.record.add("a", news, 0.5)
    folder = SwarmFolder(
        tmp_path / "run", told.config, 2, ServerWatch(""), told.to_json("complete")
    )
    folder.take(told.to_json("complete"), "the master ended")
    folder.close()
    console = Console(record=True, width=120)
    find("swarm").show(load_run(tmp_path / "run"), console)
    text = console.export_text()
    assert "of 250 requests: 250 rejected (503)" in text
    assert "nan" not in text


def test_a_server_that_does_not_answer_leaves_a_gap_and_a_warning(tmp_path: Path) -> None:
    told, watch = Told(replace(OVERLOAD, loads="1")), ServerWatch("http://127.0.0.1:9")
    watch.look()
    folder = SwarmFolder(tmp_path / "run", told.config, 2, watch, told.go_on(4))
    folder.take(told.to_json("complete"), "the master ended")
    folder.close()
    assert watch.moments == []
    (row,) = load_run(tmp_path / "run").trials.to_dict("records")
    assert "the server's columns are empty" in row["warnings"]
    assert row["valid"]


@pytest.mark.parametrize(("shape", "lasts_s"), [("steady", 10), ("overload", 10), ("spike", 14)])
def test_a_shape_has_a_duration_of_its_own(shape: str, lasts_s: float) -> None:
    assert own_duration_s(shape, "4,2,4") == lasts_s


def test_a_spike_that_is_none_is_one_line() -> None:
    with pytest.raises(UserError, match="--spike must be 3 numbers"):
        own_duration_s("spike", "3,x")


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://127.0.0.1", "127.0.0.1:x"])
def test_an_admin_address_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(UserError, match="--admin must be http://HOST:PORT"):
        ServerWatch(url)
