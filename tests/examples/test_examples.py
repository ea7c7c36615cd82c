"""Every example runs as its first lines say, only shorter, and shows what they promise."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sedabench.cli.main import cli
from sedabench.results.folder import load_run
from tests.conformance.server import DEADLINE_S, ROOT, Server, read_exactly

EXAMPLES = ROOT / "examples"
FILES = sorted(
    path for path in EXAMPLES.rglob("*") if path.suffix in (".py", ".toml", ".csv")
)  # fmt: skip


def run(*command: str, folder: Path = ROOT) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=2 * DEADLINE_S, check=False, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def sedabench(*arguments: str) -> str:
    return run("-m", "sedabench", *arguments)


def load(server: Server, path: str, *more: str) -> dict[str, Any]:
    """The result of a short closed loop, or of what `more` says."""
    target = f"http://{server.host}:{server.port}{path}"
    text = sedabench("load", "http", "--target", target, "--connections", "4", "--duration", "0.3",
                     "--warmup", "0.1", "--no-spin", "--json", *more)  # fmt: skip
    result: dict[str, Any] = json.loads(text)
    return result


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    with Server(*arguments) as server:
        yield server


# -- what all of them have ----------------------------------------------------------------


def opening(path: Path) -> str:
    """The docstring of a module, or the comment in which another file begins."""
    text = path.read_text()
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    return "\n".join(line for line in text.partition("\n\n")[0].splitlines() if line[:1] == "#")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_opens_with_its_idea_and_a_command(path: Path) -> None:
    said = re.sub(r"\\\n#?\s*", "", opening(path))
    assert re.search(rf"(python|sedabench|locust) .*{path.parent.name}/{path.name}", said), said
    assert len(path.read_text().splitlines()) < 130 or path.suffix == ".csv"


def test_every_example_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text()))
    there = {
        path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")
    }
    assert linked == there


COMMANDS = [
    pytest.param(line.lstrip("# "), id=f"{path.name}: {line.strip('# ')[:50]}")
    for path in FILES
    for line in re.sub(r"\\\n#?\s*", "", opening(path)).splitlines()
    if line.lstrip("# ").startswith("sedabench ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_options_of_its_commands_exist(line: str) -> None:
    _, verb, *words = shlex.split(line)
    if verb in ("serve", "graph"):
        run("-m", "servers", *words, "--describe")
        return
    known = CliRunner().invoke(cli, [verb, words[0], "--help"]).output
    for word in words[1:]:
        assert not word.startswith("-") or re.search(rf"{word}\b", known), word


# -- each of them -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["threaded", "seda"])
def test_the_step_of_ones_own_answers(architecture: str) -> None:
    with serving(architecture, "--service", "examples/own_step.py:WithBackend") as server:
        assert load(server, "/backend")["answered"] > 0
        assert server.announcement["service"] == "web-with-backend"


def test_the_step_of_ones_own_is_a_stage() -> None:
    drawn = sedabench("graph", "seda", "--service", "examples/own_step.py:WithBackend")
    assert "route --> ask_backend" in drawn
    assert "ask_backend --> respond" in drawn


def test_the_service_runs_with_bytes_alone() -> None:
    assert run("examples/own_service.py") == "HELLO!\nWORLD!\n"


@pytest.mark.parametrize("architecture", ["threaded", "eventloop", "seda"])
def test_the_service_runs_under_every_architecture(architecture: str) -> None:
    service = ("--service", "examples/own_service.py:Shout", "--marks", "3")
    with serving(architecture, *service) as server, server.connect() as sock:
        sock.sendall(b"hello\nworld\n")
        assert read_exactly(sock, 18) == b"HELLO!!!\nWORLD!!!\n"


@pytest.mark.parametrize("service", ["burst", "web"])
def test_the_architecture_runs_the_services(service: str) -> None:
    with serving(
        "examples/own_architecture.py:Followers", "--threads", "3", "--service", service
    ) as server:
        if service == "web":
            assert load(server, "/healthz")["answered"] > 0
        else:
            with server.connect() as sock:
                sock.sendall(bytes(8192 * 1000))
                assert len(read_exactly(sock, 32)) == 32
        stats = server.rest()
        assert stats["architecture"] == "followers"
        assert stats["replies"] == stats["requests"] > 0


def test_the_architecture_is_in_the_figure_beside_ours(tmp_path: Path) -> None:
    sedabench(
        "run", "figure1", "--quick", "--connections", "2", "--repeats", "1", "--duration", "0.2",
        "--warmup", "0.1", "--server", "eventloop",
        "--server", "examples/own_architecture.py:Followers --threads 4", "--out", f"{tmp_path}/a",
    )  # fmt: skip
    trials = load_run(tmp_path / "a").trials
    assert set(trials["server"]) == {"eventloop", "Followers --threads 4"}
    assert (trials["bandwidth_bps"] > 0).all(), trials["invalid_reason"].tolist()
    assert (tmp_path / "a" / "figure.png").stat().st_size > 0


def test_the_policy_keeps_one_request_of_each() -> None:
    rejecting, fair = run("examples/own_policy.py").splitlines()
    assert "ann" not in rejecting
    assert fair.endswith("keeps greedy 0, ann 0, bob 0, cem 0")


def test_the_policy_is_that_of_every_queue_of_a_server() -> None:
    with serving(
        "examples/own_policy.py:FairSeda", "--service", "web", "--queue-capacity", "8"
    ) as server:
        assert load(server, "/healthz")["answered"] > 0
        stages = {stage["name"]: stage for stage in server.stats()["stages"]}
        assert "fair_share" in stages["parse"]["losses"]


def test_the_controller_gives_its_reasons() -> None:
    decisions = run("examples/own_controller.py").splitlines()
    sizes = [int(line.partition("->")[2].partition(":")[0]) for line in decisions]
    assert max(sizes) > 100
    assert sizes[-1] == 1


def test_the_library_finds_the_same_under_every_runner() -> None:
    found = {
        run("examples/seda_library.py", "servers/services", "--runner", runner).splitlines()[0]
        for runner in ("pools", "shared", "direct")
    }
    assert len(found) == 1


def test_a_server_that_is_not_ours_is_measured_beside_ours(tmp_path: Path) -> None:
    sedabench(
        "run", "peers", "--quick", "--connections", "4", "--repeats", "1", "--duration", "0.3",
        "--warmup", "0.1", "--server", "eventloop", "--server", "http.server",
        "--definitions", "examples/own_server/servers.toml", "--out", f"{tmp_path}/a",
    )  # fmt: skip
    trials = load_run(tmp_path / "a").trials
    assert set(trials["server"]) == {"eventloop", "http.server"}
    assert (trials["answered"] > 0).all(), trials["invalid_reason"].tolist()


@pytest.fixture(scope="module")
def web() -> Iterator[Server]:
    with serving("eventloop", "--service", "web") as server:
        yield server


def test_every_request_of_the_mix_is_answered_as_it_says(web: Server) -> None:
    result = load(web, "/", "--mix", "examples/mix.toml", "--rate", "200")
    assert result["answered"] == result["scheduled"] > 0


def test_the_trace_says_when_requests_are_due(web: Server) -> None:
    result = load(web, "/healthz", "--arrivals", "trace:examples/arrivals.csv", "--warmup", "0")
    times = re.findall(r"^\d.*", (EXAMPLES / "arrivals.csv").read_text(), re.MULTILINE)
    assert result["scheduled"] == len(times)


def test_the_engine_is_driven_from_python(web: Server, tmp_path: Path) -> None:
    url = f"http://{web.host}:{web.port}/healthz"
    said = run(
        str(EXAMPLES / "engine_from_python.py"), url, "--rate", "200", "--duration", "0.6",
        folder=tmp_path,
    )  # fmt: skip
    assert re.search(r"(\d+) scheduled, \1 answered", said)
    assert "0.25 " in said
    assert (tmp_path / "results" / "samples.parquet").is_file()


def test_locusts_users_and_ours_are_in_one_table(web: Server) -> None:
    table = run(
        "-m", "locust", "-f", "examples/locust_together.py", "--headless", "--only-summary",
        "--target", f"http://{web.host}:{web.port}", "--mix", "examples/mix.toml",
        "--users", "8", "--spawn-rate", "8", "--run-time", "2",
    )  # fmt: skip
    assert re.search(r"^GET +nothing there +\d", table, re.MULTILINE)
    assert re.search(r"^GET +/ +\d", table, re.MULTILINE)
