"""Every request of a run, read back by other people's libraries."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader, HistogramLogWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import LoadError
from loadgen.http.config import HttpConfig
from loadgen.http.records import NEVER_SENT, OUTCOMES, REJECTED, Records
from loadgen.http.result import HttpResult, summarise, summarise_records
from loadgen.http.samples import (
    KEY,
    MOST_US,
    ensure_writable,
    read_parquet,
    write_hlog,
    write_parquet,
)

from .test_http_result import MIX, Row, at, config, raw, records, runs

ROWS: list[Row] = [
    at(0, 5), at(600, 2, REJECTED), at(700, 3), (800, None, None, NEVER_SENT), at(1900, 200),
]  # fmt: skip

FULL = Path("/dev/full")


def made(rows: list[Row]) -> HttpResult:
    return summarise(config(), [raw(records(rows, template=[n % 3 for n in range(len(rows))]))])


def test_samples_are_a_row_a_request_with_what_never_happened_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    ensure_writable(path)
    write_parquet(path, made(ROWS), MIX)
    table = pq.read_table(path)
    assert table.schema.names == [
        "scheduled_ns", "sent_ns", "done_ns", "lag_ns", "outcome", "class", "connection",
    ]  # fmt: skip
    ms = 1_000_000
    assert table.to_pydict() == {
        "scheduled_ns": [0, 600 * ms, 700 * ms, 800 * ms, 1900 * ms],
        "sent_ns": [0, 600 * ms, 700 * ms, None, 1900 * ms],
        "done_ns": [5 * ms, 602 * ms, 703 * ms, None, 2100 * ms],
        "lag_ns": [0] * 5,
        "outcome": [OUTCOMES[row[3]] for row in ROWS],
        "class": ["b", "a", "b", "b", "a"],
        "connection": [0, 0, 0, None, 0],
    }
    assert list(tmp_path.iterdir()) == [path]


def test_no_request_at_all_can_be_kept_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "none", made([]), MIX)
    write_hlog(tmp_path / "none.hlog", made([]))
    assert pq.read_table(tmp_path / "none").num_rows == 0


def intervals(path: Path) -> list[HdrHistogram]:
    reader = HistogramLogReader(str(path), HdrHistogram(1, MOST_US, 3))
    found = []
    while (histogram := reader.get_next_interval_histogram()) is not None:
        found.append(histogram)
    reader.close()
    return found


def test_the_log_has_an_interval_for_each_second_with_answers(tmp_path: Path) -> None:
    path = tmp_path / "latency.hlog"
    of_the_warmup, too_late = at(0, 5), at(1500, 7)
    slow = at(500, 5_000_000)  # more than an hour
    rows = [of_the_warmup, slow, at(600, 2, REJECTED), at(700, 3), at(1400, 800), too_late]
    write_hlog(path, made([*rows, at(1450, 750.0)]))
    found = intervals(path)
    assert [histogram.get_total_count() for histogram in found] == [1, 2, 1]
    assert [histogram.get_start_time_stamp() for histogram in found] == [0, 2000, 5_000_000]
    assert found[0].get_max_value() == pytest.approx(3000, rel=0.001)
    assert found[1].get_max_value() == pytest.approx(800_000, rel=0.001)
    assert found[2].get_max_value() == pytest.approx(MOST_US, rel=0.001)


def test_the_log_and_the_result_have_the_same_percentiles(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rows = [at(float(due), float(took)) for due, took in random.uniform(1, 1500, (2000, 2))]
    result = made(sorted(rows))
    write_hlog(tmp_path / "log", result)
    whole = HdrHistogram(1, MOST_US, 3)
    for histogram in intervals(tmp_path / "log"):
        whole.add(histogram)
    assert 0 < whole.get_total_count() == result.summary["answered"] < 2000
    for percent in (50, 90, 99):
        assert whole.get_value_at_percentile(percent) == pytest.approx(
            result.summary["latency_us"][f"p{percent}"], rel=0.002
        )


@settings(max_examples=40, deadline=None)
@given(runs(), st.integers(1, 7))
def test_what_is_read_back_has_the_same_summary(
    run: tuple[HttpConfig, list[Row], list[int]], rows_at_once: int
) -> None:
    asked, rows, templates = run
    kinds = {"error_kinds": {"reset": 2}, "cpu_ns": 10**8, "first_wrong": "GET /1: a wrong one"}
    found = records(rows, template=templates, lag_us=[float(number) for number in range(len(rows))])
    written = summarise(asked, [raw(found, **kinds)])
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr("loadgen.http.samples.ROWS", rows_at_once)
        write_parquet(Path(name) / "samples", written, MIX)
        samples = read_parquet(Path(name) / "samples")
    assert summarise_records(*samples).summary == written.summary
    assert samples.classes == ["a", "b"]
    for column in set(Records.__dataclass_fields__) - {"template"}:
        assert getattr(samples.records, column).tolist() == getattr(found, column).tolist(), column


def test_a_file_that_is_none_of_ours_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no Parquet, but long enough to be one")
    (tmp_path / "empty").write_text("")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other")
    write_parquet(tmp_path / "whole", made(ROWS), MIX)
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-200])
    newer = pq.read_table(tmp_path / "whole")
    newer = newer.replace_schema_metadata({KEY: json.dumps({"format": 9, "version": "7.0"})})
    pq.write_table(newer, tmp_path / "newer")
    pq.write_table(newer.replace_schema_metadata({KEY: "{}"}), tmp_path / "damaged")
    for name, words in (
        ("missing", "there is no file"), (".", "is not a file"), ("text", "is no Parquet file"),
        ("empty", "is no Parquet file"), ("cut", "is no Parquet file, or damaged"),
        ("other", "is not a file of samples: write one with"),
        ("newer", "written by sedabench 7.0, in format 9: this version reads"),
        ("damaged", "its metadata cannot be read"),
    ):  # fmt: skip
        with pytest.raises(LoadError, match=words) as error:
            read_parquet(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["missing/samples", "folder"])
def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LoadError, match=r"cannot be written: (No such file|Is a dir)"):
        ensure_writable(tmp_path / path)


def test_a_file_that_is_there_already_is_left_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_text("earlier")
    ensure_writable(path)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "earlier")]


def test_a_file_that_is_not_there_is_not_made_by_asking(tmp_path: Path) -> None:
    ensure_writable(tmp_path / "samples")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("earlier")
    (tmp_path / "link").symlink_to("there")
    write_parquet(tmp_path / "link", made(ROWS), MIX)
    assert (tmp_path / "link").is_symlink()
    assert pq.read_table(tmp_path / "there").num_rows == len(ROWS)


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    left, living, other = (
        tmp_path / name for name in (".a.1.sedabench", ".a.2.sedabench", ".b.1.sedabench")
    )
    for path in (left, living, other):
        path.write_text("half")
    with living.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_parquet(tmp_path / "a", made(ROWS), MIX)
    assert set(tmp_path.iterdir()) == {tmp_path / "a", living, other}


def test_a_full_disk_is_one_line_and_a_device_stays_what_it_is() -> None:
    ensure_writable(FULL)
    with pytest.raises(LoadError, match=r"samples cannot be written to /dev/full: No space left"):
        write_parquet(FULL, made(ROWS), MIX)
    with pytest.raises(LoadError, match=r"log cannot be written to /dev/full: No space left"):
        write_hlog(FULL, made(ROWS))
    assert FULL.is_char_device()


@pytest.mark.parametrize(
    ("write", "step"),
    [
        (lambda path: write_parquet(path, made(ROWS), MIX), (pq.ParquetWriter, "write_batch")),
        (lambda path: write_hlog(path, made(ROWS)), (HistogramLogWriter, "output_legend")),
    ],
    ids=["samples", "log"],
)
def test_a_disk_that_is_full_halfway_keeps_the_earlier_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    step: tuple[type, str],
) -> None:
    path = tmp_path / "kept"
    path.write_text("earlier")

    def fill_up(*_: object, **__: object) -> None:
        raise OSError(28, "Error writing bytes to file")

    monkeypatch.setattr(*step, fill_up)
    with pytest.raises(LoadError, match=r"No space left on device"):
        write(path)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "earlier")]
