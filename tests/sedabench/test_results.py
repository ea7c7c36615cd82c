"""The run folder: what is written is read back, and what is damaged is refused in one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import sedabench
from sedabench.errors import DamagedRunError, UserError
from sedabench.experiments import carry_out
from sedabench.experiments.plan import Outcome
from sedabench.results import folder as results
from sedabench.results.folder import Run, RunWriter, read_folder
from sedabench.trials.burst_columns import COLUMNS
from sedabench.trials.http_columns import COLUMNS as HTTP_COLUMNS
from tests.sedabench.conftest import FIGURE1, Command, MakeRun


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
    documented = (*COLUMNS, *HTTP_COLUMNS)
    assert [
        c for c in documented if f"| `{c.name}` | {c.kind} | {c.unit} | {c.meaning} |" not in page
    ] == []


def test_a_run_without_a_finished_trial_can_be_read(make_run: MakeRun) -> None:
    assert len(sedabench.load_run(make_run(stop_after=0)).trials) == 0


def test_what_was_said_in_a_trial_can_be_read(make_run: MakeRun) -> None:
    run = sedabench.load_run(make_run())
    path = run.path / "trials" / "001.json"
    path.write_text('{"result": {"answer": 42}}')
    assert run.raw(1) == {"result": {"answer": 42}}
    path.unlink()
    assert run.raw(1) is None
    path.write_text("[]")
    with pytest.raises(DamagedRunError, match=r"001\.json holds no JSON object"):
        run.raw(1)


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


def set_field(column: str, value: str) -> Callable[[str], str]:
    """In the first row."""

    def change(text: str) -> str:
        heading, first, *rest = text.splitlines(keepends=True)
        fields = first.split(",")
        fields[heading.strip().split(",").index(column)] = value
        return heading + ",".join(fields) + "".join(rest)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no trials": lambda path: (path / "trials.csv").unlink(),
    "manifest cut off": edit("manifest.json", lambda text: text[: len(text) // 2]),
    "manifest of something else": edit("manifest.json", lambda text: "[1, 2]"),
    "manifest without a plan": edit_manifest(plan=None),
    "manifest without columns": edit_manifest(columns={"trial": 3}),
    "manifest with another type of a column": edit_manifest(columns={"trial": {"type": []}}),
    "manifest whose machine is text": edit_manifest(machine="fast"),
    "manifest whose versions are a list": edit_manifest(versions=[]),
    "manifest from the future": edit_manifest(schema=99),
    "trials empty": edit("trials.csv", lambda text: ""),
    "trials cut off": edit("trials.csv", lambda text: text[:-20]),
    "trials cut off at a field": edit("trials.csv", lambda text: text.rpartition(",")[0] + "\n"),
    "trials binary": lambda path: (path / "trials.csv").write_bytes(b"\xff\xfe\x00" * 9),
    "another column": edit("trials.csv", lambda text: text.replace("jain", "gini")),
    "a number that is none": edit("trials.csv", lambda text: text.replace("0.998", "many")),
    "a number over 64 bits": edit("trials.csv", set_field("bytes", str(2**63))),
    "an endless number": edit("trials.csv", set_field("bandwidth_bps", "inf")),
    "a row twice": edit("trials.csv", lambda text: text + text.splitlines()[-1] + "\n"),
    "a trial that nobody planned": edit_manifest(plan=[]),
    "another order than planned": edit_manifest(
        plan=[{"trial": n, "block": 9, "server": "x", "connections": 1} for n in range(30)]
    ),
}


def resume(path: Path) -> tuple[Run, Outcome]:
    return carry_out.resume(FIGURE1, path)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_refused_in_one_line(
    make_run: MakeRun, damage: Callable[[Path], object]
) -> None:
    path = make_run()
    damage(path)
    for read in (sedabench.load_run, resume):
        with pytest.raises(DamagedRunError) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [(), ("notes.txt",)], ids=["empty", "of other things"])
def test_a_folder_without_any_file_of_a_run_is_not_called_damaged(
    tmp_path: Path, content: tuple[str, ...]
) -> None:
    for name in content:
        (tmp_path / name).write_text("mine")
    for read in (sedabench.load_run, resume):
        with pytest.raises(UserError, match="is not a run folder: it has neither") as raised:
            read(tmp_path)
        assert "damaged" not in str(raised.value)


def test_what_continues_a_run_can_be_pasted_whatever_its_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError) as raised:
        results.check_new_folder(folder)
    assert shlex.split(str(raised.value))[-2:] == ["--resume", str(folder)]


def test_settings_that_do_not_make_the_plan_are_refused(make_run: MakeRun) -> None:
    path = make_run(stop_after=3)
    manifest, _ = read_folder(path)
    edit_manifest(parameters={**manifest["parameters"], "repeats": 7})(path)
    with pytest.raises(DamagedRunError, match="plan"):
        resume(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packets", "1000"), ("duration_s", "x"), ("duration_s", float("nan")), ("warmup_s", None),
        ("repeats", 2.0), ("connections", ["1"]), ("seed", None), ("python", 3), ("servers", [3]),
    ],
)  # fmt: skip
def test_settings_of_another_type_are_refused_in_one_line(
    make_run: MakeRun, sedabench: Command, name: str, value: object
) -> None:
    path = make_run(stop_after=3)
    manifest, _ = read_folder(path)
    edit_manifest(parameters={**manifest["parameters"], name: value})(path)
    with pytest.raises(DamagedRunError):
        resume(path)
    if name in ("duration_s", "servers") and value == value:  # what a figure says
        done = sedabench("plot", str(path))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_resuming_a_complete_run_changes_nothing(make_run: MakeRun) -> None:
    path = make_run()
    before = (path / "manifest.json").read_bytes()
    _, outcome = resume(path)
    assert outcome.finished == outcome.planned == 30
    assert (path / "manifest.json").read_bytes() == before


def test_ctrl_c_while_a_row_is_written_loses_nothing(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(stop_after=2)
    row = dict.fromkeys(column.name for column in COLUMNS) | {"valid": True}
    write, interrupted = results.write_atomically, []

    def once_interrupted(file: Path, data: bytes) -> None:
        if file.name == "trials.csv" and not interrupted:
            interrupted.append(file)
            raise KeyboardInterrupt
        write(file, data)

    monkeypatch.setattr(results, "write_atomically", once_interrupted)
    with RunWriter.reopen(path) as writer, pytest.raises(KeyboardInterrupt):
        writer.add(row | writer.manifest["plan"][2], {})
    assert len(writer.finished) == len(read_folder(path)[1]) == 3
