"""Where standard output leads is no reason for a traceback, nor for losing what was measured."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sedabench.cli.main import cli
from tests.conformance.server import ROOT, Server
from tests.sedabench.conftest import MakeRun

CLOSED = "error: standard output cannot be written (it is closed)\n"
FULL = "error: standard output cannot be written (No space left on device)\n"
WAYS = {"closed": (">&-", 2, CLOSED), "full": (">/dev/full", 2, FULL), "unread": ("", 141, "")}
"""how standard output is spoilt -> redirection, exit status, standard error"""

SEDABENCH = {
    "list": "list", "serve": "serve seda --describe", "graph": "graph seda --service web",
    "doctor": "doctor", "compare": "compare RUN RUN --json", "report": "report RUN",
    "plot": "plot RUN", "calibrate": "calibrate --help", "swarm": "swarm --help",
    "load": "load http --help", "top": "top ADMIN --interval 0.1",
    "run": "run figure1 --resume RUN",
}  # fmt: skip
"""A command of every verb, with something to say."""
OTHERS = {
    "help": "sedabench --help",
    "version": "sedabench --version",
    "help of a server": "servers seda --help",
    "a server described": "servers eventloop --describe",
    "document root": "servers.services.docroot ROOT --bytes 1",
    "load generator": "loadgen http --help",
    "load generator, nothing asked": "loadgen burst --target SERVER --connections 1 "
    "--packets 1 --duration 0.2 --warmup 0",
    "benchmarks": "benchmarks --help",
}
SLOW = ("compare", "report", "plot", "run")
"""They read and draw a run, which takes seconds: done for one way, for the others their help."""
COMMANDS = {**{verb: f"sedabench {words}" for verb, words in SEDABENCH.items()}, **OTHERS}


def spoilt(
    words: str, redirection: str, folder: Path, names: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command with such a standard output; without a redirection, a pipe nobody reads."""
    argv = [names.get(word, word) for word in words.split()]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", *argv],
            cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    finally:
        os.close(writer)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("eventloop", "--packets", "1") as running:
        yield running


@pytest.fixture
def names(make_run: MakeRun, server: Server) -> dict[str, str]:
    return {
        "RUN": str(make_run()), "ROOT": "made", "SERVER": f"127.0.0.1:{server.port}",
        "ADMIN": f"127.0.0.1:{server.admin_port}",
    }  # fmt: skip


def test_every_verb_is_tried() -> None:
    assert set(SEDABENCH) == set(cli.commands)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_verb_ends_in_a_traceback(
    tmp_path: Path, names: dict[str, str], command: str, way: str
) -> None:
    redirection, status, says = WAYS[way]
    words = COMMANDS[command]
    if command in SLOW and way != "closed":
        words = f"sedabench {command} --help"
    elif command == "top" and way != "unread":  # that ends it by itself
        words += " --times 1"
    done = spoilt(words, redirection, tmp_path, names)
    lines = done.stderr.splitlines(keepends=True)
    assert (done.returncode, "".join(lines[-1:])) == (status, says), done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if words.endswith("--resume RUN") or words == "sedabench report RUN":
        assert names["RUN"] in done.stderr  # where it is kept


@pytest.mark.parametrize("way", ["closed", "full"])
def test_a_measured_result_is_on_standard_error_then(
    tmp_path: Path, names: dict[str, str], way: str
) -> None:
    redirection, status, says = WAYS[way]
    words = (
        "loadgen burst --target SERVER --connections 1 --packets 1 --duration 0.2 --warmup 0 --json"
    )
    done = spoilt(words, redirection, tmp_path, names)
    result, rest = done.stderr.split("\n", 1)
    assert (done.returncode, rest) == (status, says)
    assert json.loads(result)["bursts"] > 0


@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_other_streams_may_be_closed_too(
    tmp_path: Path, names: dict[str, str], redirection: str
) -> None:
    output_closed = ">&- " in redirection
    for words in ("sedabench list", "servers eventloop --describe"):
        done = spoilt(words, redirection, tmp_path, names)
        assert done.returncode == (2 if output_closed else 141), done
        assert done.stderr == ""
    done = spoilt("sedabench runn", redirection, tmp_path, names)
    assert done.returncode == 2


def test_an_error_is_not_printed_in_place_of_the_output(tmp_path: Path) -> None:
    """Without a standard error, print(file=None) would write it to standard output."""
    for words in ("sedabench runn", "servers fibers", "loadgen tftp"):
        done = subprocess.run(
            ["/bin/sh", "-c", f"exec {sys.executable} -m {words} 2>&-"],
            cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("way", WAYS)
def test_a_server_serves_all_the_same(tmp_path: Path, names: dict[str, str], way: str) -> None:
    """Who started it may have gone; what it says goes nowhere, and SIGTERM ends it with 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    reader, writer = os.pipe()
    os.close(reader)
    command = f"exec {sys.executable} -m servers eventloop --port {port} {WAYS[way][0]}"
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    try:
        deadline_s = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_both_packages_write_alike() -> None:
    assert (ROOT / "servers/output.py").read_text() == (ROOT / "loadgen/output.py").read_text()
