"""The command as a person types it: help, lists, and one line for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sedabench.conftest import Command, MakeRun

RUN = ("run", "figure1", "--quick")

MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("runn",), "did you mean 'run'"),
    "unknown experiment": (("run", "figure2"), "did you mean 'figure1'"),
    "unknown option": ((*RUN, "--conections", "1"), "--connections"),
    "unknown server": ((*RUN, "--server", "evntloop"), "did you mean 'eventloop'"),
    "unknown server under serve": (("serve", "evntloop"), "eventloop"),
    "unknown service under serve": (("serve", "eventloop", "--service", "brust"), "burst"),
    "option of the experiment": ((*RUN, "--server", "seda --port 80"), "--port"),
    "wrong option of a server": ((*RUN, "--server", "threaded --writers x"), "'x'"),
    "quotes that do not close": ((*RUN, "--server", "seda 'x"), "quotes"),
    "empty server": ((*RUN, "--server", ""), "no architecture"),
    "one label twice": ((*RUN, "--server", "seda", "--server", "seda"), "'NAME=seda'"),
    "level of zero": ((*RUN, "--connections", "0,1"), "--connections must be at least 1, not 0"),
    "level that is no number": ((*RUN, "--connections", "1,many"), "--connections must be whole"),
    "level twice": ((*RUN, "--connections", "4,4"), "twice"),
    "too many connections": ((*RUN, "--connections", "99999999"), "RLIMIT_NOFILE"),
    "no repeats": ((*RUN, "--repeats", "0"), "--repeats"),
    "no window": ((*RUN, "--duration", "0"), "--duration"),
    "endless window": ((*RUN, "--duration", "inf"), "finite"),
    "negative warm-up": ((*RUN, "--warmup", "-1"), "--warmup"),
    "no interpreter": ((*RUN, "--python", "/bin/false"), "--python"),
    "no interpreter under serve": (("serve", "--python", "/nonexistent", "seda"), "--python"),
    "output folder in use": ((*RUN, "--out", "full"), "not empty"),
    "output folder is a file": ((*RUN, "--out", "full/file"), "not a folder"),
    "output folder cannot be made": ((*RUN, "--out", "/proc/nothing/here"), "--out"),
    "resume nothing": (("run", "figure1", "--resume", "nothing"), "not a run folder"),
    "resume something else": (("run", "figure1", "--resume", "full"), "manifest.json"),
    "resume with settings": ((*RUN, "--resume", "full"), "leave out --quick"),
    "plot nothing": (("plot", "nothing"), "not a run folder"),
    "plot without a folder": (("plot",), "DIR"),
    "load without a target": (("load", "burst"), "--target"),
    "load at a closed port": (
        ("load", "burst", "--target", "127.0.0.1:1", "--connections", "1", "--duration", "1"),
        "127.0.0.1:1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_status_2(
    sedabench: Command, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    done = sedabench(*arguments)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert (tmp_path / "full" / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "command", ["", "list", "serve", "load burst", "run", "run figure1", "plot", "doctor"]
)
def test_help_has_an_example(sedabench: Command, command: str) -> None:
    done = sedabench(*command.split(), "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    example = f"sedabench {command}".strip()
    assert example in done.stdout.partition("xample")[2] + done.stdout.partition("Start here")[2]


def test_list_names_what_there_is(sedabench: Command) -> None:
    listed = sedabench("list").stdout
    for name in ("threaded", "eventloop", "seda", "burst", "figure1"):
        assert name in listed


def test_doctor_gives_every_check_a_status(sedabench: Command) -> None:
    done = sedabench("doctor")
    assert done.returncode == 0
    for name in ("descriptor limit", "somaxconn", "cores", "frequency governor", "load", "memory",
                 "ephemeral ports", "tcp_mem", "clock source", "virtualisation"):  # fmt: skip
        assert name in done.stdout


def test_plot_redraws_a_run(sedabench: Command, make_run: MakeRun) -> None:
    path = make_run()
    done = sedabench("plot", str(path))
    assert done.returncode == 0, done.stderr
    assert (path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.splitlines()[-1] == str(path / "figure.svg")
    assert "keeps" in done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, sedabench, sedabench.cli.main; "
        "print([m for m in ('numpy', 'pandas', 'scipy', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
