"""Suites: files that are right and wrong, and a real tiny one: run, interrupted, resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sedabench
from sedabench.errors import UserError
from sedabench.experiments.configure import COMMON_KEYS, keys_of
from sedabench.experiments.registry import find, runnable_names
from sedabench.progress import Progress
from sedabench.results.folder import load_run
from sedabench.suites import carry_out as suite_run
from sedabench.suites import file as suite
from tests.sedabench.conftest import Command, write_run
from tests.sedabench.invented_overload import write_overload_run
from tests.sedabench.test_figure1 import children, wait_for

PROJECT = Path(sedabench.__file__).parent.parent
DEADLINE_S = 60.0

FIGURE1 = '[[run]]\nexperiment = "figure1"\n'
OVERLOAD = '[[run]]\nexperiment = "overload"\n'
TINY = """
title = "two tiny runs"
[defaults]
quick = true
repeats = 1
duration_s = 0.2
warmup_s = 0.05
servers = ["eventloop"]
[[run]]
name = "one"
experiment = "figure1"
connections = [1]
[[run]]
name = "two"
experiment = "figure1"
connections = [2]
duration_s = 1
servers = ["eventloop", "plain=threaded --writers 0"]
"""

MISTAKES: dict[str, tuple[str, str]] = {
    "no TOML": ("run = [", "is no TOML"),
    "nothing": ("", "at least one table [[run]]"),
    "one bracket": ('[run]\nexperiment = "figure1"', "twice bracketed"),
    "no run": ("run = []", "at least one table [[run]]"),
    "key at the top": ("[[runs]]\n", "unknown key 'runs'; did you mean 'run'?"),
    "key of a run": (
        OVERLOAD + "slo = 50",
        "run 'overload': unknown setting of overload 'slo'; did you mean 'slo_ms'?",
    ),
    "misspelt name": (OVERLOAD + 'nmae = "x"', "did you mean 'name'?"),
    "misspelt experiment": ('[[run]]\nexperimant = "figure1"', "did you mean 'experiment'?"),
    "no experiment": ('[[run]]\nname = "x"', 'write experiment = "figure1"'),
    "unknown experiment": ('[[run]]\nexperiment = "figure2"', "did you mean 'figure1'?"),
    "experiment of a type": ("[[run]]\nexperiment = 1", "experiment must be a text"),
    "default for nobody": ("[defaults]\nslo_ms = 50\n" + FIGURE1, "unknown key 'slo_ms'"),
    "default misspelt": ("[defaults]\nrepeat = 5\n" + FIGURE1, "did you mean 'repeats'?"),
    "experiment for all": (
        "[defaults]\nexperiment = 'peers'\n[[run]]", "experiment, which belongs to a run"
    ),
    "definitions for nobody": ("[defaults]\ndefinitions = ['x']\n" + FIGURE1, "takes definitions"),
    "default of a run": ('[defaults]\nname = "x"\n' + FIGURE1, "name, which belongs to a run"),
    "defaults no table": ("defaults = 1\n" + FIGURE1, "write [defaults]"),
    "wrong type": (FIGURE1 + 'repeats = "5"', "run 'figure1': repeats must be a whole number"),
    "default of wrong type": (
        "[defaults]\nconnections = [1]\n" + FIGURE1 + OVERLOAD,
        "run 'overload': connections must be a whole number",
    ),
    "date": (FIGURE1 + "duration_s = 2026-01-31", "duration_s must be a finite number"),
    "nan": (FIGURE1 + "duration_s = nan", "duration_s must be a finite number"),
    "wrong value": (FIGURE1 + "repeats = 0", "run 'figure1': repeats must be at least 1"),
    "last run wrong": (FIGURE1 + OVERLOAD + "timeout_s = 0.01", "timeout_s is 0.01 s"),
    "unknown server": (FIGURE1 + 'servers = ["sed"]', "unknown server 'sed'"),
    "unknown workload": (OVERLOAD + 'workload = "mixt"', "did you mean 'mixed'?"),
    "name twice": (FIGURE1 + FIGURE1, "two runs are called 'figure1'"),
    "name of no folder": (FIGURE1 + 'name = "../x"', "cannot be that of a folder"),
    "name of our file": (FIGURE1 + 'name = "suite.json"', "cannot be that of a folder"),
    "suite called as an experiment": ('name = "peers"\n' + FIGURE1, "cannot be called 'peers'"),
    "title of a type": ("title = 1\n" + FIGURE1, "title must be a text"),
    "factor misspelt": (OVERLOAD + "factors = { slo = [1] }", "did you mean 'slo_ms'?"),
    "factor of servers": (OVERLOAD + "factors = { servers = [[]] }", "write a [[run]] for each"),
    "factor without values": (OVERLOAD + "factors = { slo_ms = [] }", "slo_ms must be a list"),
    "factor with one value": (OVERLOAD + "factors = { slo_ms = 50 }", "slo_ms must be a list"),
    "factor that is a list": (OVERLOAD + "factors = { loads = [1] }", "write loads = [...]"),
    "factor and setting": (OVERLOAD + "slo_ms = 1\nfactors = { slo_ms = [5] }", "leave out one"),
    "factor with a wrong value": (OVERLOAD + 'factors = { seed = [1, "x"] }', "'overload-x': seed"),
    "too many": (
        OVERLOAD + f"factors = {{ seed = {list(range(40))}, repeats = {list(range(1, 41))} }}",
        "over 1000 runs",
    ),
    "no definitions": (OVERLOAD + 'definitions = ["none.toml"]', "none.toml cannot be read"),
}  # fmt: skip


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError) as raised:
        suite.read(written(tmp_path, text))
    assert says in str(raised.value)
    assert str(tmp_path / "mine.toml") in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "--" not in str(raised.value)


def test_runs_have_the_settings_of_the_defaults_their_own_and_those_of_the_project(
    tmp_path: Path,
) -> None:
    text = "[defaults]\nquick = true\nseed = 7\nslo_ms = 50\n"
    found = suite.read(
        written(tmp_path, text + FIGURE1 + "seed = 8\n" + OVERLOAD + "loads = [2, 1]")
    )
    first, second = (run.config for run in found.runs)
    assert first == find("figure1").settings(quick=True, seed=8)
    assert second == find("overload").settings(quick=True, seed=7, slo_ms=50.0, loads=(1.0, 2.0))
    assert [run.trials for run in found.runs] == [30, 21]
    assert all(run.estimate_s > run.trials for run in found.runs)
    assert found.name == "mine"


def test_factors_make_a_run_of_every_combination(tmp_path: Path) -> None:
    text = (
        OVERLOAD + 'name = "o"\nfactors = { workload = ["dynamic", "mixed"], slo_ms = [50, 99.5] }'
    )
    found = suite.read(written(tmp_path, text))
    assert [run.name for run in found.runs] == [
        "o-dynamic-slo_ms-50", "o-dynamic-slo_ms-99.5", "o-mixed-slo_ms-50", "o-mixed-slo_ms-99.5",
    ]  # fmt: skip
    assert [run.config.workload for run in found.runs] == ["dynamic", "dynamic", "mixed", "mixed"]
    assert [run.config.slo_ms for run in found.runs] == [50, 99.5, 50, 99.5]


def test_paths_begin_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.py").touch()
    mine = '[server.mine]\ncommand = ["python3", "{port}"]\nservices = ["static"]\n'
    written(tmp_path / "there", mine, "servers.toml")
    text = '[[run]]\nexperiment = "peers"\ndefinitions = ["servers.toml"]\n'
    text += 'servers = ["mine", "own.py:One -x", "l=./own.py:Two"]\n'
    written(tmp_path / "there", text + 'python = "./bin/python"')
    monkeypatch.chdir(tmp_path)
    (run,) = suite.read(Path("there/mine.toml")).runs
    assert run.config.servers[0].source == tmp_path / "there" / "servers.toml"
    assert [(spec.label, spec.architecture) for spec in run.config.servers[1:]] == [
        ("One -x", "there/own.py:One"), ("l", "there/own.py:Two"),
    ]  # fmt: skip
    assert run.config.python == str(tmp_path / "there" / "bin" / "python")


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + FIGURE1.replace("\n", "\r\n").encode())
    assert [run.name for run in suite.read(tmp_path / "mine.toml").runs] == ["figure1"]


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_the_suites_of_the_project_can_be_carried_out(name: str) -> None:
    found = suite.read(PROJECT / "suites" / f"{name}.toml")
    assert {run.experiment.name for run in found.runs} == {"figure1", "overload", "peers"}
    assert found.title
    workloads = {r.config.workload for r in found.runs if r.experiment.name == "overload"}
    assert workloads == {"dynamic", "mixed"}
    if name == "paper":
        (full,) = (r.config for r in found.runs if r.experiment.name == "figure1")
        assert full == find("figure1").settings()


def test_what_is_measured_already_decides_what_is_left(tmp_path: Path) -> None:
    found = suite.read(written(tmp_path, "[defaults]\nquick = true\n" + FIGURE1 + OVERLOAD))
    total_s = suite_run.left_s(found, tmp_path)
    assert total_s == sum(run.estimate_s for run in found.runs)
    assert suite_run.state_of(found.runs[0], tmp_path).status == "not begun"
    write_run(tmp_path / "figure1", stop_after=20)
    state = suite_run.state_of(found.runs[0], tmp_path)
    assert (state.finished, state.valid, state.trials) == (20, 20, 30)
    assert state.status == "interrupted"
    assert found.runs[1].estimate_s < suite_run.left_s(found, tmp_path) < total_s
    shutil.rmtree(tmp_path / "figure1")
    write_run(tmp_path / "figure1", invalid=[(3, "because")])
    assert suite_run.state_of(found.runs[0], tmp_path).status == "complete"
    assert suite_run.state_of(found.runs[0], tmp_path).valid == 29
    assert suite_run.left_s(found, tmp_path) == found.runs[1].estimate_s
    (tmp_path / "figure1" / "trials.csv").write_text("odd")
    assert suite_run.state_of(found.runs[0], tmp_path).status == "failed"


# -- the command --------------------------------------------------------------------------


@contextmanager
def driver(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sedabench", "run", *arguments],
        cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"no line begins with {beginning!r}: {lines}")


def waits_in_a_trial(pid: int) -> bool:
    """Both children are programs of their own, and the driver sleeps until they say something.

    While it still forks, Python hands a signal to a hook that ignores exceptions.
    """
    mine, others = command_line(pid), [command_line(child) for child in children(pid)]
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return len(others) == 2 and mine not in others and b"" not in others and state == "S"


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "suite.json").read_text())
    return found


def test_a_suite_is_interrupted_and_resumed_where_it_stopped(tmp_path: Path) -> None:
    written(tmp_path, TINY, "tiny.toml")
    out = tmp_path / "out"
    with driver("tiny.toml", "--out", "out", cwd=tmp_path) as process:
        lines = lines_until(process, "[2/3] two: ")
        wait_for(lambda: waits_in_a_trial(process.pid))
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, errors
    assert errors == ""
    said = "".join(lines)
    assert "suite tiny: 2 runs, 3 trials, about" in said
    assert [line[:11] for line in lines if line[0] == "["] == [
        "[1/3] one: ", "[2/3] two: ",
    ]  # fmt: skip
    assert rest.splitlines()[-1].endswith("finish with: sedabench run --resume out")
    found = record(out)
    assert found["status"] == "interrupted"
    assert [run["status"] for run in found["runs"]] == ["complete", "interrupted"]
    assert (out / "suite.toml").read_text() == TINY
    first = (out / "one" / "trials.csv").read_bytes(), (out / "one" / "manifest.json").read_bytes()
    kept = (out / "two" / "trials.csv").read_text()

    with driver("--resume", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert "one: " not in output  # no trial of a finished run
    assert output.splitlines()[-1].startswith("out  (one page of it: sedabench report out --out")
    again = (out / "one" / "trials.csv").read_bytes(), (out / "one" / "manifest.json").read_bytes()
    assert again == first
    assert (out / "two" / "trials.csv").read_text().startswith(kept)
    found = record(out)
    assert found["status"] == "complete"
    assert len(found["resumed_utc"]) == 1
    assert [(run["finished"], run["trials"]) for run in found["runs"]] == [(1, 1), (2, 2)]
    for name in ("one", "two"):
        assert sedabench.load_run(out / name).manifest["status"] == "complete"
        assert (out / name / "figure.png").exists()

    with driver("tiny.toml", "--resume", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert "trying" not in output
    assert "2/2" in output


def test_a_suite_with_a_server_of_ones_own_is_resumed_from_any_folder(
    tmp_path: Path,
) -> None:
    shutil.copy(PROJECT / "examples" / "own_architecture.py", tmp_path / "own.py")
    text = TINY.partition('[[run]]\nname = "two"')[0]
    text = text.replace('"eventloop"', '"mine=own.py:Followers"').replace("[1]", "[1, 2]")
    (tmp_path / "suites").mkdir()
    written(tmp_path / "suites", text.replace("own.py", "../own.py"), "mine.toml")
    with driver("suites/mine.toml", "--out", "my out", cwd=tmp_path) as process:
        lines_until(process, "[1/2] ")
        wait_for(lambda: waits_in_a_trial(process.pid))
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, errors
    assert rest.splitlines()[-1].endswith("sedabench run --resume 'my out'")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with driver("--resume", "../my out", cwd=elsewhere) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1].startswith("../my out  ")
    trials = load_run(tmp_path / "my out" / "one").trials
    assert trials["architecture"].tolist() == ["own.py:Followers"] * 2
    assert (trials["bandwidth_bps"] > 0).all(), trials["invalid_reason"].tolist()


def test_a_signal_between_two_runs_keeps_the_first_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(run: suite.PlannedRun, path: Path, _progress: Progress) -> None:
        write_run(path, run.config)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(suite_run, "_one", measured)
    monkeypatch.setattr(suite_run, "_try_servers", lambda *_: None)
    outcome = suite_run.start(suite.read(written(tmp_path, TINY)), tmp_path / "out", None)
    assert outcome.signum == signal.SIGTERM
    assert [run.status for run in outcome.runs] == ["complete", "not begun"]
    assert record(tmp_path / "out")["status"] == "interrupted"


@pytest.mark.parametrize("experiment", ["figure1", "overload"])
def test_no_package_is_imported_for_the_first_time_when_results_are_shown(
    tmp_path: Path, experiment: str
) -> None:
    """A Ctrl-C there would leave half of it, and a traceback in place of what was found.

    Nor is a module of ours: the class of an experiment names all that it reads with.
    """
    if experiment == "figure1":
        write_run(tmp_path / "run", find("figure1").settings(quick=True, repeats=3))
    else:
        write_overload_run(tmp_path / "run", loads=(0.5, 2.0), repeats=3)
    script = (
        "import sys, sedabench\n"
        "from sedabench import api\n"
        "from sedabench.experiments import bench, registry\n"
        f"experiment = registry.find({experiment!r})\n"
        "bench.import_readers()\n"
        "before = set(sys.modules)\n"
        "run = sedabench.load_run('run')\n"
        "experiment.draw(run), sedabench.findings(run)\n"
        "packages = {name.partition('.')[0] for name in before}\n"
        "new = set(sys.modules) - before\n"
        "print({n for n in new if n.partition('.')[0] not in packages or n[:4] == 'seda'})\n"
    )
    command = [sys.executable, "-c", script]
    said = subprocess.check_output(command, cwd=tmp_path, text=True, timeout=DEADLINE_S)
    assert said.strip() == "set()"


@pytest.mark.slow
def test_a_run_that_fails_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    written(
        tmp_path, TINY.replace('"eventloop"]\n[[run]]', '"eventloop"]\n[[run]]', 1), "tiny.toml"
    )
    found = suite.read(tmp_path / "tiny.toml")
    (tmp_path / "out" / "one").mkdir(parents=True)
    (tmp_path / "out" / "one" / "manifest.json").write_text("{}")
    (tmp_path / "out" / "suite.toml").write_bytes(found.text)
    started = {"suite": "tiny", "paths_begin_at": "..", "resumed_utc": []}
    (tmp_path / "out" / "suite.json").write_text(json.dumps(started))
    with driver("--resume", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert len(errors.splitlines()) == 1
    assert "run 'one' of suite tiny failed: out/one is damaged" in errors
    assert [run["status"] for run in record(tmp_path / "out")["runs"]] == ["failed", "complete"]
    assert "two" in output


def test_every_server_of_every_run_is_tried_before_the_first_trial(tmp_path: Path) -> None:
    written(tmp_path, TINY.replace("--writers 0", "--writers x"), "tiny.toml")
    with driver("tiny.toml", "--out", "out", cwd=tmp_path) as process:
        output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert errors.startswith("error: run 'two': servers 'plain' does not start: ")
    assert len(errors.splitlines()) == 1
    assert "[1/" not in output
    assert not (tmp_path / "out").exists()


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("run", "tiney.toml"), "did you mean 'tiny.toml'?"),
    "a folder": (("run", "full/"), "sedabench run --resume full"),
    "a name": (("run", "quick"), "quick.toml"),
    "a name here": (("run", "tiny"), "sedabench run tiny.toml"),
    "unknown option": (("run", "tiny.toml", "--chekc"), "--check"),
    "folder in use": (("run", "tiny.toml", "--out", "full"), "full is not empty"),
    "resume nothing": (("run", "--resume", "nothing"), "nothing is not a run folder"),
    "resume no suite": (("run", "tiny.toml", "--resume", "full"), "is not the folder of a suite"),
    "resume with more": (("run", "--resume", "full", "figure1"), "leave out figure1"),
    "resume with options": (("run", "tiny.toml", "--resume", "x", "--check"), "no other option"),
    "resume another": (("run", "tiny.toml", "--resume", "other"), "no longer, the suite of other"),
    "resume the damaged": (("run", "--resume", "other"), "suite.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    sedabench: Command, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    written(tmp_path, TINY, "tiny.toml")
    for folder in ("full", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "other" / "suite.toml").write_text("other = 1")
    (tmp_path / "other" / "suite.json").write_text("{}")
    done = sedabench(*arguments)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


def test_check_prints_the_plan_and_measures_nothing(sedabench: Command, tmp_path: Path) -> None:
    written(tmp_path, TINY, "tiny.toml")
    done = sedabench("run", "tiny.toml", "--check")
    assert done.returncode == 0, done.stderr
    assert "suite tiny: 2 runs, 3 trials, about" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_the_list_names_suites_and_help_has_an_example(sedabench: Command, tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    written(tmp_path / "suites", TINY, "tiny.toml")
    listed = sedabench("list").stdout
    assert "suites/tiny.toml" in listed
    assert "two tiny runs" in listed
    assert "suites/paper.toml" in listed
    assert "sedabench run suites/quick.toml" in sedabench("run", "x.toml", "--help").stdout


def test_any_run_is_resumed_without_naming_its_experiment(
    sedabench: Command, tmp_path: Path
) -> None:
    write_run(tmp_path / "done")
    done = sedabench("run", "--resume", "done")
    assert done.returncode == 0, done.stderr
    assert "nothing is missing" in done.stdout


def test_the_page_about_suites_names_every_key_and_its_example_is_one(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "suites.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    found = suite.read(written(tmp_path, example))
    assert len(found.runs) == 5
    assert all(f"`{run.name}`" in page for run in found.runs)
    for experiment in runnable_names():
        for key in (*keys_of(find(experiment)), *COMMON_KEYS):
            assert f"`{key}`" in page, key
