"""Every request of a run, kept and read back: a Parquet table; for other tools an HdrHistogram log.

Parquet, because ten million rows are 100 MB and more and read in a second or two, by column,
from any language.  What the rows do not say (`Facts`: the window, the SLO, the target...)
is in the metadata of the file, as JSON under the key `sedabench`, so that a file alone is
enough to have the whole summary again.  The HdrHistogram log is what wrk2, Gatling's and
JMeter's plugins, and the plotter of hdrhistogram.org exchange.

A file is written beside its place and renamed: one that was there survives until the new
one is whole, and nothing is left of one that could not be written.  Rows are written and
read a million at a time, so that the columns are in memory once.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import importlib.metadata
import io
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from loadgen.demand.mixes import Mix
from loadgen.errors import LoadError
from loadgen.http.records import ANSWERED, OUTCOMES, Facts, Records
from loadgen.http.result import HttpResult

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1_000_000
"""Of a row group, written and read at once."""

FORMAT = 1
"""Of the metadata; goes up when an older version could not read it."""

KEY = b"sedabench"

COLUMNS = ("scheduled_ns", "sent_ns", "done_ns", "lag_ns", "outcome", "class", "connection")

MOST_US = 3_600_000_000
"""The largest latency that the histogram holds: an hour."""

HISTOGRAM_BITS = 11
"""A histogram of three digits keeps so many leading bits of a value."""


class Samples(NamedTuple):
    """What a file of samples holds; together the arguments of `result.summarise_records`."""

    facts: Facts
    records: Records
    """`template` is the number of the class in `classes`."""
    classes: list[str]


def ensure_writable(path: Path | None) -> None:
    """Raises LoadError before anything is measured if `path` cannot be written; leaves no file."""
    if path is not None:
        with _replacing(path, f"{path} cannot be written", keep=False):
            pass


def write_parquet(path: Path, result: HttpResult, mix: Mix) -> None:
    """One row a request, warm-up included, in the order of the schedule.

    Columns: scheduled_ns, sent_ns, done_ns (int64, from the start of the
    schedule; null for what never happened), lag_ns (int64, how late it was sent though
    a connection was free), outcome and class (dictionary of strings), connection (int32,
    null if never sent).  Raises LoadError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted({template.name for template in mix.templates})
    number_of = {name: number for number, name in enumerate(names)}
    class_of = np.array([number_of[t.name] for t in mix.templates], np.int32)
    about = {
        "format": FORMAT, "version": importlib.metadata.version("sedabench"),
        "classes": names, "facts": asdict(result.facts),
    }  # fmt: skip
    words = pa.dictionary(pa.int32(), pa.string())
    times = [pa.field(name, pa.int64()) for name in COLUMNS[:4]]
    schema = pa.schema(
        [*times, ("outcome", words), ("class", words), ("connection", pa.int32())],
        metadata={KEY: json.dumps(about)},
    )

    def arrays(part: Records) -> Iterator[pa.Array]:
        for at_ns in (part.scheduled_ns, part.sent_ns, part.done_ns):
            yield pa.array(at_ns - result.facts.start_ns, mask=at_ns == 0)
        yield pa.array(part.lag_ns)
        outcomes = pa.array(part.outcome.astype(np.int32))
        yield pa.DictionaryArray.from_arrays(outcomes, list(OUTCOMES))
        yield pa.DictionaryArray.from_arrays(pa.array(class_of[part.template]), names)
        yield pa.array(part.connection, mask=part.connection < 0)

    with (
        _replacing(path, f"the samples cannot be written to {path}") as file,
        pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=["outcome", "class"],
            column_encoding=dict.fromkeys(COLUMNS[:4], "DELTA_BINARY_PACKED"),
        ) as writer,
    ):  # fmt: skip
        for first in range(0, len(result.records), ROWS):
            part = result.records.part(slice(first, first + ROWS))
            writer.write_batch(pa.RecordBatch.from_arrays(list(arrays(part)), schema=schema))


def read_parquet(path: Path) -> Samples:
    """What `write_parquet` has written.  Raises LoadError if it is not such a file, or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            raise LoadError(
                f"{path} is not a file" if path.exists() else f"there is no file {path}"
            )
        with pq.ParquetFile(path) as file:
            facts, classes = _about(path, file.schema_arrow)
            return Samples(facts, _records(file, facts, classes), classes)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {_why(error)}") from None
    except (pa.ArrowException, ValueError, TypeError) as error:
        what = " ".join(str(error).split())[:100]
        raise LoadError(f"{path} is no Parquet file, or damaged: {what}") from None


def _about(path: Path, schema: pa.Schema) -> tuple[Facts, list[str]]:
    said = (schema.metadata or {}).get(KEY)
    if said is None or not set(COLUMNS) <= set(schema.names):
        raise LoadError(
            f"{path} is not a file of samples: write one with "
            "`sedabench load http ... --samples FILE.parquet`"
        )
    try:
        about = json.loads(said)
        if about["format"] != FORMAT:
            raise LoadError(
                f"{path} was written by sedabench {about['version']}, in format "
                f"{about['format']}: this version reads format {FORMAT}"
            )
        known = {field.name for field in fields(Facts)}
        facts = Facts(**{name: value for name, value in about["facts"].items() if name in known})
        return facts, list(about["classes"])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise LoadError(f"{path} is damaged: its metadata cannot be read") from None


def _records(file: Any, facts: Facts, classes: list[str]) -> Records:
    count = file.metadata.num_rows
    records = Records(
        *(np.zeros(count, np.int64) for _ in range(4)),
        *(np.zeros(count, kind) for kind in (np.uint8, np.uint16, np.int32)),
    )

    def numbers(column: pa.Array, missing: int) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = column.fill_null(missing).to_numpy()
        return found

    def places(column: pa.Array, words: list[str] | tuple[str, ...]) -> npt.NDArray[Any]:
        """Of each word among `words`: a file need not number them as we do."""
        place = np.array([words.index(word) for word in column.dictionary.to_pylist()], np.uint16)
        found: npt.NDArray[Any] = place[column.indices.to_numpy()]
        return found

    first = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=list(COLUMNS)):
        here = slice(first, first + len(batch))
        for name, into in (
            ("scheduled_ns", records.scheduled_ns),
            ("sent_ns", records.sent_ns),
            ("done_ns", records.done_ns),
        ):
            np.add(numbers(batch[name], -facts.start_ns), facts.start_ns, out=into[here])
        records.lag_ns[here] = numbers(batch["lag_ns"], 0)
        records.outcome[here] = places(batch["outcome"], OUTCOMES)
        records.template[here] = places(batch["class"], classes)
        records.connection[here] = numbers(batch["connection"], -1)
        first += len(batch)
    return records


def write_hlog(path: Path, result: HttpResult) -> None:
    """Latencies (us, from the scheduled time), an interval for each second with answers.

    Of what `latency_us` of the result is: the requests scheduled in the window and
    answered, in the second of their answer.  Raises LoadError.
    """
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogWriter

    with _replacing(path, f"the histogram log cannot be written to {path}", text=True) as file:
        writer = HistogramLogWriter(file)
        writer.output_comment(
            "[sedabench: latency in us from the scheduled time, of the requests scheduled in the "
            "window; no warm-up]"
        )
        writer.output_log_format_version()
        file.write("#[StartTime: 0.000 (seconds since the schedule began)]\n")
        writer.output_legend()
        for second, values, counts in _by_second(result):
            histogram = HdrHistogram(1, MOST_US, 3)
            for value, count in zip(values, counts, strict=True):
                histogram.record_value(value, count)
            histogram.set_start_time_stamp(second * 1000)
            histogram.set_end_time_stamp(second * 1000 + 1000)
            writer.output_interval_histogram(histogram, second, second + 1, 1000.0)


def _by_second(result: HttpResult) -> Iterator[tuple[int, list[int], list[int]]]:
    """Each second with answers, the latencies in it (us), and how often each occurred.

    Values that are one to the histogram are one here, so that there are few in a second.
    """
    records, facts = result.records, result.facts
    due_ns = records.scheduled_ns - facts.start_ns
    which = (due_ns >= facts.window_begin_ns) & (due_ns < facts.window_end_ns)
    which &= records.outcome == ANSWERED
    done_ns = records.done_ns[which]
    latency_us = np.clip((done_ns - records.scheduled_ns[which]) // 1000, 1, MOST_US)
    _, bits = np.frexp(latency_us.astype(np.float64))
    spare = np.maximum(bits - HISTOGRAM_BITS, 0)
    latency_us = latency_us >> spare << spare
    seconds = ((done_ns - facts.start_ns) // 1_000_000_000).astype(np.int32)
    order = np.argsort(seconds, kind="stable")  # which is quick: they nearly are in order
    seconds, latency_us = seconds[order], latency_us[order]
    edges = [*np.flatnonzero(np.diff(seconds, prepend=-1)).tolist(), len(seconds)]
    for first, last in itertools.pairwise(edges):
        values, counts = np.unique(latency_us[first:last], return_counts=True)
        yield int(seconds[first]), values.tolist(), counts.tolist()


@contextmanager
def _replacing(
    path: Path, trouble: str, *, text: bool = False, keep: bool = True
) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` when it is whole, if it is to be kept.

    A device or a pipe is written to as it is.  Raises LoadError: `trouble`, and the reason.
    """
    beside = None
    try:
        path = path.resolve() if path.is_file() else path  # a link stays one
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        if path.is_file() or not path.exists():
            beside = path.with_name(f".{path.name}.{os.getpid()}.sedabench")
            _sweep(path)
        if beside is None and not keep:
            yield io.BytesIO()  # opening a pipe and closing it would tell its reader to end
            return
        with (beside or path).open("w" if text else "wb") as file:
            if beside is not None:
                with suppress(OSError):  # a file system without locks: there nothing is swept
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
        if keep and beside is not None:
            beside.replace(path)
    except OSError as error:
        raise LoadError(f"{trouble}: {_why(error)}") from None
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes were writing in place of `path`: nobody holds its lock."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.sedabench"):
        try:
            with left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        except OSError:
            continue  # in use, or gone


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
