"""Every request of a run, for other tools: a Parquet table, an HdrHistogram log.

Parquet, because ten million rows are 200 MB and read in a second, by column,
from any language.  The HdrHistogram log is what wrk2, Gatling's and JMeter's
plugins, and the plotter of hdrhistogram.org exchange.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from loadgen.http_result import HttpResult
from loadgen.http_run import ANSWERED, OUTCOMES
from loadgen.mix import Mix
from loadgen.target import LoadError

MOST_US = 3_600_000_000
"""The largest latency that the histogram holds: an hour."""


def ensure_writable(path: Path | None) -> None:
    """Raises LoadError before anything is measured if `path` cannot be written."""
    if path is None:
        return
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise LoadError(f"{path} cannot be written ({error.strerror}); name another file") from None


def write_parquet(path: Path, result: HttpResult, mix: Mix) -> None:
    """One row a request, warm-up included, in the order of the schedule.

    Columns: scheduled_ns, sent_ns, done_ns (int64, from the start of the
    schedule; null for what never happened), outcome and class (dictionary of
    strings), connection (int32, null if never sent).  Raises LoadError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    records, start_ns = result.records, result.start_ns

    def times(values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
        return pa.array(values - start_ns, mask=values == 0)

    names = sorted({template.name for template in mix.templates})
    number_of = {name: number for number, name in enumerate(names)}
    class_of = np.array([number_of[t.name] for t in mix.templates], np.int32)
    table = pa.table(
        {
            "scheduled_ns": pa.array(records.scheduled_ns - start_ns),
            "sent_ns": times(records.sent_ns),
            "done_ns": times(records.done_ns),
            "outcome": pa.DictionaryArray.from_arrays(pa.array(records.outcome), list(OUTCOMES)),
            "class": pa.DictionaryArray.from_arrays(pa.array(class_of[records.template]), names),
            "connection": pa.array(records.connection, mask=records.connection < 0),
        }
    )
    ordinary = path.is_file() or not path.exists()  # a device or a pipe stays what it is
    written = path.with_name(f".{path.name}.tmp") if ordinary else path
    try:
        # Given a name, pyarrow would remove what it could not write, be it a device.
        with written.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
        if ordinary:
            written.replace(path)
    except OSError as error:
        if ordinary:
            written.unlink(missing_ok=True)
        raise LoadError(f"the samples cannot be written to {path}: {_why(error)}") from None


def write_hlog(path: Path, result: HttpResult) -> None:
    """Latencies (us, from the scheduled time) of right answers, an interval a second."""
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogWriter

    records = result.records
    right = records.part(records.outcome == ANSWERED)
    latency_us = np.clip((right.done_ns - right.scheduled_ns) // 1000, 1, MOST_US)
    seconds = (right.done_ns - result.start_ns) // 1_000_000_000
    try:
        with path.open("w") as file:
            writer = HistogramLogWriter(file)
            writer.output_comment("[sedabench: latency in us from the scheduled time]")
            writer.output_log_format_version()
            file.write("#[StartTime: 0.000 (seconds since the schedule began)]\n")
            writer.output_legend()
            for second in np.unique(seconds):
                histogram = HdrHistogram(1, MOST_US, 3)
                values, counts = np.unique(latency_us[seconds == second], return_counts=True)
                for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                    histogram.record_value(value, count)
                begin_ms = int(second) * 1000
                histogram.set_start_time_stamp(begin_ms)
                histogram.set_end_time_stamp(begin_ms + 1000)
                writer.output_interval_histogram(
                    histogram, begin_ms / 1e3, begin_ms / 1e3 + 1, 1000.0
                )
    except OSError as error:
        raise LoadError(f"the histogram log cannot be written to {path}: {_why(error)}") from None


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
