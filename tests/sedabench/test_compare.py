"""Two runs compared: what is said, what is not, and how the command exits."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from sedabench.analysis import compare as comparing
from sedabench.analysis.compare import CellComparison, Comparison, better
from sedabench.analysis.family_test import FAMILY_WISE, enough, permutation_test
from sedabench.cli.compare import compare as command
from sedabench.errors import UserError
from sedabench.experiments.registry import of_run
from sedabench.results.folder import Run, load_run
from tests.sedabench.conftest import FIGURE1, MakeRun
from tests.sedabench.invented_overload import write_overload_run

REFERENCE = Path(__file__).parents[2] / "results" / "reference" / "figure1"


def compare(a: Run, b: Run, metrics: tuple[str, ...] = ()) -> Comparison:
    """By what their experiment is compared by, as the command does."""
    return comparing.compare(a, b, of_run(a).question_of(a), metrics)


FIVE = FIGURE1.settings(quick=True, repeats=5, connections=(1, 16, 64))

Row = dict[str, str]
Values = npt.NDArray[np.float64]


def edited(source: Path, target: Path, edit: Callable[[Row], None]) -> Path:
    """A copy of a run folder in which `edit` changed every row of trials.csv."""
    shutil.copytree(source, target)
    with (source / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        edit(row)
    with (target / "trials.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return target


def scaled(server: str, factor: float, column: str = "bandwidth_bps") -> Callable[[Row], None]:
    def edit(row: Row) -> None:
        if row["server"] == server and row[column]:
            row[column] = f"{float(row[column]) * factor:.9g}"

    return edit


def manifest_edited(path: Path, **changes: object) -> Path:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))
    return path


def verdicts(found: Comparison) -> dict[str, set[str]]:
    return {
        server: {cell.verdict for cell in found.cells if cell.server == server}
        for server in {cell.server for cell in found.cells}
    }


def told(found: Comparison) -> list[CellComparison]:
    """Without the cells of which a run has too few valid repeats; of the reference a few."""
    cells = [cell for cell in found.cells if cell.verdict != "too few repeats to tell"]
    assert len(cells) >= 0.9 * len(found.cells)
    return cells


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_a_run_compared_with_itself_shows_no_difference_anywhere() -> None:
    run = load_run(REFERENCE)
    found = compare(run, run)
    assert {cell.verdict for cell in told(found)} == {"no difference seen"}
    assert len(found.cells) == 42
    assert all(cell.ratio is not None and cell.ratio.value == 1 for cell in found.cells)
    assert (found.only_a, found.only_b, found.differences) == ((), (), ())
    assert found.left_out_a == found.left_out_b == 3


def test_a_server_that_lost_a_third_is_slower_and_nobody_else_is(tmp_path: Path) -> None:
    """Of the reference run, with the noise that it really has."""
    slow = edited(REFERENCE, tmp_path / "slow", scaled("threaded", 0.7))
    found = compare(load_run(REFERENCE), load_run(slow))
    others = {cell.verdict for cell in told(found) if cell.server != "threaded"}
    assert others == {"no difference seen"}
    mine = {cell.verdict for cell in told(found) if cell.server == "threaded"}
    assert mine <= {"slower", "no difference seen"}
    slower = [cell for cell in found.cells if cell.verdict == "slower"]
    assert len(slower) >= 9, "four of its fourteen levels have a repeat that is far off"
    assert all(cell.ratio and abs(cell.ratio.value - 0.7) < 1e-6 for cell in slower)
    assert {c.verdict for c in told(compare(load_run(slow), load_run(REFERENCE)))} == {
        "faster",
        "no difference seen",
    }


def test_with_steady_repeats_every_level_of_a_slower_server_shows(
    make_run: MakeRun, tmp_path: Path
) -> None:
    a = make_run(config=FIVE)
    b = edited(a, tmp_path / "b", scaled("seda", 0.8))
    said = verdicts(compare(load_run(a), load_run(b)))
    assert said == {
        "threaded": {"no difference seen"},
        "eventloop": {"no difference seen"},
        "seda": {"slower"},
    }


def test_of_a_latency_less_is_better_and_of_the_unknown_nothing_is_said(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def noisy(column: str, factor: float) -> Callable[[Row], None]:
        noise = np.random.default_rng(3)

        def edit(row: Row) -> None:
            row[column] = f"{float(row[column]) * factor * noise.normal(1, 0.01):.9g}"

        return edit

    for column, verdict in (("ack_p99_us", "slower"), ("client_cpu", "higher")):
        a = edited(make_run(f"{column}", config=FIVE), tmp_path / f"{column}-a", noisy(column, 1))
        b = edited(a, tmp_path / f"{column}-b", noisy(column, 1.5))
        found = compare(load_run(a), load_run(b), (column,))
        assert {cell.verdict for cell in found.cells} == {verdict}
    assert (better("goodput_rps"), better("latency_p99_us"), better("steal")) == (1, -1, 0)


def test_two_or_three_repeats_are_too_few_to_tell(make_run: MakeRun, tmp_path: Path) -> None:
    for repeats, told in ((2, False), (3, False), (4, True)):
        a = make_run(
            f"a{repeats}", config=FIGURE1.settings(quick=True, repeats=repeats, connections=(1, 16))
        )
        b = edited(a, tmp_path / f"b{repeats}", scaled("seda", 0.1))
        said = verdicts(compare(load_run(a), load_run(b)))["seda"]
        assert said == {"slower" if told else "too few repeats to tell"}


def test_invalid_trials_do_not_count_and_their_number_is_said(
    make_run: MakeRun, tmp_path: Path
) -> None:
    a = make_run(config=FIVE)

    def one_bad(row: Row) -> None:
        if row["trial"] == "0":
            row.update(valid="False", invalid_reason="the machine slept", bandwidth_bps="1")

    b = edited(a, tmp_path / "b", one_bad)
    found = compare(load_run(a), load_run(b))
    assert {cell.verdict for cell in found.cells} == {"no difference seen"}
    assert sorted({cell.n_b for cell in found.cells}) == [4, 5]
    assert "invalid: 0 of 45 trials of A, 1 of 45 of B" in invoke(a, b).output


def test_cells_that_one_run_has_alone_are_listed(make_run: MakeRun) -> None:
    a = make_run("a", config=FIGURE1.settings(quick=True, repeats=1, connections=(1, 16, 64)))
    b = make_run("b", config=FIGURE1.settings(quick=True, repeats=1, connections=(16, 256)))
    found = compare(load_run(a), load_run(b))
    assert {cell.level for cell in found.cells} == {(16,)}
    output = invoke(a, b).output
    assert "Measured in A only, not compared: threaded at 1, threaded at 64, even" in output
    assert "Measured in B only, not compared: threaded at 256, even" in output


def test_another_machine_kernel_interpreter_or_setting_is_warned_of_in_one_line(
    make_run: MakeRun, tmp_path: Path
) -> None:
    a = make_run(config=FIVE)
    b = edited(a, tmp_path / "b", lambda row: None)
    parameters = json.loads((a / "manifest.json").read_text())["parameters"]
    manifest_edited(
        b,
        machine={"cpu": "Z80", "kernel": "CP/M 2.2"},
        interpreters={"server": {"title": "CPython 3.14.0 (no GIL)"}},
        parameters=parameters | {"duration_s": 9.0, "repeats": 7},
    )
    warnings = [line for line in invoke(a, b).output.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    for part in ("Z80", "CP/M 2.2", "(GIL) / CPython 3.14.0 (no GIL)", "duration_s: 1.0 / 9.0"):
        assert part in warnings[0]
    assert "repeats" not in warnings[0]


def test_overload_is_compared_by_goodput_and_p99_at_each_offered_load(tmp_path: Path) -> None:
    loads = (0.5, 1.0, 2.0)
    a = write_overload_run(tmp_path / "a", loads=loads)

    def slower_when_overloaded(row: Row) -> None:
        if row["server"] == "seda" and row["load"] == "2":
            row["goodput_rps"] = f"{float(row['goodput_rps']) * 0.6:.9g}"
            row["latency_p99_us"] = f"{float(row['latency_p99_us']) * 3:.9g}"

    b = edited(a, tmp_path / "b", slower_when_overloaded)
    found = compare(load_run(a), load_run(b))
    assert found.levels == ("load",)
    assert found.metrics == ("goodput_rps", "latency_p99_us")
    assert {cell.level for cell in found.cells} == {(load,) for load in loads}
    slower = {(c.metric, c.server, c.level) for c in found.cells if c.verdict == "slower"}
    assert slower == {(metric, "seda", (2.0,)) for metric in found.metrics}
    assert {c.verdict for c in found.cells} == {"slower", "no difference seen"}
    failed = invoke(a, b, "--fail-if-slower", 20)
    assert failed.exit_code == 1
    assert "goodput_rps of seda at 2 (0.6" in failed.output.splitlines()[-1]


def test_a_cell_without_one_of_the_metrics_is_listed_with_it(tmp_path: Path) -> None:
    def no_answer(row: Row) -> None:
        if row["server"] == "eventloop" and row["load"] == "1":
            row["latency_p99_us"] = ""

    a = write_overload_run(tmp_path / "a", loads=(0.5, 1.0))
    b = edited(a, tmp_path / "b", no_answer)
    listed = "Measured in A only, not compared: latency_p99_us of eventloop at 1.\n"
    assert listed in invoke(a, b).output
    c = write_overload_run(tmp_path / "c", loads=(0.5,))
    output = invoke(a, c).output
    assert "A only, not compared: threaded at 1, eventloop at 1, seda at 1.\n" in output


def test_two_workloads_of_overload_are_not_compared(tmp_path: Path) -> None:
    a, b = (write_overload_run(tmp_path / name, loads=(0.5,), repeats=1) for name in "ab")
    parameters = json.loads((a / "manifest.json").read_text())["parameters"]
    manifest_edited(b, parameters=parameters | {"workload": "mixed"})
    with pytest.raises(UserError, match="compare two runs of one workload"):
        compare(load_run(a), load_run(b))


def test_a_level_that_meant_another_offered_load_is_warned_of(tmp_path: Path) -> None:
    def at_more(row: Row) -> None:
        if row["offered_rps"]:
            row["offered_rps"] = f"{float(row['offered_rps']) * 1.2:.9g}"

    a = write_overload_run(tmp_path / "a", loads=(0.5, 1.0))
    b = edited(a, tmp_path / "b", at_more)
    assert compare(load_run(a), load_run(b)).differences == (
        "offered_rps at the same level: B/A from 1.20 to 1.20",
    )


def test_a_zero_in_a_leaves_no_ratio_and_harms_nobody(make_run: MakeRun, tmp_path: Path) -> None:
    def nothing_at_one(row: Row) -> None:
        if row["connections"] == "1":
            row["bandwidth_bps"] = "0"

    b = make_run(config=FIVE)
    a = edited(b, tmp_path / "a", nothing_at_one)
    found = compare(load_run(a), load_run(b))
    assert {(c.ratio, c.verdict) for c in found.cells if c.level == (1,)} == {(None, "faster")}
    assert {c.verdict for c in found.cells if c.level != (1,)} == {"no difference seen"}
    assert {c.verdict for c in compare(load_run(a), load_run(a)).cells} == {"no difference seen"}
    assert invoke(b, a, "--fail-if-slower", 99).exit_code == 1


def test_fail_if_slower_fails_when_a_whole_interval_is_beyond_it(
    make_run: MakeRun, tmp_path: Path
) -> None:
    a = make_run(config=FIVE)
    b = edited(a, tmp_path / "b", scaled("seda", 0.7))
    failed = invoke(a, b, "--fail-if-slower", 10)
    assert failed.exit_code == 1
    last = failed.output.splitlines()[-1]
    assert last.startswith("slower by more than 10 %: seda at 1 (0.700, ")
    assert "eventloop" not in last
    for passes in ((a, b, "--fail-if-slower", 40), (b, a, "--fail-if-slower", 10), (a, b)):
        assert invoke(*passes).exit_code == 0
    assert invoke(a, b, "--fail-if-slower", 29.9).exit_code == 0, "30 % is not surely above 29.9"


def test_json_is_one_line_with_every_cell(make_run: MakeRun, tmp_path: Path) -> None:
    a = make_run(config=FIVE)
    b = edited(a, tmp_path / "b", scaled("seda", 0.7))
    done = invoke(a, b, "--json", "--fail-if-slower", 10)
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    said = json.loads(done.output)
    assert said["experiment"] == "figure1"
    assert said["metrics"] == {"bandwidth_bps": "more is better"}
    assert len(said["cells"]) == 9
    seda = next(c for c in said["cells"] if (c["server"], c["connections"]) == ("seda", 64))
    assert seda["verdict"] == "slower"
    assert seda["ratio_low"] <= seda["ratio"] <= seda["ratio_high"] < 0.9
    assert seda["p_adjusted"] <= FAMILY_WISE
    assert {c["server"] for c in said["slower"]} == {"seda"}


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no run folder": (("a", "nothing"), "not a run folder"),
    "a folder of other things": (("a", "folder"), "folder is not a run folder"),
    "a limit that is no number": (("a", "a", "--fail-if-slower", "nan"), "is no limit"),
    "a limit without end": (("a", "a", "--fail-if-slower", "inf"), "is no limit"),
    "another experiment": (("a", "overload"), "of figure1 and"),
    "no cell in common": (("a", "far"), "no server and level in common"),
    "a run without a trial": (("a", "empty"), "no server and level in common"),
    "a metric that is none": (("a", "a", "--metric", "bandwith_bps"), "did you mean 'bandwidth_b"),
    "a metric that is no number": (("a", "a", "--metric", "server"), "unknown metric 'server'"),
    "a limit for what has no better": (
        ("a", "a", "--metric", "client_cpu", "--fail-if-slower", "1"), "not known whether more",
    ),
    "a limit that can never be reached": (("a", "a", "--fail-if-slower", "100"), "less than 100"),
    "a limit that no cell can be held to": (("two", "two", "--fail-if-slower", "5"), "--repeats 5"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_compared_is_said_in_one_line(
    make_run: MakeRun, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    made = {
        "a": lambda: make_run("a", config=FIVE),
        "two": lambda: make_run(
            "two", config=FIGURE1.settings(quick=True, repeats=2, connections=(1,))
        ),
        "far": lambda: make_run(
            "far", config=FIGURE1.settings(quick=True, repeats=2, connections=(3,))
        ),
        "empty": lambda: make_run("empty", config=FIVE, stop_after=0),
        "overload": lambda: manifest_edited(make_run("overload"), experiment="overload"),
        "folder": lambda: (tmp_path / "folder").mkdir(),
    }
    for name in {*arguments} & {*made}:
        made[name]()
    paths = [str(tmp_path / word) if word in (*made, "nothing") else word for word in arguments]
    error = invoke(*paths).exception
    assert isinstance(error, UserError)
    assert says in str(error)
    assert "\n" not in str(error)


def test_an_experiment_that_nobody_knows_is_compared_by_its_columns(make_run: MakeRun) -> None:
    path = manifest_edited(make_run("later", config=FIVE), experiment="later")
    done = invoke(path, path, "--json")
    assert done.exit_code == 0, done.output
    assert "by what its folder says alone: unknown experiment 'later'" in done.stderr
    assert set(json.loads(done.stdout)["metrics"]) == {"bandwidth_bps", "ack_p99_us"}


def test_importing_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, sedabench.cli.compare; "
        "print([m for m in ('numpy', 'pandas', 'scipy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Values]] = {
    "normal": lambda source, shape: source.normal(0, 0.03, shape),
    "two values": lambda source, shape: (
        np.log(np.where(source.random(shape) < 0.5, 1, 0.7)) + source.normal(0, 0.01, shape)
    ),
    "heavy tails": lambda source, shape: 0.05 * source.standard_t(2, shape),
    "outliers": lambda source, shape: (
        source.normal(0, 0.03, shape) + np.log(0.6) * (source.random(shape) < 0.1)
    ),
}


@pytest.mark.parametrize("repeats", [4, 5])
@pytest.mark.parametrize("noise", NOISE)
def test_where_nothing_differs_a_whole_comparison_is_wrong_once_in_twenty_at_most(
    noise: str, repeats: int
) -> None:
    """200 comparisons of 42 cells, all drawn from one distribution."""
    source = np.random.default_rng(2001)
    wrong = 0
    for drawn in NOISE[noise](source, (200, 2, 42, repeats)):
        wrong += min(permutation_test(*drawn).p_adjusted) <= FAMILY_WISE
    # 5 % of 200 are 10, with a standard deviation of 3.1.
    assert wrong <= 19


def test_a_third_less_and_half_of_it_are_found_with_five_repeats() -> None:
    source = np.random.default_rng(3)
    for factor, noise in ((0.7, "normal"), (0.5, "heavy tails")):
        a, b = NOISE[noise](source, (2, 42, 5))
        b[:14] += np.log(factor)
        called = np.array(permutation_test(a, b).p_adjusted) <= FAMILY_WISE
        assert called[:14].sum() >= 11
        assert not called[14:].any()


def test_the_least_p_is_that_of_the_repeats_whatever_the_number_of_cells() -> None:
    for n_a, n_b, least in ((4, 4, 2 / 70), (5, 5, 2 / 252), (3, 5, 1 / 56), (5, 9, 1 / 2002)):
        a, b = np.tile(np.arange(n_a) * 1e-3, (100, 1)), np.tile(np.arange(n_b) * 1e-3, (100, 1))
        assert permutation_test(a, b + 1.0).p_adjusted == pytest.approx([least] * 100)


def test_how_many_repeats_can_tell() -> None:
    told = {(n, m) for n in range(2, 7) for m in range(n, 7) if enough(n, m)}
    assert told == {(3, 5), (3, 6), (4, 4), (4, 5), (4, 6), (5, 5), (5, 6), (6, 6)}


def test_a_missing_repeat_and_equal_values_make_no_warning_and_no_difference() -> None:
    a = np.full((3, 5), 0.1)
    a[0, 1] = a[1, 4] = np.nan
    b = np.full((3, 5), 0.1)
    b[2] = 0.2
    assert permutation_test(a, b).p_adjusted == pytest.approx([1, 1, 2 / 252])


def test_many_repeats_are_dealt_at_random_and_always_alike() -> None:
    a, b = np.random.default_rng(1).normal(0, 1, (2, 5, 10))
    b[0] += 10
    found = permutation_test(a, b)
    assert found == permutation_test(a, b)
    assert found.p_adjusted[0] < 0.01
    assert min(found.p_adjusted[1:]) > FAMILY_WISE


def test_fail_if_slower_fails_for_a_server_that_vanished(tmp_path: Path) -> None:
    """A crashed server has no figures that could be slower."""
    a = write_overload_run(tmp_path / "a", loads=(0.5, 1.0), repeats=5)

    def crashed(row: Row) -> None:
        if row["server"] == "seda" and row["phase"] == "sweep":
            row.update(valid="False", invalid_reason="it crashed")

    def crashed_mostly(row: Row) -> None:
        if row["block"] != "0" and row["load"] == "1":
            crashed(row)

    for name, edit, listed in (
        ("gone", crashed, "seda at 0.5, seda at 1"), ("few", crashed_mostly, "seda at 1"),
    ):  # fmt: skip
        b = edited(a, tmp_path / name, edit)
        failed = invoke(a, b, "--fail-if-slower", 5)
        assert failed.exit_code == 1
        assert failed.output.splitlines()[-1] == (
            f"failed: measured in A, and in B without enough valid trials to judge: {listed}"
        )
        lost = json.loads(invoke(a, b, "--fail-if-slower", 5, "--json").output)["lost"]
        assert {cell["server"] for cell in lost} == {"seda"}
        assert invoke(a, b).exit_code == 0
        assert invoke(b, a, "--fail-if-slower", 5).exit_code == 0, "what B has more is no loss"
