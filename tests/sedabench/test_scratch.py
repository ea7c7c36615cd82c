"""What a killed process leaves in the folder for temporary files, the next one removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from sedabench import scratch
from sedabench.experiments.plan import carry_out
from sedabench.progress import Progress
from sedabench.results.folder import RunWriter
from tests.conformance.server import ROOT, Server
from tests.sedabench.conftest import MakeRun

DEADLINE_S = 60

HOLD = """
import sys
from sedabench import scratch
with scratch.folder() as folder:
    (folder / "page").write_text("x" * 1000)
    print(folder, flush=True)
    sys.stdin.read()
"""

EXTERNAL = """
import sys
from pathlib import Path
from sedabench.targets.external import load_external, start_external
with start_external(load_external([])["asyncio"], Path(".")):
    print(flush=True)
    sys.stdin.read()
"""

SWARM = "-m sedabench swarm --local 1 --target http://{target}/healthz --rate 10 --port {port}"
CALIBRATE = "-m sedabench calibrate --quick --out kept.json"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of one's own, here and in what is started."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@contextmanager
def started(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_is_gone_after_its_block(temporary: Path) -> None:
    with scratch.folder() as folder:
        (folder / "file").write_text("x")
    assert not list(temporary.iterdir())


def test_the_folder_of_the_killed_is_removed_and_that_of_the_living_is_not(
    temporary: Path, tmp_path: Path
) -> None:
    with started("-c", HOLD, cwd=tmp_path) as one, started("-c", HOLD, cwd=tmp_path) as other:
        assert one.stdout is not None
        assert other.stdout is not None
        killed, living = Path(one.stdout.readline().strip()), Path(other.stdout.readline().strip())
        one.send_signal(signal.SIGKILL)
        one.wait(DEADLINE_S)
        assert killed.is_dir()
        scratch.sweep()
        assert not killed.exists()
        assert (living / "page").read_text() == "x" * 1000


def test_what_only_looks_like_ours_stays(temporary: Path, tmp_path: Path) -> None:
    (temporary / f"{scratch.PREFIX}mine").mkdir()
    (temporary / f"{scratch.PREFIX}abcdefgh").write_text("a file")
    (tmp_path / "precious").mkdir()
    (temporary / f"{scratch.PREFIX}abcdefg1").symlink_to(tmp_path / "precious")
    (temporary / "sedabench-results").mkdir()
    scratch.sweep()
    assert len(list(temporary.iterdir())) == 4
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize(
    "what", ["external", "swarm", pytest.param("calibrate", marks=pytest.mark.slow)]
)
def test_whatever_is_killed_nothing_is_left_after_the_next(
    temporary: Path, tmp_path: Path, what: str
) -> None:
    with Server("eventloop", "--service", "web") as server:
        target = f"127.0.0.1:{server.port}"
        port = str(20_000 + os.getpid() % 10_000)
        words = {
            "external": ["-c", EXTERNAL],
            "swarm": SWARM.format(target=target, port=port).split(),
            "calibrate": CALIBRATE.split(),
        }[what]
        with started(*words, cwd=tmp_path) as process:
            deadline_s = time.monotonic() + DEADLINE_S
            while not any(folder.iterdir() for folder in temporary.iterdir()):
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait(DEADLINE_S)
    assert list(temporary.iterdir())
    deadline_s = time.monotonic() + DEADLINE_S
    while list(temporary.iterdir()):  # its children may write for a moment yet
        with scratch.folder():
            pass
        assert time.monotonic() < deadline_s


def test_every_run_sweeps(temporary: Path, tmp_path: Path, make_run: MakeRun) -> None:
    with started("-c", HOLD, cwd=tmp_path) as one:
        assert one.stdout is not None
        left = Path(one.stdout.readline().strip())
    assert left.is_dir()
    with RunWriter.reopen(make_run()) as writer:
        carry_out(writer, cannot_be, cannot_be, cannot_be, Progress())
    assert not left.exists()


def cannot_be(_: object) -> NoReturn:
    raise AssertionError("the run is complete")


def test_no_module_makes_temporary_folders_of_its_own() -> None:
    """In `sedabench`, `benchmarks` and `notebooks`; an unnamed file needs nobody to remove it."""
    kept = {"scratch.py", "cli/calibrate.py"}  # the latter keeps what was measured, for a person
    for package in ("sedabench", "loadgen", "servers", "benchmarks", "notebooks"):
        for module in (ROOT / package).rglob("*.py"):
            if str(module.relative_to(ROOT / package)) not in kept:
                text = module.read_text()
                for name in ("TemporaryDirectory", "mkdtemp", "mkstemp", "NamedTemporaryFile"):
                    assert name not in text, module
