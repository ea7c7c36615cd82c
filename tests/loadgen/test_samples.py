"""Every request of a run, read back by other people's libraries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadgen.http_result import HttpResult, summarise
from loadgen.http_run import ANSWERED, NEVER_SENT, OUTCOMES, REJECTED
from loadgen.samples import MOST_US, ensure_writable, write_hlog, write_parquet
from loadgen.target import LoadError

from .test_http_result import MIX, Row, at, config, raw, records

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
        "scheduled_ns", "sent_ns", "done_ns", "outcome", "class", "connection",
    ]  # fmt: skip
    ms = 1_000_000
    assert table.to_pydict() == {
        "scheduled_ns": [0, 600 * ms, 700 * ms, 800 * ms, 1900 * ms],
        "sent_ns": [0, 600 * ms, 700 * ms, None, 1900 * ms],
        "done_ns": [5 * ms, 602 * ms, 703 * ms, None, 2100 * ms],
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
    write_hlog(path, made([*ROWS, at(500, 5_000_000)]))  # an answer after more than an hour
    found = intervals(path)
    assert [histogram.get_total_count() for histogram in found] == [2, 1, 1]
    assert [histogram.get_start_time_stamp() for histogram in found] == [0, 2000, 5_000_000]
    assert found[0].get_max_value() == pytest.approx(5000, rel=0.001)
    assert found[1].get_max_value() == pytest.approx(200_000, rel=0.001)
    assert found[2].get_max_value() == pytest.approx(MOST_US, rel=0.001)


def test_the_log_and_the_records_have_the_same_percentiles(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rows = [at(float(due), float(took)) for due, took in random.uniform(1, 1500, (2000, 2))]
    result = made(sorted(rows))
    write_hlog(tmp_path / "log", result)
    whole = HdrHistogram(1, MOST_US, 3)
    for histogram in intervals(tmp_path / "log"):
        whole.add(histogram)
    latency_us = (result.records.done_ns - result.records.scheduled_ns) / 1e3
    assert whole.get_total_count() == (result.records.outcome == ANSWERED).sum()
    for percent in (50, 90, 99):
        assert whole.get_value_at_percentile(percent) == pytest.approx(
            np.quantile(latency_us, percent / 100, method="inverted_cdf"), rel=0.002
        )


@pytest.mark.parametrize("path", ["missing/samples", "folder"])
def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(LoadError, match=r"cannot be written \(.*\); name another file"):
        ensure_writable(tmp_path / path)


def test_a_file_that_is_there_already_is_left_until_there_is_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "samples"
    path.write_text("earlier")
    ensure_writable(path)
    assert path.read_text() == "earlier"


def test_a_full_disk_is_one_line_and_a_device_stays_what_it_is() -> None:
    ensure_writable(FULL)
    with pytest.raises(LoadError, match=r"samples cannot be written to /dev/full: No space left"):
        write_parquet(FULL, made(ROWS), MIX)
    with pytest.raises(LoadError, match=r"log cannot be written to /dev/full: No space left"):
        write_hlog(FULL, made(ROWS))
    assert FULL.is_char_device()


def test_a_disk_that_is_full_halfway_keeps_the_earlier_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "samples"
    path.write_text("earlier")

    def fill_up(*_: object, **__: object) -> None:
        raise OSError(28, "Error writing bytes to file")

    monkeypatch.setattr(pq, "write_table", fill_up)
    with pytest.raises(LoadError, match=r"No space left on device"):
        write_parquet(path, made(ROWS), MIX)
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(path, "earlier")]
