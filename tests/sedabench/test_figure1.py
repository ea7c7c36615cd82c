"""A real, tiny figure1: run, interrupted, killed, resumed; and what is said about a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import sedabench
from sedabench.analysis import figure1 as summary
from sedabench.figures import plots
from tests.sedabench.conftest import FIGURE1, MakeRun

TINY = ("--connections", "1,4", "--repeats", "1", "--duration", "0.2", "--warmup", "0.05")
TWO = (*TINY, "--server", "eventloop", "--server", "threaded")
ONE = (*TINY, "--server", "eventloop", "--connections", "1")
DEADLINE_S = 60.0


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@contextmanager
def driver(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sedabench", "run", "figure1", *arguments],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def children(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def hears(pid: int) -> bool:
    """Has the process a handler of SIGHUP?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGHUP - 1))


def rows(path: Path) -> list[str]:
    try:
        return (path / "trials.csv").read_text().splitlines()[1:]
    except OSError:
        return []


def in_trial_after(process: subprocess.Popen[str], path: Path, finished: int) -> bool:
    """The driver has `finished` rows and both processes of the next trial."""
    assert process.poll() is None, process.communicate()
    begun = (path / "trials.csv").exists()  # before that, servers are tried
    return begun and len(rows(path)) >= finished and len(children(process.pid)) == 2


def test_a_run_ends_with_its_folder_and_holds_everything(tmp_path: Path) -> None:
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert errors == ""
    assert output.splitlines()[-1].startswith("out")
    run = sedabench.load_run(tmp_path / "out")
    assert run.manifest["status"] == "complete"
    assert len(run.trials) == 6
    assert sorted(set(run.trials["server"])) == ["eventloop", "seda", "threaded"]
    assert (run.trials["bandwidth_bps"][run.trials["valid"]] > 0).all()
    assert run.trials["bandwidth_bps"].max() > 0  # a busy machine may spoil some of such windows
    assert (run.trials["connected"] == run.trials["connections"]).all()
    for name in ("server_cpu", "client_cpu", "server_rss_bytes", "server_threads", "server_bytes"):
        assert (run.trials[name] > 0).all(), name
    for key in ("machine", "versions", "interpreters", "seed", "git", "warnings", "cores"):
        assert key in run.manifest
    for name in ("figure.png", "figure.svg", "trials/000.json"):
        assert (run.path / name).stat().st_size > 0


def test_an_interrupted_run_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with driver(*TWO, "--seed", "11", "--out", "out", cwd=tmp_path) as process:
        wait_for(lambda: in_trial_after(process, path, 2))
        family = children(process.pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert errors == ""
    assert output.splitlines()[-1].endswith("--resume out")
    assert not any(map(alive, family))
    kept, plan = rows(path), json.loads((path / "manifest.json").read_text())["plan"]
    assert 2 <= len(kept) < 4
    assert sedabench.load_run(path).manifest["status"] == "interrupted"

    with driver("--resume", "out", cwd=tmp_path) as process:
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert rows(path)[: len(kept)] == kept
    run = sedabench.load_run(path)
    assert run.manifest["plan"] == plan
    assert run.manifest["seed"] == 11
    assert run.manifest["status"] == "complete"
    assert [entry["finished_trials"] for entry in run.manifest["resumed"]] == [len(kept)]
    assert list(run.trials["trial"]) == list(range(4))


def test_a_run_is_resumed_from_another_folder(tmp_path: Path) -> None:
    """Also one whose manifest has the interpreter's path from the folder of its start."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    for recorded in (None, ".venv/bin/python"):
        path = home / f"out-{recorded is None}"
        with driver(*TWO, "--out", str(path), cwd=home) as process:
            wait_for(lambda path=path, process=process: in_trial_after(process, path, 1))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=DEADLINE_S)
        manifest = json.loads((path / "manifest.json").read_text())
        assert manifest["command"] == ["sedabench", "run", "figure1", *TWO, "--out", path.name]
        assert manifest["parameters"]["python"] is None
        manifest["parameters"]["python"] = recorded
        (path / "manifest.json").write_text(json.dumps(manifest))
        with driver("--resume", str(path), cwd=elsewhere) as process:
            _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
        assert sedabench.load_run(path).manifest["status"] == "complete"
        assert len(rows(path)) == 4


def test_folders_of_the_same_names_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("servers", "loadgen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "sedabench", "run", "figure1", *ONE, "--out", "out"],
        cwd=tmp_path, text=True, capture_output=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sedabench.load_run(tmp_path / "out").trials["bandwidth_bps"].notna().all()


def test_a_run_goes_on_when_nobody_reads_its_progress(tmp_path: Path) -> None:
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 128 + signal.SIGPIPE
    run = sedabench.load_run(tmp_path / "out")
    assert (run.manifest["status"], len(run.trials)) == ("complete", 6)


def test_sigterm_stops_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        wait_for(lambda: in_trial_after(process, tmp_path / "out", 0))
        family = children(process.pid)
        process.terminate()
        output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume out" in output
    assert not any(map(alive, family))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_first_trial_is_the_exit_status(
    tmp_path: Path, number: signal.Signals
) -> None:
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        wait_for(lambda: children(process.pid))  # a server is tried
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors.strip()) == (128 + number, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("begun", [True, False])
def test_signals_in_any_order_and_number_stop_a_run_in_order(tmp_path: Path, begun: bool) -> None:
    path = tmp_path / "out"
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        if begun:
            wait_for(lambda: in_trial_after(process, path, 1))
        else:
            wait_for(lambda: hears(process.pid))
        family = children(process.pid)
        kept = len(rows(path))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM) * 3:
            process.send_signal(number)
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert errors == ""
    assert process.returncode - 128 in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    assert not any(map(alive, family))
    if begun:
        assert "--resume out" in output
        run = sedabench.load_run(path)
        assert run.manifest["status"] == "interrupted"
        assert len(run.trials) >= kept >= 1


def test_a_killed_driver_leaves_no_process_and_a_readable_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with driver(*TINY, "--out", "out", cwd=tmp_path) as process:
        wait_for(lambda: in_trial_after(process, path, 1))
        family = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
    wait_for(lambda: not any(map(alive, family)))
    run = sedabench.load_run(path)
    assert len(run.trials) >= 1
    assert run.manifest["status"] == "running"


def test_invalid_trials_are_drawn_hollow_with_their_reason(make_run: MakeRun) -> None:
    run = sedabench.load_run(make_run(invalid=[(3, "counts disagree: 9%"), (4, "refused 12 x")]))
    figure = plots.figure1(run)
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "invalid (1): counts disagree" in labels
    hollow = [
        line for line in figure.axes[0].get_lines()
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())  # type: ignore[arg-type]
    ]  # fmt: skip
    assert sum(len(line.get_xdata()) for line in hollow) == 2  # type: ignore[arg-type]


def test_sentences_say_what_is_kept_of_the_peak(make_run: MakeRun) -> None:
    config = FIGURE1.settings(quick=True, repeats=5)
    threaded, _, _ = summary.sentences(sedabench.load_run(make_run(config=config)))
    assert threaded.startswith("threaded keeps ")
    assert "at 1024 connections, 95 % interval" in threaded
    assert "lower bound" not in threaded


def test_sentences_admit_when_the_load_generator_was_the_limit(make_run: MakeRun) -> None:
    run = sedabench.load_run(make_run(client_cpu=1.0))
    assert all("lower bound" in sentence for sentence in summary.sentences(run))


def test_sentences_admit_that_limit_at_the_last_level_too(make_run: MakeRun) -> None:
    run = sedabench.load_run(make_run(config=FIGURE1.settings(quick=True, repeats=5)))
    run.trials.loc[run.trials["connections"] == 1024, "client_cpu"] = 1.0
    threaded, _, _ = summary.sentences(run)
    assert "at 1024 connections the load generator's core was saturated" in threaded
    assert "at the peak" not in threaded


def test_sentences_of_a_server_that_failed_say_why(make_run: MakeRun) -> None:
    config = FIGURE1.settings(quick=True, connections=(1, 4), repeats=1)
    run = sedabench.load_run(make_run(config=config, invalid=[(n, "it broke") for n in range(6)]))
    assert summary.sentences(run) == [
        f"{name}: no valid trial (it broke)." for name in ("threaded", "eventloop", "seda")
    ]


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_part_of_a_run_can_be_drawn(make_run: MakeRun, stop_after: int) -> None:
    run = sedabench.load_run(make_run(stop_after=stop_after))
    assert plots.figure1(run).axes
