"""The figures of invented runs: whole, partial and odd ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sedabench.analysis.overload import Findings, analyse
from sedabench.errors import DamagedRunError
from sedabench.figures import overload as plots_overload
from sedabench.figures import plots
from sedabench.figures import spike as plots_spike
from sedabench.results.folder import Run, load_run
from tests.sedabench.conftest import OVERLOAD
from tests.sedabench.invented_overload import MODELS, Model, write_overload_run

LOADS = (0.5, 1.0, 2.0)
MAKERS: tuple[Callable[[Run, Findings], object], ...] = (
    plots_overload.goodput, plots_overload.latency, plots_overload.tail, plots_overload.fairness,
    plots_spike.spike,
)  # fmt: skip


def write(path: Path, **options: object) -> Path:
    return write_overload_run(path, **{"loads": LOADS, "repeats": 1, **options})  # type: ignore[arg-type]


def made(run: Run) -> dict[str, object]:
    findings = analyse(run)
    return {make.__name__: make(run, findings) for make in MAKERS}


def test_a_run_has_five_figures_as_png_and_svg(tmp_path: Path) -> None:
    path = write(tmp_path / "run")
    names = {file.name for file in OVERLOAD.draw(load_run(path))}
    stems = ("goodput", "latency", "spike", "tail", "fairness")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert all((path / name).stat().st_size > 1000 for name in names)


def test_invalid_trials_are_hollow_and_the_legend_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "run", phases=("sweep",), invalid={1: "its core was full: 0.99"})
    run = load_run(path)
    findings = analyse(run)
    for make in (plots_overload.goodput, plots_overload.latency, plots_overload.fairness):
        figure = make(run, findings)
        assert figure is not None
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert "invalid (1): its core was full" in labels
        for axes in figure.axes:
            hollow = [v for v in axes.get_lines() if v.get_markerfacecolor() == "white"]
            assert sum(len(list(v.get_xdata())) for v in hollow) == 1  # type: ignore[arg-type]


def test_rates_and_fairness_begin_at_zero(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "run"))
    findings = analyse(run)
    for make in (plots_overload.goodput, plots_overload.fairness):
        figure = make(run, findings)
        assert figure is not None
        assert {axes.get_ylim()[0] for axes in figure.axes} == {0}


def test_a_run_without_a_spike_trial_lacks_that_figure_only(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "run", phases=("capacity", "sweep")))
    assert [name for name, figure in made(run).items() if figure is None] == ["spike"]


def test_a_run_of_capacities_alone_has_no_figure(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "run", phases=("capacity",)))
    assert OVERLOAD.draw(run) == []


def test_a_run_without_a_valid_trial_is_drawn_hollow(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "run", invalid=dict.fromkeys(range(99), "it broke")))
    assert None not in made(run).values()


def test_a_run_without_records_lacks_tail_and_spike(tmp_path: Path) -> None:
    path = write(tmp_path / "run")
    for record in (path / "trials").iterdir():
        record.unlink()
    lacking = [name for name, figure in made(load_run(path)).items() if figure is None]
    assert lacking == ["tail", "spike"]


def test_a_run_whose_capacity_is_not_known_yet_is_drawn(tmp_path: Path) -> None:
    run = load_run(write(tmp_path / "run"))
    assert None not in made(replace(run, manifest={**run.manifest, "capacity_rps": None})).values()


def test_a_run_with_no_result_in_any_trial_has_no_figure(tmp_path: Path) -> None:
    path = write(tmp_path / "run", phases=("sweep",))
    run = load_run(path)
    for name in ("throughput_rps", "goodput_rps", "latency_p50_us", "latency_p99_us"):
        run.trials[name] = float("nan")
    run.trials["jain_fairness"] = float("nan")
    for record in (path / "trials").iterdir():
        record.write_text('{"result": null}')
    assert set(made(run).values()) == {None}


def test_odd_labels_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ("_$x_{1}$ $ \u4e2d\u6587 \\frac", "x" * 200)
    models = {name: Model("seda", rejects=True) for name in names}
    path = write_overload_run(tmp_path / "run", models, loads=(1.0,), repeats=1)
    assert len(OVERLOAD.draw(load_run(path))) == 10


def test_a_server_has_the_marks_of_its_architecture_whoever_else_is_there() -> None:
    alone = plots.slots([("nginx", "external"), ("mine", "seda"), ("second", "seda")])
    assert alone["mine"] == plots.slots([(name, name) for name in MODELS])["seda"] == 2
    assert len(set(alone.values())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        {"latency_quantiles": {"q": [0.5]}},
        {"latency_quantiles": {"q": ["a"], "latency_us": [1]}},
        {"latency_quantiles": 7},
    ],
)
def test_a_distribution_that_cannot_be_drawn_is_damage(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    path = write(tmp_path / "run", phases=("sweep",))
    for record in (path / "trials").iterdir():
        record.write_text(json.dumps({"result": damage}))
    with pytest.raises(DamagedRunError, match="'tail' cannot be drawn"):
        OVERLOAD.draw(load_run(path))


def test_stages_that_say_nonsense_are_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "run", phases=("spike",))
    record = path / "trials" / "002.json"
    raw = json.loads(record.read_text())
    raw["server_timeline"] = [{"t_s": 0.1, "stages": [{"name": "read"}]}]
    record.write_text(json.dumps(raw))
    with pytest.raises(DamagedRunError, match="'spike' cannot be drawn"):
        OVERLOAD.draw(load_run(path))
