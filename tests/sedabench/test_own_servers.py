"""`--server path/to/file.py:Class`: readable names, a run like any other, and its resumption."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sedabench.errors import UserError
from sedabench.results.folder import load_run
from sedabench.targets.servers import ServerSpec, parse_specs
from tests.sedabench.conftest import FIGURE1, Command, write_run

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_architecture.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one; mine/own.py in it has the architecture `Followers`."""
    (tmp_path / "mine").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "mine" / "own.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "label", "architecture", "options"),
    [
        ("mine/own.py:Followers", "Followers", "mine/own.py:Followers", ()),
        ("{folder}/mine/own.py:Followers", "Followers", "mine/own.py:Followers", ()),
        ("mine/own.py:Followers --threads 2", "Followers --threads 2", "mine/own.py:Followers",
         ("--threads", "2")),
        ("two=mine/own.py:Followers --threads=2", "two", "mine/own.py:Followers",
         ("--threads=2",)),
        ("package.module:Mine", "Mine", "package.module:Mine", ()),
    ],
)  # fmt: skip
def test_a_label_says_the_class_and_never_where_somebody_lives(
    folder: Path, text: str, label: str, architecture: str, options: tuple[str, ...]
) -> None:
    (found,) = parse_specs([text.format(folder=folder)], {})
    assert found == ServerSpec(label, architecture, options)


def test_a_file_outside_the_current_folder_has_no_absolute_path_either(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    (found,) = parse_specs([f"{folder}/mine/own.py:Followers"], {})
    assert found.architecture == "../mine/own.py:Followers"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["mine/gone.py:Followers"], "there is no file mine/gone.py; check the path"),
        (["mine/own.py:"], "names no class; write path/to/file.py:ClassName"),
        (["mine/own.py"], "unknown server 'mine/own.py'"),
        (["mine/own.py:Followers --port 1"], "--port is set by the experiment"),
        (["mine/own.py:Followers", "./mine/own.py:Followers"], "'NAME=./mine/own.py:Followers'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_mistake_is_told_before_anything_starts(texts: list[str], says: str) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        parse_specs(texts[::-1], {})
    assert says in str(caught.value)


def test_a_class_that_is_not_there_is_one_line_and_status_2(
    sedabench: Command, folder: Path
) -> None:
    done = sedabench("run", "figure1", "--quick", "--server", f"{folder}/mine/own.py:Leaders")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "has no 'Leaders'; architecture there: Followers" in done.stderr


def test_a_run_of_an_architecture_of_ones_own_can_be_resumed(
    sedabench: Command, folder: Path
) -> None:
    servers = parse_specs([f"{folder}/mine/own.py:Followers --threads 2"], {})
    config = FIGURE1.settings(
        servers=servers, connections=(1, 2), repeats=1, duration_s=0.2, warmup_s=0.1
    )
    run = write_run(folder / "run", config, stop_after=1)
    done = sedabench("run", "figure1", "--resume", "run")
    assert done.returncode == 0, done.stderr
    assert str(folder) not in (run / "trials.csv").read_text()
    trials = load_run(run).trials
    assert (trials["bandwidth_bps"] > 0).tolist() == [True, True], trials["invalid_reason"]
    assert trials["server"].tolist() == ["Followers --threads 2"] * 2
    assert trials["architecture"].iloc[1] == "mine/own.py:Followers"
