"""Swarms for real: a master and workers as processes, on loopback and across network namespaces."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from sedabench import load_run
from sedabench.errors import UserError
from sedabench.experiments.registry import find
from sedabench.figures.swarm import TIMELINE
from sedabench.results.folder import Run
from sedabench.swarm import run as swarm
from sedabench.swarm.server import ServerWatch

DEADLINE_S = 60.0

BIN_S = 0.5
"""Of a swarm's timeline."""

MAIN = """
from sedabench.cli.main import cli, main
from sedabench.cli.swarm import swarm
cli.add_command(swarm)
main()
"""
"""The command, mounted here in case it is not."""

ANOTHER_VERSION = """
import sys
import loadgen.swarm.engine_user as engine
engine.version = lambda: "sedabench 9.9 (protocol 9), locust 2.47"
sys.argv = ["locust", "-f", sys.argv[1], "EngineUser", "--worker", "--master-port", sys.argv[2]]
from locust.main import main
main()
"""


def start(*arguments: str, prefix: tuple[str, ...] = (), main: str = MAIN) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", main, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


@contextmanager
def running(*arguments: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    process = start(*arguments, **how)
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """It and what it started: it leads a session."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        pass
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@contextmanager
def server(host: str = "127.0.0.1", prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, int, int]]:
    """Its process, port and admin port."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "servers", "eventloop", "--service", "web",
         "--host", host, "--port", "0", "--admin-port", "0"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield process, said["port"], said["admin_port"]
    finally:
        kill(process)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def timeline(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / TIMELINE).read_text())
    return found


def connections_of(admin: int) -> int:
    """That a server has, as its admin port tells."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/stats", timeout=DEADLINE_S) as reply:
        now: int = json.load(reply)["connections"]["now"]
    return now


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def begun(out: Path, requests: int) -> None:
    """Wait until so many requests were due, as the folder has it."""

    def due() -> float:
        text = text_of(out / TIMELINE)
        return sum(json.loads(text)["offered"]) if text else 0

    wait_for(lambda: due() >= requests)


def longest_short_s(offered: Sequence[float], rate: float) -> float:
    """How long at a stretch less than three quarters of the rate was offered."""
    longest = now = 0
    for count in offered:
        now = now + 1 if count / BIN_S < 0.75 * rate else 0
        longest = max(longest, now)
    return longest * BIN_S


@pytest.mark.slow
def test_the_rate_is_as_asked_again_after_a_worker_was_killed_and_another_joined(
    tmp_path: Path,
) -> None:
    port, out, work = free_port(), tmp_path / "run", ("swarm", "--worker", "--wait", "30")
    with ExitStack() as stack:
        _, at, _ = stack.enter_context(server())
        first, _ = (
            stack.enter_context(running(*work, "--port", f"{port}")) for _ in range(2)
        )  # fmt: skip
        master = stack.enter_context(
            running(
                "swarm", "--master", "--workers", "2", "--port", f"{port}", "--out", f"{out}",
                "--target", f"http://127.0.0.1:{at}/healthz", "--rate", "400", "--duration", "9",
                "--warmup", "0.5", "--arrivals", "constant", "--connections", "4",
            )
        )  # fmt: skip
        begun(out, 800)
        kill(first)
        stack.enter_context(running(*work, "--port", f"{port}"))
        status, said, errors = finished(master)
        assert status == 0, errors
    run = load_run(out)
    (trial,) = run.trials.to_dict("records")
    assert trial["workers"] == 3
    assert trial["asked_rps"] == 400
    assert "it was lost" in trial["warnings"]
    assert "asked/s" in said
    assert len(run.manifest["machines"]) == 3
    assert all("kernel" in facts for facts in run.manifest["machines"].values())
    offered = timeline(run)["offered"]
    of_trial = offered[2 : 2 + round(8 / BIN_S)]
    assert 0 < longest_short_s(of_trial, 400) <= 5
    assert sum(of_trial) <= 1.02 * 400 * len(of_trial) * BIN_S  # at no time two have one share
    assert median(of_trial[:3]) / BIN_S == pytest.approx(400, rel=0.1)
    assert median(of_trial[-5:]) / BIN_S == pytest.approx(400, rel=0.1)
    assert find("swarm").draw(run)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["the command", "Locust's master"])
def test_when_the_master_is_killed_what_was_measured_is_in_the_folder(
    whole: bool, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with server() as (_, at, admin):
        with running(
            "swarm", "--local", "2", "--port", f"{free_port()}", "--out", f"{out}",
            "--target", f"http://127.0.0.1:{at}/healthz", "--rate", "200", "--duration", "60",
            "--warmup", "0", "--connections", "4",
        ) as master:  # fmt: skip
            begun(out, 200)
            os.kill(master.pid if whole else children(master.pid)[0], signal.SIGKILL)
            status, _, errors = finished(master)
        wait_for(lambda: connections_of(admin) == 0)  # nobody goes on sending
    run = load_run(out)
    (trial,) = run.trials.to_dict("records")
    assert trial["answered"] > 0
    assert not trial["valid"]
    assert "of 60 s" in trial["invalid_reason"]
    if whole:
        assert run.manifest["status"] == "running"
    else:
        assert status == 2
        assert errors.splitlines()[-1].startswith("error: it ended early; what was measured")
        assert run.manifest["status"] == "interrupted"
        assert "exit status -9" in run.manifest["warnings"][-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_one_that_is_interrupted_keeps_what_it_measured_and_lets_its_workers_go(
    number: signal.Signals, tmp_path: Path
) -> None:
    out, port = tmp_path / "run", free_port()
    with ExitStack() as stack:
        _, at, _ = stack.enter_context(server())
        worker = stack.enter_context(
            running("swarm", "--worker", "--wait", "30", "--port", f"{port}")
        )
        master = stack.enter_context(
            running(
                "swarm", "--master", "--port", f"{port}", "--out", f"{out}", "--target",
                f"http://127.0.0.1:{at}/healthz", "--rate", "200", "--duration", "60",
                "--warmup", "0", "--connections", "4",
            )
        )  # fmt: skip
        begun(out, 200)
        os.kill(master.pid, number)
        status, _, errors = finished(master)
        assert worker.wait(DEADLINE_S) == 0
    assert status == 128 + number
    assert errors.splitlines()[-1].startswith("interrupted: what was measured")
    run = load_run(out)
    assert run.manifest["status"] == "interrupted"
    (trial,) = run.trials.to_dict("records")
    assert trial["answered"] > 0


@pytest.mark.slow
def test_a_worker_that_is_interrupted_ends_and_its_share_is_the_others(tmp_path: Path) -> None:
    out, port = tmp_path / "run", free_port()
    work = ("swarm", "--worker", "--wait", "30", "--port", f"{port}")
    with ExitStack() as stack:
        _, at, _ = stack.enter_context(server())
        first, _ = (stack.enter_context(running(*work)) for _ in range(2))
        master = stack.enter_context(
            running(
                "swarm", "--master", "--workers", "2", "--port", f"{port}", "--out", f"{out}",
                "--target", f"http://127.0.0.1:{at}/healthz", "--rate", "200", "--duration", "5",
                "--warmup", "0", "--connections", "4",
            )
        )  # fmt: skip
        begun(out, 200)
        os.kill(first.pid, signal.SIGINT)
        status, said, errors = finished(first)
        assert (status, said + errors.strip()) == (130, "")
        status, _, errors = finished(master)
        assert status == 0, errors
    assert "it left; the others have its share" in load_run(out).trials["warnings"][0]


def children(pid: int) -> list[int]:
    """In the order of their birth: of a swarm first the master, then its workers."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(number) for number in text.split()]


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_requests_and_not_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with server() as (target, at, admin), running(
        "swarm", "--local", "2", "--port", f"{free_port()}", "--out", f"{out}",
        "--target", f"http://127.0.0.1:{at}/healthz", "--rate", "200", "--duration", "4",
        "--warmup", "0", "--timeout", "0.5", "--connections", "4",
        "--admin", f"http://127.0.0.1:{admin}",
    ) as master:  # fmt: skip
        begun(out, 200)
        kill(target)
        status, _, errors = finished(master)
        assert status == 0, errors
    (trial,) = load_run(out).trials.to_dict("records")
    failed = trial["connection_errors"] + trial["never_sent"] + trial["timeouts"]
    assert trial["answered"] > 0
    assert failed > 0
    assert trial["answered"] + failed == trial["scheduled"]
    assert trial["scheduled"] == pytest.approx(200 * trial["duration_s"], rel=0.3)
    assert trial["architecture"] == "eventloop"  # as its admin port said while it lived
    assert trial["server_requests"] > 0
    assert trial["server_threads"] >= 1
    assert trial["server_rss_bytes"] > 1 << 20


NAMES = ("sbs", "sbm", "sba", "sbb")


@contextmanager
def namespaces() -> Iterator[tuple[dict[str, str], bool]]:
    """Four on one bridge, by name, and if there are 3 ms of delay out of each (netem, if known)."""
    bridge = f"sb{os.getpid() % 100_000}"
    made = {name: f"{name}{os.getpid()}" for name in NAMES}

    def ip(*arguments: str) -> None:
        done = subprocess.run(
            ["ip", *arguments], capture_output=True, text=True, timeout=20, check=False
        )
        if done.returncode:
            pytest.skip(f"network namespaces are not permitted here: {done.stderr.strip()}")

    try:
        for name in (bridge, *made.values()):
            ip("netns", "add", name)
        ip("-n", bridge, "link", "add", "name", "bridge0", "type", "bridge")
        ip("-n", bridge, "link", "set", "dev", "bridge0", "up")
        for number, (name, inside) in enumerate(made.items(), 1):
            ip("-n", inside, "link", "set", "lo", "up")
            ip("-n", inside, "link", "add", "name", "eth0", "type", "veth", "peer", "name", name,
               "netns", bridge)  # fmt: skip
            ip("-n", bridge, "link", "set", "dev", name, "master", "bridge0", "up")
            ip("-n", inside, "addr", "add", f"10.213.7.{number}/24", "dev", "eth0")
            ip("-n", inside, "link", "set", "dev", "eth0", "up")
            delayed = subprocess.run(
                ["ip", "netns", "exec", inside, "tc", "qdisc", "add", "dev", "eth0", "root",
                 "netem", "delay", "3ms"], capture_output=True, timeout=20, check=False,
            )  # fmt: skip
        yield made, not delayed.returncode
    finally:
        for name in (bridge, *made.values()):
            subprocess.run(
                ["ip", "netns", "del", name], capture_output=True, timeout=20, check=False
            )


@pytest.mark.slow
def test_a_swarm_across_machines_that_loses_a_worker_and_then_its_server(tmp_path: Path) -> None:
    if not shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin"):
        pytest.skip("there is no ip command (package iproute2)")
    out = tmp_path / "run"
    with ExitStack() as stack:
        made, delayed = stack.enter_context(namespaces())
        inside = {name: ("ip", "netns", "exec", space) for name, space in made.items()}
        target, at, _ = stack.enter_context(server("10.213.7.1", prefix=inside["sbs"]))
        workers = [
            stack.enter_context(
                running(
                    "swarm",
                    "--worker",
                    "--master-host",
                    "10.213.7.2",
                    "--allow-remote",
                    "--wait",
                    "30",
                    prefix=inside[name],
                )
            )
            for name in ("sba", "sbb")
        ]
        master = stack.enter_context(
            running(
                "swarm", "--master", "--workers", "2", "--bind", "10.213.7.2", "--out", f"{out}",
                "--allow-remote", "--target", f"http://10.213.7.1:{at}/healthz", "--rate", "200",
                "--duration", "10", "--warmup", "0.5", "--connections", "8", "--timeout", "1",
                "--arrivals", "constant", prefix=inside["sbm"],
            )
        )  # fmt: skip
        begun(out, 300)
        kill(workers[0])
        wait_for(lambda: "was lost" in text_of(out / "manifest.json"))
        time.sleep(2)  # of the load as it was asked again
        kill(target)
        status, _, errors = finished(master)
        assert status == 0, errors
        assert workers[1].wait(DEADLINE_S) == 0
    run = load_run(out)
    (trial,) = run.trials.to_dict("records")
    assert trial["workers"] == len(run.manifest["machines"]) == 2
    failed = trial["connection_errors"] + trial["never_sent"] + trial["timeouts"]
    assert trial["answered"] > 0
    assert failed > 0
    # What the dead worker had not reported yet is missing, half a second of its share.
    missing = trial["scheduled"] - trial["answered"] - failed
    assert 0 <= missing <= 200
    assert (f"{missing} requests were lost with a worker's account" in trial["invalid_reason"]) == (
        missing > 0
    )
    of_trial = timeline(run)["offered"][2 : 2 + round(9 / BIN_S)]
    assert 0 < longest_short_s(of_trial, 200) <= 5
    assert median(of_trial[-4:]) / BIN_S == pytest.approx(200, rel=0.1)
    if delayed:
        assert trial["latency_p50_us"] > 5500


def test_an_admin_port_must_answer_before_there_is_load(tmp_path: Path) -> None:
    with server() as (_, at, admin):
        ServerWatch(f"127.0.0.1:{admin}").check()
        with pytest.raises(UserError, match="--admin-name 127"):
            ServerWatch(f"127.1:{admin}").check()  # the same machine, by a name of no one's
        with pytest.raises(UserError, match="that is not the admin port of a server"):
            ServerWatch(f"http://127.0.0.1:{at}").check()


def test_a_worker_that_cannot_reach_its_master_says_so_in_one_line() -> None:
    with running("swarm", "--worker", "--port", f"{free_port()}", "--wait", "0") as worker:
        status, out, errors = finished(worker)
    assert status == 2
    assert out == ""
    assert errors.startswith("error: no master at 127.0.0.1:")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    port = free_port()
    locustfile = swarm.locust_command()[-1]
    with server() as (_, at, _), running(
        "swarm", "--master", "--workers", "2", "--port", f"{port}", "--out", f"{tmp_path / 'run'}",
        "--target", f"http://127.0.0.1:{at}/healthz", "--rate", "100",
    ), running(locustfile, f"{port}", main=ANOTHER_VERSION) as worker:  # fmt: skip
        status, _, errors = finished(worker)
    assert status == 2
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "this worker is sedabench 9.9" in lines[0]
    assert "install the same version on both" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--local"),
        (("--local", "2"), "--target"),
        (("--local", "2", "--master"), "one of"),
        (("--local", "1", "--target", "http://192.0.2.1/", "--rate", "10"), "--allow-remote"),
        (("--local", "1", "--target", "http://127.0.0.1:9/", "--rate", "10"), "nothing listens"),
        (("--worker", "--master-host", "192.0.2.1"), "--allow-remote"),
        (
            ("--local", "1", "--target", "http://127.0.0.1/", "--rate", "1", "--shape", "spike",
             "--spike", "3,5"),
            "--spike must be 3 numbers",
        ),
        (("--master", "--bind", "0.0.0.0"), "--allow-remote"),
        *(
            (("--local", "1", "--target", "http://127.0.0.1:9/", "--rate", "1", "--admin", admin),
             f"--admin {admin}: nobody answers there")
            for admin in ("http://127.0.0.1:9", "http://[::ffff:127.0.0.1]:9")
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    more = ("--out", f"{tmp_path / 'run'}", "--port", f"{free_port()}")
    with running("swarm", *arguments, *more) as process:
        status, _, errors = finished(process)
    assert status == 2
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert not (tmp_path / "run").exists()
