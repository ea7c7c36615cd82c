"""What is said of a run whose answers are known because it was invented."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from sedabench.analysis.overload import ServerFindings
from sedabench.analysis.overload_findings import analyse, sentences, show
from sedabench.analysis.spike import Spike, recovery, spike_of, spikes
from sedabench.errors import DamagedRunError
from sedabench.results.folder import Run, load_run
from tests.sedabench.invented_overload import (
    CAPACITY_RPS,
    MODELS,
    SLO_MS,
    Model,
    write_overload_run,
)  # fmt: skip

LOADS = (0.5, 1.0, 2.0, 3.0)
OPEN = ("--no-admission-controller", "--queue-policy", "block")


def found(path: Path, server: str) -> ServerFindings:
    return next(s for s in analyse(load_run(path)).servers if s.server == server)


def test_capacity_peak_and_what_is_kept_are_those_of_the_model(tmp_path: Path) -> None:
    path = write_overload_run(tmp_path / "run", loads=LOADS, repeats=2, noise=0.0)
    eventloop = found(path, "eventloop")
    assert eventloop.capacity_rps is not None
    assert eventloop.capacity_rps.value == pytest.approx(CAPACITY_RPS)
    assert eventloop.peak is not None
    assert eventloop.peak.load == 1
    assert eventloop.twice.ratio is not None
    assert eventloop.twice.ratio.value == pytest.approx(0.04)
    assert (eventloop.twice.verdict, found(path, "seda").twice.verdict) == ("loses", "keeps")


def test_the_load_that_first_breaks_the_slo_is_named(tmp_path: Path) -> None:
    path = write_overload_run(tmp_path / "run", loads=LOADS, repeats=2, noise=0.0)
    breaks = found(path, "threaded").breaks_at
    assert breaks is not None
    assert breaks.load == 1
    assert found(path, "seda").breaks_at is None
    text = " ".join(sentences(load_run(path)))
    assert "threaded: its p99 first breaks the SLO of 200 ms at the capacity" in text
    assert "seda: its p99 stays within the SLO of 200 ms up to 3 times the capacity" in text


def test_answers_that_never_come_break_the_slo_however_fast_the_others_are(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=2))
    some = (run.trials["server"] == "seda") & (run.trials["load"] == 2)
    run.trials.loc[some, "answered"] -= (run.trials["scheduled"][some] // 50).astype("Int64")
    seda = next(s for s in analyse(run).servers if s.server == "seda")
    assert seda.breaks_at is not None
    assert seda.breaks_at.load == 2
    assert any("(for want of answers)" in text for text in sentences(run))


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"threaded": 0.2, "seda": 0.97}, "is seen here"),
        ({"threaded": 0.97, "seda": 0.97}, "is seen in part"),
        ({"threaded": 0.2, "seda": 0.5}, "is contradicted here"),
        ({"threaded": 0.9, "seda": 0.97}, "is not decided here"),
        ({"seda": 0.97}, "cannot be judged, for no server of another architecture has a trial"),
        ({"threaded": 0.2}, "architecture seda with admission control has a trial"),
    ],
)
def test_the_claim_is_judged_by_the_data(
    tmp_path: Path, kept: dict[str, float], words: str
) -> None:
    models = {k: Model(k, rejects=k == "seda", kept_at_twice=v) for k, v in kept.items()}
    path = write_overload_run(tmp_path / "run", models, loads=(1.0, 2.0), phases=("sweep",))
    assert words in claim_of(load_run(path))


def claim_of(run: Run) -> str:
    (claim,) = [text for text in sentences(run) if text.startswith("The paper's claim")]
    return claim


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"threaded": 0.2, "seda": 0.97, "open": 0.1}, "is seen here: the peak is kept by seda;"),
        ({"threaded": 0.2, "seda": 0.5, "open": 0.97}, "is contradicted here: it is not kept"),
        ({"seda": 0.97, "open": 0.1}, "no server of another architecture has a trial: the"),
        ({"threaded": 0.2, "open": 0.1}, "seda with admission control has a trial: it is"),
    ],
)
def test_stages_without_control_say_nothing_of_the_paper_s_design(
    tmp_path: Path, kept: dict[str, float], words: str
) -> None:
    claim = claim_of(load_run(with_open(tmp_path / "run", kept, OPEN)))
    assert words in claim
    assert claim.endswith("; open is not counted, for it has no admission control.")


@pytest.mark.parametrize(
    "options",
    [("--no-admission-controller", "--admission-controller"), ("--queue-policy", "block")],
)
def test_stages_with_admission_control_count_whatever_else_they_are_given(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    kept = {"threaded": 0.2, "seda": 0.97, "open": 0.1}
    claim = claim_of(load_run(with_open(tmp_path / "run", kept, options)))
    assert "is contradicted here" in claim
    assert "not counted" not in claim


def with_open(path: Path, kept: dict[str, float], options: tuple[str, ...]) -> Path:
    """A run of servers that keep so much; that called `open` has these options."""
    models = {
        label: Model(
            "threaded" if label == "threaded" else "seda", kept_at_twice=share,
            options=options if label == "open" else (),
        )
        for label, share in kept.items()
    }  # fmt: skip
    return write_overload_run(path, models, loads=(1.0, 2.0), phases=("sweep",))


def test_several_without_control_are_all_named(tmp_path: Path) -> None:
    models = {**MODELS, **{k: Model("seda", options=OPEN) for k in ("open", "wide")}}
    path = write_overload_run(tmp_path / "run", models, loads=(1.0, 2.0), phases=("sweep",))
    assert claim_of(load_run(path)).endswith(
        "; open, wide are not counted, for they have no admission control."
    )


def test_the_option_of_another_architecture_is_not_ours(tmp_path: Path) -> None:
    models = {"seda": MODELS["seda"], "mine": Model("mine.py:Mine", options=OPEN)}
    path = write_overload_run(tmp_path / "run", models, loads=(1.0, 2.0), phases=("sweep",))
    assert "not counted" not in claim_of(load_run(path))


@pytest.mark.parametrize(
    ("server", "answer"),
    [
        ("seda", "for no server of the architecture seda with admission control has a verdict: "),
        ("eventloop", "is seen here: the peak is kept by seda; it is not kept by threaded; "),
    ],
)
def test_a_server_whose_peak_is_nothing_has_no_verdict_and_is_named(
    tmp_path: Path, server: str, answer: str
) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=3))
    run.trials.loc[run.trials["server"] == server, "goodput_rps"] = 0.0
    assert answer in claim_of(run)
    why = "a median goodput of 0 at every load with a valid trial"
    assert claim_of(run).endswith(f"; there is no verdict on {server} ({why}).")


def test_a_server_without_a_valid_trial_at_twice_the_capacity_is_named(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=3))
    there = (run.trials["server"] == "eventloop") & (run.trials["load"] == 2)
    run.trials.loc[there, "valid"] = False
    why = "no valid trial at twice the capacity"
    assert claim_of(run).endswith(f"; there is no verdict on eventloop ({why}).")


def test_a_peak_with_a_repeat_of_nothing_has_no_verdict_and_says_so(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=3))
    peak = (run.trials["server"] == "eventloop") & (run.trials["load"] == 1) & run.trials["valid"]
    run.trials.loc[peak[peak].index[0], "goodput_rps"] = 0.0
    assert claim_of(run).endswith(
        "there is no verdict on eventloop (a repeat with a goodput of 0 at its peak)."
    )


def test_overlapping_intervals_are_no_difference(tmp_path: Path) -> None:
    models = {"one": Model("threaded"), "other": Model("eventloop")}
    path = write_overload_run(
        tmp_path / "run", models, loads=(1.0, 2.0), phases=("sweep",), noise=0.05
    )
    text = " ".join(sentences(load_run(path)))
    assert "no difference from" in text
    assert "more than" not in text


def test_one_repeat_decides_nothing(tmp_path: Path) -> None:
    path = write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=1, phases=("sweep",))
    text = " ".join(sentences(load_run(path)))
    assert "is not decided here" in text
    assert "(one repeat)" in text
    assert "more than" not in text


def test_invalid_trials_are_left_out_and_counted(tmp_path: Path) -> None:
    clean = write_overload_run(tmp_path / "clean", loads=(1.0, 2.0), phases=("sweep",))
    path = write_overload_run(
        tmp_path / "run", loads=(1.0, 2.0), phases=("sweep",),
        invalid={0: "its core was full", 1: "its core was full"},
    )  # fmt: skip
    assert sentences(load_run(path))[0] == (
        "2 of 30 trials are invalid and left out: its core was full (2)."
    )
    assert [v.valid for v in found(path, "threaded").levels] == [4, 4]
    assert [v.valid for v in found(clean, "threaded").levels] == [5, 5]


def test_a_run_without_a_valid_trial_has_sentences_too(tmp_path: Path) -> None:
    invalid = dict.fromkeys(range(100), "no server")
    path = write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=1, invalid=invalid)
    texts = sentences(load_run(path))
    assert "seda: no valid trial of the sweep." in texts
    assert "seda: no recovery time, for there is no valid spike trial." in texts


def test_a_server_that_answers_nothing_in_time_has_no_ratio(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=3))
    run.trials["goodput_rps"] = 0.0
    assert all(s.twice.ratio is None for s in analyse(run).servers)
    text = " ".join(sentences(run))
    assert "highest goodput" not in text
    assert (
        "At twice the capacity threaded, eventloop, seda answer nobody in time: "
        "their median goodput is 0." in text
    )
    assert "there is no verdict on threaded, eventloop, seda (a median goodput of 0" in text


def test_a_server_that_accepts_nothing_has_no_p99_and_says_so(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=3))
    mine = run.trials["server"] == "seda"
    run.trials.loc[mine, "rejected"] = run.trials.loc[mine, "scheduled"]
    run.trials.loc[mine, ["answered", "goodput_rps", "throughput_rps"]] = 0
    run.trials.loc[mine, ["latency_p50_us", "latency_p99_us"]] = np.nan
    assert any(
        text.startswith("seda: its p99 is unknown, for no request was accepted; ")
        for text in sentences(run)
    )


def test_without_a_load_near_the_capacity_the_claim_is_not_decided(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=(0.25, 2.0, 3.0)))
    assert "is not decided here" in claim_of(run)


def test_the_table_fits_a_terminal_and_names_every_server(tmp_path: Path) -> None:
    run = load_run(write_overload_run(tmp_path / "run", loads=LOADS, repeats=2))
    console = Console(width=100, record=True, file=io.StringIO())
    show(run, console)
    text = console.export_text()
    assert all(f" {server} " in text for server in MODELS)
    assert "…" not in text


# -- recovery -----------------------------------------------------------------------------


@pytest.mark.parametrize("recovery_s", [0.0, 0.1, 0.4, 2.3, None])
def test_recovery_time_is_that_of_the_model(tmp_path: Path, recovery_s: float | None) -> None:
    models = {"seda": replace(MODELS["seda"], recovery_s=recovery_s)}
    path = write_overload_run(tmp_path / "run", models, phases=("spike",))
    (spike,) = spikes(load_run(path))
    one = recovery(spike, SLO_MS)
    assert one is not None
    assert one.observed_s == pytest.approx(4)
    assert one.seconds == (None if recovery_s is None else pytest.approx(recovery_s, abs=1e-6))


def even_spike() -> Spike:
    """Two seconds of quiet, one of spike, four of quiet: recovered at once."""
    t_s = np.arange(70) / 10
    rate, fast = np.full(70, 100.0), np.full(70, 5e3)
    return Spike(
        "seda", 0, True, "", 2.0, 3.0, 0.1, t_s, rate, rate, rate, 0 * rate, fast, fast, ()
    )


def test_a_relapse_within_the_hold_delays_recovery() -> None:
    p99_us = even_spike().p99_us.copy()
    p99_us[33] = 1e6
    one = recovery(replace(even_spike(), p99_us=p99_us), SLO_MS)
    assert one is not None
    assert one.seconds == pytest.approx(0.4)


def test_fast_answers_to_a_few_are_no_recovery() -> None:
    good = even_spike().good.copy()
    good[30:40] = 60
    one = recovery(replace(even_spike(), good=good), SLO_MS)
    assert one is not None
    assert one.seconds == pytest.approx(1.0, abs=0.11)


def test_bins_without_an_answer_are_no_recovery() -> None:
    p99_us = even_spike().p99_us.copy()
    p99_us[30:50] = np.nan
    one = recovery(replace(even_spike(), p99_us=p99_us), SLO_MS)
    assert one is not None
    assert one.seconds == pytest.approx(2.0)


def test_a_hold_that_the_trial_is_too_short_for_is_no_recovery() -> None:
    one = recovery(replace(even_spike(), end_s=6.7), SLO_MS)
    assert one is not None
    assert one.seconds is None


@pytest.mark.parametrize(
    ("arrivals", "span"),
    [
        ("spike:4,3,2", (3.0, 5.0)),
        ("step:0.5x3,2x1.5,0.5x3", (3.0, 4.5)),
        ("step:1x5", None),
        ("poisson", None),
        ("spike:4", None),
        ("step:axb", None),
        ("", None),
    ],
)
def test_the_spike_is_read_from_the_arrivals(
    arrivals: str, span: tuple[float, float] | None
) -> None:
    assert spike_of(arrivals) == span


@pytest.mark.parametrize("damage", ["{", "[]", '{"result": {"timeline": {"t_s": [1]}}}'])
def test_a_damaged_record_is_one_line(tmp_path: Path, damage: str) -> None:
    path = write_overload_run(tmp_path / "run", repeats=1, phases=("spike",))
    (path / "trials" / "000.json").write_text(damage)
    with pytest.raises(DamagedRunError) as caught:
        analyse(load_run(path))
    assert "\n" not in str(caught.value)


def test_a_run_without_records_has_no_recovery_and_says_so(tmp_path: Path) -> None:
    path = write_overload_run(tmp_path / "run", loads=(1.0, 2.0), repeats=1)
    for record in (path / "trials").iterdir():
        record.unlink()
    assert "seda: no recovery time, for there is no valid spike trial." in sentences(load_run(path))


@pytest.mark.parametrize("key", ["slo_ms", "workload", "servers"])
def test_a_manifest_without_a_setting_is_damage(tmp_path: Path, key: str) -> None:
    path = write_overload_run(tmp_path / "run", loads=(1.0,), repeats=1, phases=("sweep",))
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["parameters"][key]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedRunError, match="damaged"):
        sentences(load_run(path))
