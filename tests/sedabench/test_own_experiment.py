"""An experiment of one's own: examples/own_experiment.py, through every verb; and mistakes."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import sedabench
from sedabench.cli.main import cli, main
from sedabench.experiments.registry import Unknown, find, of_run
from tests.sedabench.test_suite import driver, written

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_experiment.py"
TINY = (
    "--work", "50,400", "--repeats", "1", "--duration", "0.2", "--warmup", "0.1",
    "--server", "eventloop",
)  # fmt: skip


def invoke(*words: str) -> Result:
    """The command in this process, without what `main` does about errors."""
    return CliRunner().invoke(cli, words)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine/own.py is the example, in a folder where it was run into `out`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mine").mkdir()
    shutil.copy(EXAMPLE, folder / "mine" / "own.py")
    with driver("mine/own.py:Work", *TINY, "--out", "out", cwd=folder) as process:
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "work 50 us" in output
    assert output.splitlines()[-1] == "out  (figure: out/figure.png)"
    with (folder / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (folder / "out" / "trials.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()  # on a busy machine a trial may not be valid, which is not the matter
        writer.writerows({**row, "valid": "True", "invalid_reason": ""} for row in rows)
    return folder


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(home, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_keeps_what_is_asked_and_where_its_experiment_is(here: Path) -> None:
    run = sedabench.load_run("out")
    assert run.manifest["experiment"] == "work"
    assert run.manifest["own_experiment"]["class"] == "mine/own.py:Work"
    assert str(here) not in (here / "out" / "manifest.json").read_text()
    assert run.manifest["parameters"]["work_us"] == [50, 400]
    assert sorted(run.trials["work_us"]) == [50, 400]
    assert (run.trials["answered"] > 0).all(), run.trials["invalid_reason"].tolist()


def test_it_is_plotted_compared_and_reported(here: Path) -> None:
    for name in ("figure.png", "figure.svg"):
        (here / "out" / name).unlink()
    plotted = invoke("plot", "out")
    assert (plotted.exit_code, plotted.stderr) == (0, "")
    assert (here / "out" / "figure.png").stat().st_size > 0
    compared = invoke("compare", "out", "out", "--json")
    assert (compared.exit_code, compared.stderr) == (0, "")
    found = json.loads(compared.stdout)
    assert set(found["metrics"]) == {"throughput_rps", "latency_p99_us"}
    assert {cell["work_us"] for cell in found["cells"]} == {50, 400}
    reported = invoke("report", "out")
    assert (reported.exit_code, reported.stderr) == (0, "")
    page = (here / "out" / "report.html").read_text()
    assert "throughput against the work of a request" in page
    assert "median requests/s over the valid trials" in page


def test_an_interrupted_run_of_it_is_taken_up_from_another_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "elsewhere").mkdir()
    rows = (here / "out" / "trials.csv").read_text().splitlines()
    (here / "out" / "trials.csv").write_text("\n".join(rows[:2]) + "\n")
    monkeypatch.chdir(here / "elsewhere")
    run = sedabench.resume("../out")
    assert run.manifest["status"] == "complete"
    assert len(run.trials) == 2
    assert (here / "out" / "trials.csv").read_text().startswith("\n".join(rows[:2]))


def test_from_python_and_in_a_suite_it_is_named_as_at_the_command_line(here: Path) -> None:
    (here / "suites").mkdir()
    suite = """
        [[run]]
        experiment = "../mine/own.py:Work"
        factors = { connections = [2, 4] }
        work_us = [50]
        repeats = 1
        duration_s = 0.2
        warmup_s = 0.1
        servers = ["eventloop"]
    """
    written(here / "suites", suite, "mine.toml")
    with driver("suites/mine.toml", "--out", "all", cwd=here) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    names = ("work-connections-2", "work-connections-4")
    for name in names:
        assert sedabench.load_run(here / "all" / name).manifest["experiment"] == "work"
    with pytest.raises(sedabench.UserError, match="did you mean 'work_us'"):
        sedabench.run("mine/own.py:Work", work=[50])
    with pytest.raises(sedabench.UserError, match=r"^work_us must be at least 1, not 0$"):
        sedabench.run("mine/own.py:Work", work_us=[0])


def test_without_its_file_a_folder_speaks_for_itself(here: Path) -> None:
    (here / "mine" / "own.py").unlink()
    said = "out is shown by what its folder says alone: there is no file mine/own.py"
    for words in (("plot", "out"), ("report", "out"), ("compare", "out", "out", "--json")):
        done = invoke(*words)
        assert done.exit_code == 0, done.exception
        assert done.stderr.splitlines() == [f"note: {said}"]
    assert set(json.loads(done.stdout)["metrics"]) == {"throughput_rps", "latency_p99_us"}
    page = (here / "out" / "report.html").read_text()
    assert "throughput against the work of a request" in page
    assert "what its folder says alone" in page
    with pytest.raises(sedabench.UserError, match=r"^[^\n]+$") as raised:
        sedabench.resume("out")
    assert str(raised.value).endswith(
        "name where it is now: sedabench run path/to/file.py:ClassName --resume out"
    )


CHANGES = {
    "another column": ('Column("work_us", "int"', 'Column("works_us", "int"'),
    "another name": ('name = "work"', 'name = "labour"'),
    "a class that is gone": ("class Work(", "class Labour("),
    "what cannot be imported": ("from __future__", "import nothing_of_this_name\nfrom __future__"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_class_that_no_longer_fits_is_not_used(here: Path, change: tuple[str, str]) -> None:
    own = here / "mine" / "own.py"
    own.write_text(own.read_text().replace(*change))
    run = sedabench.load_run("out")
    experiment = of_run(run)
    assert isinstance(experiment, Unknown)
    assert "\n" not in experiment.note
    assert experiment.sentences(run)
    assert experiment.question_of(run).metrics == ("throughput_rps", "latency_p99_us")


def test_what_a_class_raises_while_it_shows_a_run_is_said_with_its_line(here: Path) -> None:
    own = here / "mine" / "own.py"
    own.write_text(
        own.read_text() + "\n    def sentences(self, run):\n        return run.manifest['no']\n"
    )
    line = len(own.read_text().splitlines())
    for words in (("plot", "out"), ("report", "out")):
        error = invoke(*words).exception
        assert isinstance(error, sedabench.UserError)
        assert str(error) == f"mine/own.py:Work raised KeyError: 'no' (own.py line {line})"


@pytest.mark.parametrize("method", ["check", "plan", "estimate_s", "workload", "measure"])
def test_what_a_class_raises_while_it_is_carried_out_is_said_with_its_line(
    here: Path, method: str, tmp_path: Path
) -> None:
    own = here / "mine" / "own.py"
    own.write_text(own.read_text() + f"\n    def {method}(self, *_):\n        return 1 / 0\n")
    line = len(own.read_text().splitlines())
    said = rf"^mine/own.py:Work raised ZeroDivisionError: .* \(own.py line {line}\)$"
    asked = {"work_us": [50], "repeats": 1, "servers": ["eventloop"], "out": tmp_path / "new"}
    with pytest.raises(sedabench.UserError, match=said):
        sedabench.run("mine/own.py:Work", **asked)  # type: ignore[arg-type]
    if method == "measure":
        assert sedabench.load_run(tmp_path / "new").manifest["status"] == "interrupted"
    else:
        assert not (tmp_path / "new" / "trials.csv").exists() or method == "estimate_s"


def test_nothing_is_loaded_from_inside_a_folder_of_results(here: Path) -> None:
    (here / "out" / "evil.py").write_text("raise SystemExit('loaded')")
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    manifest["own_experiment"]["class"] = "out/evil.py:Work"
    (here / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert "there is no file out/evil.py" in of_run(sedabench.load_run("out")).note


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("run", "mine/gone.py:Work"), "there is no file mine/gone.py"),
    "no class": (("run", "mine/own.py:Play"), "has no 'Play'; experiment there: "),
    "no name": (("run", "mine/own.py:"), "names no class"),
    "no experiment": (("run", "mine/own.py:WorkSettings"), "is not a subclass of"),
    "broken": (("run", "mine/broken.py:Broken"), "cannot be loaded: SyntaxError"),
    "measures nothing": (("run", "mine/bad.py:Nothing"), "it needs a method `workload`"),
    "a name of ours": (("run", "mine/bad.py:Taken"), "name 'figure1' cannot be that"),
    "no column": (("run", "mine/bad.py:NoColumn"), "has no column 'connections_'"),
    "a wrong setting": (("run", "mine/own.py:Work", "--work", "0"), "--work must be at least 1"),
    "an option": (("run", "mine/own.py:Work", "--wrok", "1"), "--work"),
    "a run of another": (("run", "figure1", "--resume", "out"), "run mine/own.py:Work --resume"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    (here / "mine" / "broken.py").write_text("class Broken(:\n")
    (here / "mine" / "bad.py").write_text(
        "from sedabench.experiments.base import Experiment\n"
        "from sedabench.experiments.figure1 import Figure1\n"
        "class Nothing(Experiment): pass\n"
        "class Taken(Figure1): pass\n"
        "class NoColumn(Figure1):\n"
        "    name = 'mine'\n"
        "    def plan(self, settings):\n"
        "        return [{'trial': 0, 'server': 'seda', 'connections_': 1}]\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert (ended.value.code, len(said.splitlines())) == (2, 1), said
    assert says in said


def test_the_example_is_short() -> None:
    lines = EXAMPLE.read_text().partition("class WorkSettings")[2].splitlines()
    assert len(lines) < 40
    assert find(f"{EXAMPLE}:Work").name == "work"
