"""Nothing that the project starts outlives who started it, whatever kills that."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sedabench.machine.process import Child
from tests.loadgen.fault_server import FaultServer, fault_server

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
SEDABENCH = (sys.executable, "-m", "sedabench")

WORKERS = """
import os, time
for _ in range(2):
    os.fork()
time.sleep(600)
"""


@contextmanager
def started(command: Sequence[str], cwd: Path) -> Iterator[psutil.Process]:
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": f"{ROOT}", "XDG_CACHE_HOME": f"{cwd}"},
    ) as process:  # fmt: skip
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


def wait_for(what: Callable[[], bool], said: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s, said()
        time.sleep(0.02)


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_lines(processes: Sequence[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def killed_leaves_nobody(parent: psutil.Process, wanted: Sequence[str]) -> None:
    """Kill it when it has, below it, a process for each of these words."""
    family: list[psutil.Process] = []

    def complete() -> bool:
        assert alive(parent)
        family[:] = parent.children(recursive=True)
        lines = command_lines(family)
        for words in wanted:
            found = next((line for line in lines if words in line), None)
            if found is None:
                return False
            lines.remove(found)
        return True

    wait_for(complete, lambda: command_lines(family))
    parent.send_signal(signal.SIGKILL)
    wait_for(
        lambda: not any(alive(process) for process in family),
        lambda: command_lines([process for process in family if alive(process)]),
    )


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


SPAWNED = "multiprocessing.spawn"


def load(port: int, path: Path) -> list[str]:
    return [*SEDABENCH, "load", "http", "--target", f"127.0.0.1:{port}/t/ok", "--processes", "2",
            "--duration", "600", "--rate", "10"]  # fmt: skip


def swarm(port: int, path: Path) -> list[str]:
    return [*SEDABENCH, "swarm", "--local", "2", "--port", free_port(), "--duration", "600",
            "--target", f"127.0.0.1:{port}/t/ok", "--rate", "10"]  # fmt: skip


def figure1(port: int, path: Path) -> list[str]:
    return [*SEDABENCH, "run", "figure1", "--quick", "--server", "eventloop", "--duration", "600"]


def calibrate(port: int, path: Path) -> list[str]:
    return [*SEDABENCH, "calibrate", "--quick"]


def benchmark(port: int, path: Path) -> list[str]:
    code = "import time\nfrom benchmarks.processes import served\n"
    code += "with served('eventloop'):\n time.sleep(600)"
    return [sys.executable, "-c", code]


def benchmark_client(port: int, path: Path) -> list[str]:
    code = "from benchmarks.processes import run_client\nrun_client(['sleep', '600'], 600)"
    return [sys.executable, "-c", code]


def a_test(port: int, path: Path) -> list[str]:
    code = "import tests.conftest, subprocess\nsubprocess.run(['sleep', '600'])"
    return [sys.executable, "-c", code]


def notebook(port: int, path: Path) -> list[str]:
    code = (
        "import nbformat, sys\nfrom pathlib import Path\n"
        "from nbformat.v4 import new_code_cell, new_notebook\n"
        f"path = Path({str(path / 'a.ipynb')!r})\n"
        "cell = new_code_cell('import time; time.sleep(600)')\n"
        "path.write_text(nbformat.writes(new_notebook(cells=[cell])))\n"
        f"sys.path.insert(0, {str(ROOT / 'notebooks')!r})\n"
        "import execute\nexecute.execute(path)"
    )
    return [sys.executable, "-c", code]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as found:
        yield found


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (load, [SPAWNED, SPAWNED, "resource_tracker"]),
        (figure1, ["servers eventloop", "loadgen burst"]),
        (calibrate, ["servers eventloop", "loadgen burst"]),
        (benchmark, ["servers eventloop"]),
        (benchmark_client, ["sleep"]),
        (a_test, ["sleep"]),
        (notebook, ["ipykernel"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_nobody_outlives_a_parent_that_is_killed(
    command: Callable[[int, Path], list[str]],
    wanted: list[str],
    server: FaultServer,
    tmp_path: Path,
) -> None:
    with started(command(server.port, tmp_path), tmp_path) as parent:
        if command is load:
            wait_for(lambda: bool(server.log("t").requests), lambda: "no request has come")
        killed_leaves_nobody(parent, wanted)


def test_nobody_outlives_a_swarm_or_a_worker_of_it(server: FaultServer, tmp_path: Path) -> None:
    with started(swarm(server.port, tmp_path), tmp_path) as parent:
        workers: list[psutil.Process] = []

        def ready() -> bool:
            workers[:] = [p for p in parent.children() if "--worker" in "".join(command_lines([p]))]
            return len(workers) == 2

        wait_for(ready, lambda: command_lines(workers))
        killed_leaves_nobody(workers[0], ["engine.process"])
        killed_leaves_nobody(parent, ["--master", "--worker", "engine.process"])


def test_nobody_outlives_a_swarm_worker_that_is_killed(server: FaultServer, tmp_path: Path) -> None:
    port = free_port()
    master = [*swarm(server.port, tmp_path), "--port", port, "--master", "--workers", "1"]
    master = [word for word in master if word not in ("--local", "2")]
    worker = [*SEDABENCH, "swarm", "--worker", "--port", port, "--wait", "60"]
    with started(master, tmp_path), started(worker, tmp_path) as parent:
        killed_leaves_nobody(parent, ["locust", "engine.process"])


DRIVER = """
import sys, time
from pathlib import Path
from sedabench.machine.process import Child
with Child("it", sys.argv[1:]):
    time.sleep(600)
"""


def test_the_processes_that_a_server_starts_do_not_outlive_the_driver(tmp_path: Path) -> None:
    """The kernel tells a child only; its own children have somebody else to see to them."""
    own = tmp_path / "own.py"
    own.write_text(WORKERS)
    command = [sys.executable, "-P", str(own)]
    with started([sys.executable, "-c", DRIVER, *command], tmp_path) as parent:
        killed_leaves_nobody(parent, ["own.py", "own.py", "own.py"])


def test_an_orderly_end_leaves_nobody_either(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with Child("it", ["sh", "-c", "sleep 600 & sleep 600"]):
        family = set(psutil.Process().children(recursive=True)) - before
        assert family
    wait_for(lambda: not any(map(alive, family)), lambda: family)
