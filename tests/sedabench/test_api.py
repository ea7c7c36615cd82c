"""sedabench.run, resume, findings and plots: what a notebook or a script calls."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import sedabench
from sedabench.cli.main import cli
from sedabench.experiments.bench import parameters
from sedabench.experiments.configure import configure, keys_of
from sedabench.experiments.registry import find, runnable_names
from sedabench.experiments.settings import option_of
from sedabench.targets.servers import ServerSpec
from tests.sedabench.conftest import FIGURE1, OVERLOAD, MakeRun
from tests.sedabench.invented_overload import write_overload_run
from tests.sedabench.test_figure1 import wait_for
from tests.sedabench.test_suite import waits_in_a_trial

TINY: dict[str, Any] = {
    "quick": True, "connections": [2], "repeats": 1, "duration_s": 0.2, "warmup_s": 0.05,
}  # fmt: skip
DEADLINE_S = 60.0

MISTAKES: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "experiment": ("figure2", {}, "did you mean 'figure1'?"),
    "swarm": ("swarm", {}, "sedabench swarm --help"),
    "key": ("figure1", {"conections": [1]}, "did you mean 'connections'?"),
    "key of another experiment": ("figure1", {"slo_ms": 5}, "unknown setting of figure1 'slo_ms'"),
    "keyword": ("figure1", {"server": ["seda"]}, "did you mean 'servers'?"),
    "text for a list": ("figure1", {"connections": "1,2"}, "a list of whole numbers, not '1,2'"),
    "one text for servers": ("figure1", {"servers": "seda"}, "servers must be a list of texts"),
    "truth for a number": ("figure1", {"repeats": True}, "repeats must be a whole number"),
    "fraction for a whole number": ("figure1", {"repeats": 1.5}, "repeats must be a whole number"),
    "endless": ("figure1", {"duration_s": float("inf")}, "duration_s must be a finite number"),
    "number for quick": ("figure1", {"quick": 1}, "quick must be true or false"),
    "no server": ("figure1", {"servers": []}, "servers is empty"),
    "unknown server": ("overload", {"servers": ["evntloop"]}, "did you mean 'eventloop'?"),
    "unknown workload": ("overload", {"workload": "dynamik"}, "did you mean 'dynamic'?"),
    "no repeats": ("figure1", {"repeats": 0}, "repeats must be at least 1"),
    "too many repeats": ("figure1", {"repeats": 10**9}, "repeats must be at most"),
    "negative seed": ("peers", {"seed": -1}, "seed must be at least 0"),
    "level twice": ("peers", {"connections": [4, 4]}, "connections names a level twice"),
    "no load": ("overload", {"loads": []}, "loads names no level"),
    "definitions": ("figure1", {"definitions": ["mine.toml"]}, "definitions is nothing for"),
    "no definitions": ("peers", {"definitions": ["none.toml"]}, "none.toml cannot be read"),
    "interpreter": ("figure1", {**TINY, "python": "/bin/false"}, "python '/bin/false' is no"),
    "option": ("figure1", {**TINY, "servers": ["seda --batch x"]}, "servers 'seda --batch x' does"),
}  # fmt: skip


@pytest.mark.parametrize(("experiment", "keywords", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_that_names_keys_and_measures_nothing(
    tmp_path: Path, experiment: str, keywords: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(sedabench.UserError) as raised:
        sedabench.run(experiment, out=tmp_path / "out", **keywords)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_run_is_measured_quietly_and_can_be_read_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    servers = ["eventloop", "plain=threaded --writers 0"]
    run = sedabench.run("figure1", servers=servers, out=tmp_path / "out", **TINY)
    assert capfd.readouterr() == ("", "")
    assert run.path == tmp_path / "out"
    assert sorted(set(run.trials["server"])) == ["eventloop", "plain"]
    assert len(run.trials) == 2
    again = sedabench.resume(run.path)
    assert again.manifest["status"] == "complete"
    assert again.trials.equals(run.trials)


def test_an_interrupted_run_raises_says_how_to_go_on_and_is_resumed(tmp_path: Path) -> None:
    script = (
        "import sedabench, sys\n"
        "try: sedabench.run('figure1', quick=True, connections=[2], repeats=3, duration_s=0.5,"
        " warmup_s=0.05, servers=['eventloop'], out='out', progress=True)\n"
        "except KeyboardInterrupt as stop: print(stop); sys.exit(7)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", script], cwd=tmp_path, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("[1/3] eventloop")
        wait_for(lambda: waits_in_a_trial(process.pid))
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 7
    assert re.search(r"\d of 3 trials are kept; finish with: sedabench.resume\('out'\)", rest)
    run = sedabench.resume(tmp_path / "out")
    assert list(run.trials["trial"]) == list(range(3))


def test_only_the_main_thread_runs_experiments(tmp_path: Path) -> None:
    raised: list[BaseException] = []

    def body() -> None:
        try:
            sedabench.run("figure1", out=tmp_path / "out", **TINY)
        except sedabench.UserError as error:
            raised.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(DEADLINE_S)
    assert "main thread" in str(raised[0])


def test_keywords_make_the_settings_that_the_command_line_makes() -> None:
    found = configure(
        OVERLOAD, {"loads": np.array([2, 0.5]), "slo_ms": np.float64(50), "repeats": np.int64(3)},
        quick=True, servers=("seda", "eventloop"),
    )  # fmt: skip
    servers = (
        ServerSpec("seda", "seda", found.servers[0].options),
        ServerSpec("eventloop", "eventloop"),
    )
    assert found.servers[0].options[:2] == ("--admission-target-ms", "25")
    assert found == OVERLOAD.settings(
        quick=True, loads=(0.5, 2.0), slo_ms=50.0, repeats=3, servers=servers
    )
    assert type(found.repeats) is int
    assert configure(FIGURE1, {}, quick=False) == FIGURE1.settings()


@pytest.mark.parametrize("name", runnable_names())
def test_every_setting_of_every_experiment_can_be_said_again(name: str) -> None:
    """As keys, and as JSON from a manifest; and each is an option of the command."""
    experiment = find(name)
    usual = experiment.settings(quick=True)
    said = configure(experiment, {key: getattr(usual, key) for key in keys_of(experiment)})
    assert said.but(servers=usual.servers) == usual
    recorded = {**json.loads(json.dumps(parameters(usual))), "servers": usual.servers}
    assert experiment.Settings.of(recorded) == usual
    command = cli.commands["run"].get_command(click.Context(cli), name)  # type: ignore[attr-defined]
    options = {name for param in command.params for name in param.opts}
    assert {option_of(experiment.Settings, key) for key in experiment.Settings.model_fields} <= (
        options
    )


def test_findings_are_the_sentences_of_the_command(make_run: MakeRun) -> None:
    found = sedabench.findings(sedabench.load_run(make_run()))
    assert any("keeps" in text for text in found)
    assert sedabench.findings(sedabench.load_run(make_run("empty", stop_after=0))) == []


def test_all_figures_of_overload_are_functions_of_a_run(tmp_path: Path, make_run: MakeRun) -> None:
    run = sedabench.load_run(write_overload_run(tmp_path / "overload", repeats=1, loads=(0.5, 2.0)))
    for name in ("goodput", "latency", "tail", "fairness", "spike"):
        figure = getattr(sedabench.plots, name)(run)
        assert figure is None or figure.axes, name
    with pytest.raises(sedabench.UserError, match="is a run of figure1"):
        sedabench.plots.goodput(sedabench.load_run(make_run()))


def test_the_public_functions_are_functions_whatever_was_imported_before() -> None:
    """No module is called as a function: importing it would put it in the function's place."""
    package = Path(sedabench.__file__).parent
    for name in sedabench.__all__:
        found = getattr(sedabench, name)
        assert inspect.getdoc(found), name
        if inspect.isfunction(found):
            assert not (package / f"{name}.py").exists()
            assert not (package / name).exists()
