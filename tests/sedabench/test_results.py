"""The run folder: what is written is read back, and what is damaged is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sedabench
from sedabench.errors import DamagedRunError, UserError
from sedabench.experiments import figure1
from sedabench.results import RunWriter, read_folder
from sedabench.trial import COLUMNS
from tests.sedabench.conftest import MakeRun


def test_columns_are_typed(make_run: MakeRun) -> None:
    run = sedabench.load_run(make_run())
    kinds = {name: str(dtype) for name, dtype in run.trials.dtypes.items()}
    assert (kinds["connections"], kinds["bandwidth_bps"], kinds["valid"]) == (
        "Int64", "float64", "bool",
    )  # fmt: skip
    assert len(run.trials) == len(run.manifest["plan"]) == 30
    assert run.trials["ack_p90_us"].isna().all()


def test_every_column_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text()
    assert [c.name for c in COLUMNS if f"| `{c.name}` |" not in page] == []


def test_a_run_without_a_finished_trial_can_be_read(make_run: MakeRun) -> None:
    assert len(sedabench.load_run(make_run(stop_after=0)).trials) == 0


def test_only_one_process_writes_a_folder(make_run: MakeRun) -> None:
    path = make_run(stop_after=2)
    with RunWriter.reopen(path), pytest.raises(UserError, match="another process"):
        RunWriter.reopen(path)


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / name
        file.write_text(change(file.read_text()))

    return damage


def edit_manifest(**fields: object) -> Callable[[Path], None]:
    return edit("manifest.json", lambda text: json.dumps({**json.loads(text), **fields}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no trials": lambda path: (path / "trials.csv").unlink(),
    "manifest cut off": edit("manifest.json", lambda text: text[: len(text) // 2]),
    "manifest of something else": edit("manifest.json", lambda text: "[1, 2]"),
    "manifest without a plan": edit_manifest(plan=None),
    "manifest without columns": edit_manifest(columns={"trial": 3}),
    "manifest from the future": edit_manifest(schema=99),
    "trials empty": edit("trials.csv", lambda text: ""),
    "trials cut off": edit("trials.csv", lambda text: text[:-20]),
    "trials cut off at a field": edit("trials.csv", lambda text: text.rpartition(",")[0] + "\n"),
    "trials binary": lambda path: (path / "trials.csv").write_bytes(b"\xff\xfe\x00" * 9),
    "another column": edit("trials.csv", lambda text: text.replace("jain", "gini")),
    "a number that is none": edit("trials.csv", lambda text: text.replace("0.998", "many")),
    "a row twice": edit("trials.csv", lambda text: text + text.splitlines()[-1] + "\n"),
    "a trial that nobody planned": edit_manifest(plan=[]),
    "another order than planned": edit_manifest(
        plan=[{"trial": n, "block": 9, "server": "x", "connections": 1} for n in range(30)]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_refused_in_one_line(
    make_run: MakeRun, damage: Callable[[Path], object]
) -> None:
    path = make_run()
    damage(path)
    for read in (sedabench.load_run, figure1.resume):
        with pytest.raises(DamagedRunError) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_settings_that_do_not_make_the_plan_are_refused(make_run: MakeRun) -> None:
    path = make_run(stop_after=3)
    manifest, _ = read_folder(path)
    edit_manifest(parameters={**manifest["parameters"], "repeats": 7})(path)
    with pytest.raises(DamagedRunError, match="plan"):
        figure1.resume(path)
