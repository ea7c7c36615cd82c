"""overload: its plan, the loads that all servers face, a real tiny run, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sedabench
from sedabench.errors import DamagedRunError, UserError
from sedabench.experiments import bench as common
from sedabench.experiments import carry_out, overload
from sedabench.experiments.overload import OverloadSettings, workload_at
from sedabench.experiments.site import Site
from sedabench.results.folder import Value
from sedabench.targets import servers as servers_under_test
from sedabench.trials import http_columns
from sedabench.trials.trial import Measured
from tests.sedabench.conftest import OVERLOAD, PEERS, Command


@pytest.fixture
def command(sedabench: Command) -> Command:
    """The command as a process, beside the package of the same name."""
    return sedabench


SITE = Site("dynamic", 20.0, None)


def cells(config: OverloadSettings, phase: str) -> list[dict[str, Any]]:
    return [cell for cell in OVERLOAD.plan(config) if cell["phase"] == phase]


def option(arguments: tuple[str, ...], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_capacity_comes_first_then_the_sweep_then_one_spike_a_server() -> None:
    config = OVERLOAD.settings(quick=True, repeats=3, loads=(0.5, 2.0))
    plan = OVERLOAD.plan(config)
    assert [cell["trial"] for cell in plan] == list(range(len(plan)))
    phases = [cell["phase"] for cell in plan]
    assert phases == ["capacity"] * 6 + ["sweep"] * 18 + ["spike"] * 3
    for block in range(3):
        found = {(c["server"], c["load"]) for c in cells(config, "sweep") if c["block"] == block}
        assert len(found) == 6
    assert {cell["server"] for cell in cells(config, "spike")} == {"threaded", "eventloop", "seda"}


def test_the_order_is_drawn_from_the_seed() -> None:
    assert OVERLOAD.plan(OVERLOAD.settings(seed=5)) == OVERLOAD.plan(OVERLOAD.settings(seed=5))
    assert OVERLOAD.plan(OVERLOAD.settings(seed=5)) != OVERLOAD.plan(OVERLOAD.settings(seed=6))


@given(st.floats(min_value=1e-6, max_value=100))
def test_a_load_is_the_same_text_in_a_plan_and_in_a_row(load: float) -> None:
    value = overload.plain(load)
    assert str(json.loads(json.dumps(value))) == f"{value:.9g}"


def test_all_servers_face_the_same_schedule_and_no_two_trials_of_one_server_do() -> None:
    config = OVERLOAD.settings(quick=True)
    sent: dict[tuple[Any, ...], set[tuple[str, str]]] = {}
    for cell in cells(config, "sweep"):
        arguments = workload_at(config, SITE, cell, 1000.0).arguments
        what = (option(arguments, "--rate"), option(arguments, "--seed"))
        sent.setdefault((cell["block"], cell["load"]), set()).add(what)
    assert all(len(found) == 1 for found in sent.values())
    assert len(set.union(*sent.values())) == len(sent) == 12


def test_the_spike_rises_from_half_the_capacity_to_twice_and_the_server_is_watched() -> None:
    config = OVERLOAD.settings(
        quick=True, spike_before_s=1.0, spike_s=2.0, spike_after_s=3.0, warmup_s=0.5
    )
    workload = workload_at(config, SITE, cells(config, "spike")[0], 1000.0)
    assert option(workload.arguments, "--rate") == "500.000"
    assert option(workload.arguments, "--arrivals") == "spike:4,1.5,2"
    assert option(workload.arguments, "--duration") == "6.0"
    assert workload.poll_s == overload.POLL_S


def test_a_bare_seda_has_its_admission_target_from_the_slo() -> None:
    spec = next(
        spec for spec in OVERLOAD.settings(quick=True, slo_ms=50.0).servers if spec.label == "seda"
    )
    assert spec.options[:2] == ("--admission-target-ms", f"{50 * overload.SEDA['dynamic'][0]:g}")


def rejected(**changes: Any) -> str:
    with pytest.raises(UserError) as raised:
        OVERLOAD.check(OVERLOAD.settings(quick=True, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"workload": "dynamc"}, "did you mean 'dynamic'"),
        ({"loads": ()}, "loads names no level"),
        ({"loads": (0.0, 1.0)}, "loads must be over 0"),
        ({"loads": (float("nan"),)}, "loads must be"),
        ({"loads": (1e9,)}, "at most 100"),
        ({"loads": (2.0, 2.0)}, "twice"),
        ({"slo_ms": 5000.0}, "time-out"),
        ({"connections": 10**8}, "RLIMIT_NOFILE"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"duration_s": float("inf")}, "finite"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_starts(
    changes: dict[str, Any], says: str
) -> None:
    assert says in rejected(**changes)


# -- a run without processes: what is measured is invented --------------------------------


def invented(rps: Mapping[str, float | None], asked: list[list[str]]) -> Any:
    """Stands for `trial.measure`: capacity as given, None: an invalid trial."""

    def measure(spec: Any, workload: Any, *_: object) -> Any:
        asked.append(list(workload.arguments))
        rate = rps[spec.label]
        row: dict[str, Value] = dict.fromkeys(c.name for c in http_columns.COLUMNS)
        row.update(
            server=spec.label, architecture=spec.architecture, valid=rate is not None,
            throughput_rps=rate, goodput_rps=rate, server_options="", warnings="",
            invalid_reason="" if rate is not None else "it broke",
        )  # fmt: skip
        return Measured(row, {"result": None, "server_timeline": None})

    return measure


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every command line of a load generator that was not started."""
    found: list[list[str]] = []
    monkeypatch.setattr(common, "try_servers", lambda *_: None)
    monkeypatch.setattr(overload.Overload, "draw", lambda *_: [])
    monkeypatch.setattr(Site, "prepare", lambda *_: SITE)
    monkeypatch.setattr(
        common, "measure", invented({"threaded": 900.0, "eventloop": 1100.0, "seda": None}, found)
    )
    return found


SMALL = OVERLOAD.settings(quick=True, repeats=1, loads=(0.5, 2.0), seed=3)


def rates(asked: list[list[str]]) -> list[str]:
    return [option(tuple(words), "--rate") for words in asked if "--rate" in words]


def test_the_highest_capacity_of_the_valid_servers_sets_the_loads_of_all(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    run, outcome = carry_out.run(OVERLOAD, SMALL, tmp_path / "out")
    assert outcome.finished == outcome.planned == 15
    assert run.manifest["capacity_rps"] == 1100.0
    assert run.manifest["capacity_by_server_rps"] == {"threaded": 900.0, "eventloop": 1100.0}
    assert sorted(rates(asked)) == ["2200.000"] * 3 + ["550.000"] * 6
    assert list(run.trials["workload"].unique()) == ["dynamic"]
    assert run.trials["load"].isna().sum() == 6


def test_a_resumed_run_offers_the_loads_of_its_start(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    measure = common.measure

    def interrupted(*arguments: Any) -> Any:
        if len(asked) == 10:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(common, "measure", interrupted)
    _, outcome = carry_out.run(OVERLOAD, SMALL, path)
    assert outcome.finished == 10
    asked.clear()
    monkeypatch.setattr(common, "measure", invented(dict.fromkeys(("threaded", "eventloop", "seda"), 5.0), asked))  # fmt: skip  # noqa: E501
    run, outcome = carry_out.resume(OVERLOAD, path)
    assert outcome.finished == outcome.planned == 15
    assert run.manifest["capacity_rps"] == 1100.0
    assert set(rates(asked)) <= {"2200.000", "550.000"}
    assert len(rates(asked)) == 5


def test_without_a_valid_capacity_trial_the_run_ends_in_one_line_and_is_kept(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = dict.fromkeys(("threaded", "eventloop", "seda"))
    monkeypatch.setattr(common, "measure", invented(nothing, asked))
    with pytest.raises(UserError, match="no capacity trial is valid"):
        carry_out.run(OVERLOAD, SMALL, tmp_path / "out")
    run = sedabench.load_run(tmp_path / "out")
    assert len(run.trials) == 6
    assert run.manifest["status"] == "interrupted"


def test_settings_that_do_not_make_the_plan_are_refused(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    run, _ = carry_out.run(OVERLOAD, SMALL, tmp_path / "out")
    for name, value in (("loads", [0.5]), ("loads", ["2"]), ("slo_ms", "x"), ("servers", [3])):
        manifest = {**run.manifest, "parameters": {**run.manifest["parameters"], name: value}}
        (run.path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DamagedRunError):
            carry_out.resume(OVERLOAD, run.path)


def test_a_run_is_taken_up_by_its_own_experiment_only(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    run, _ = carry_out.run(OVERLOAD, SMALL, tmp_path / "out")
    with pytest.raises(UserError, match="run overload --resume"):
        carry_out.resume(PEERS, run.path)


# -- the check of the counts --------------------------------------------------------------

BINS = {
    "bin_s": 0.1, "answered": [100] * 20, "rejected": [0] * 20, "errors": [0] * 20,
}  # fmt: skip
RESULT = {"start_ns": 0, "timeline": BINS}


def edge(seconds: float, replies: int) -> dict[str, int]:
    return {"time_ns": round(seconds * 1e9), "replies": replies}


def compared(made: int, begin_s: float = 0.55, end_s: float = 1.55, **timeline: Any) -> str | None:
    result = {**RESULT, "timeline": {**BINS, **timeline}}
    _, reason = http_columns.compare_counts(edge(begin_s, 7), edge(end_s, 7 + made), result)
    return reason


@pytest.mark.parametrize("made", [890, 1000, 1120])
def test_what_the_bins_leave_open_is_no_disagreement(made: int) -> None:
    assert compared(made) is None


@pytest.mark.parametrize("made", [850, 1150])
def test_counts_that_no_bin_explains_spoil_a_trial(made: int) -> None:
    assert "counts disagree" in str(compared(made))


def test_replies_to_clients_that_gave_up_are_no_disagreement() -> None:
    assert compared(1400, errors=[30] * 20) is None
    assert "had given up" in str(compared(1400, errors=[1] * 20))


def test_requests_that_were_never_sent_explain_no_reply() -> None:
    unsent = compared(1400, errors=[30] * 20, never_sent=[30] * 20)
    assert str(unsent).endswith("the client had 1100")


def test_a_server_that_answers_about_itself_too_late_is_not_judged_by_it() -> None:
    assert compared(370, 3.5, 4.2, errors=[30] * 20) is None


# -- real processes -----------------------------------------------------------------------


def test_a_tiny_run_is_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how much is answered, or how many trials are valid."""
    measured = overload.capacities
    busy = {"eventloop": 1000.0}  # the machine was too busy for a valid capacity trial
    monkeypatch.setattr(overload, "capacities", lambda run: measured(run) or busy)
    servers = servers_under_test.parse_specs(["eventloop"], {})
    config = OVERLOAD.settings(quick=True,
        servers=servers, loads=(0.2, 2.0), repeats=1, capacity_repeats=1, duration_s=0.3,
        warmup_s=0.1, connections=32, timeout_s=0.3, slo_ms=100.0, spike_before_s=0.3,
        spike_s=0.3, spike_after_s=0.3,
    )  # fmt: skip
    run, outcome = carry_out.run(OVERLOAD, config, tmp_path / "out")
    assert (outcome.finished, outcome.signum) == (4, None)
    assert {path.name for path in run.path.glob("*.png")} >= {"goodput.png", "spike.png"}
    assert run.manifest["compute_loops_per_us"] > 0
    assert run.manifest["capacity_by_server_rps"] == (measured(run) or busy)
    trials = run.trials
    assert sorted(trials["phase"]) == ["capacity", "spike", "sweep", "sweep"]
    assert (trials["throughput_rps"] >= trials["goodput_rps"]).all()
    outcomes = ["answered", "rejected", "wrong", "timeouts", "connection_errors", "never_sent"]
    assert (trials[outcomes].sum(axis=1) == trials["scheduled"]).all()
    valid = trials[trials["valid"]]
    assert (valid["scheduled"] > 0).all()
    assert valid[["server_cpu", "server_requests", "server_threads"]].notna().all(axis=None)
    spike = next(trial for trial in run.manifest["plan"] if trial["phase"] == "spike")
    raw = json.loads((run.path / "trials" / f"{spike['trial']:03d}.json").read_text())
    assert raw["result"]["arrivals"].startswith("spike:")
    moments = raw["server_timeline"]
    assert moments or not trials[trials["phase"] == "spike"]["valid"].any()
    for name in ("t_s", "replies"):
        said = [moment[name] for moment in moments]
        assert said == sorted(said), name


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "workload": (("--workload", "dynamc"), "did you mean 'dynamic'"),
    "load that is no number": (("--load", "1,much"), "--load must be numbers"),
    "load of zero": (("--load", "0"), "--load"),
    "an SLO of zero": (("--slo", "0"), "--slo"),
    "a server that is not there": (("--server", "nginks"), "nginx"),
    "an option of a server that is not ours": (("--server", "nginx --x"), "neither options"),
    "a workload that it does not offer": (("--server", "nginx"), "does not offer 'dynamic'"),
    "definitions that are not there": (("--definitions", "none.toml"), "none.toml"),
    "resume nothing": (("--resume", "nothing"), "not a run folder"),
    "resume with settings": (("--resume", "nothing", "--load", "1"), "leave out --load"),
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_status_2(
    command: Command, arguments: tuple[str, ...], says: str
) -> None:
    done = command("run", "overload", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done
    assert says in done.stderr
