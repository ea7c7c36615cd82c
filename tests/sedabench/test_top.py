"""`sedabench top`: a server watched live, on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console

from sedabench.errors import UserError
from sedabench.live import inside
from tests.sedabench.conftest import Command

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def admin() -> Iterator[str]:
    """Of a running server."""
    with subprocess.Popen(
        [sys.executable, "-m", "servers", "seda", "--service", "web", "--port", "0",
         "--admin-port", "0"], stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{json.loads(process.stdout.readline())['admin_port']}"
        finally:
            process.kill()


def test_in_a_pipe_pictures_follow_each_other_in_whole_lines(
    admin: str, sedabench: Command
) -> None:
    done = sedabench("top", admin, "--times", "2", "--interval", "0.1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seda, pools: web") == 2
    assert done.stdout.endswith("ms\n")


def test_on_a_terminal_the_last_picture_stays(admin: str) -> None:
    terminal = io.StringIO()
    inside.top(admin, Console(file=terminal, force_terminal=True, width=120), 0.05, 2)
    _, left, after = terminal.getvalue().partition("\x1b[?1049l")
    assert left
    assert "lookup" in after
    assert after.endswith("\n")


def test_when_nobody_reads_it_any_more_it_ends(admin: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sedabench", "top", admin, "--interval", "0.1"],
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(DEADLINE_S) == 128 + signal.SIGPIPE
        finally:
            process.kill()


def test_where_nobody_tells_anything_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no statistics at http://127\.0\.0\.1:1/stats"):
        inside.top("127.0.0.1:1", Console(file=io.StringIO()), 0.05, 1)


def test_an_admin_port_that_does_not_answer_to_a_name_says_what_to_do(
    admin: str, sedabench: Command
) -> None:
    port = admin.partition(":")[2]
    done = sedabench("top", f"127.1:{port}", "--times", "1")  # the same machine, by another name
    assert done.returncode == 2
    assert "--admin-name 127.1" in done.stderr
    assert done.stderr.count("\n") == 1
