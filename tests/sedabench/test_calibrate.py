"""Calibration: the server with known delays, what is made of its log, and who is warned."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sedabench.calibration import measure
from sedabench.calibration import record as calibration
from sedabench.calibration.known_delays import LONGEST_US, TABLE_SIZE, delay_table, read_log
from sedabench.calibration.measure import PER_MILLE, Effort, percentiles_us, stalled_us
from sedabench.cli.calibrate import calibrate as command
from sedabench.errors import StoppedBySignal, UserError
from sedabench.machine import facts as machine
from sedabench.machine.process import Child
from sedabench.trials.trial import after

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
TINY = Effort("tiny", 0.01, 0.3, 0.05, 0.5, (4,), (100,), (200,), demonstrate=False)


@contextmanager
def known_delays(log: Path, *options: str) -> Iterator[int]:
    """The server for the length of the block; its port.  Afterwards its log is there."""
    line = [
        sys.executable,
        "-P",
        "-m",
        "sedabench.calibration.known_delays",
        "--log",
        str(log),
        "--no-spin",
    ]
    with Child("known delays", [*line, *options]) as server:
        yield server.next_message(after(60), "start")["port"]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def ask(sock: socket.socket) -> int:
    """One request and its reply; how long they took, in ns."""
    began = time.monotonic_ns()
    sock.sendall(GET)
    assert sock.recv(4096).endswith(b"ok\n")
    return time.monotonic_ns() - began


# -- the server ---------------------------------------------------------------------------


def test_the_table_is_always_the_same_and_has_a_tail_up_to_its_limit() -> None:
    table = delay_table()
    assert len(table) == TABLE_SIZE
    assert (table == delay_table()).all()
    assert table.min() > 0
    assert table.max() == LONGEST_US * 1000
    assert np.quantile(table, 0.999) > 20 * np.median(table)


def test_no_reply_leaves_before_its_delay_and_the_log_tells_when_it_did(tmp_path: Path) -> None:
    with known_delays(tmp_path / "log") as port, connect(port) as sock:
        waits = [ask(sock) for _ in range(30)]
    log = read_log(tmp_path / "log")
    assert log.shape == (30, 3)
    assert log[:, 2].tolist() == delay_table()[:30].tolist()
    true = log[:, 1] - log[:, 0]
    assert (true >= log[:, 2]).all()
    assert (np.array(waits) >= true).all(), "who waits for a reply waits longer than it took"


def test_replies_leave_in_the_order_of_their_due_times(tmp_path: Path) -> None:
    with known_delays(tmp_path / "log") as port:
        sockets = [connect(port) for _ in range(20)]
        for sock in sockets:
            sock.sendall(GET)
        for sock in sockets:
            assert sock.recv(4096).endswith(b"ok\n")
            sock.close()
    log = read_log(tmp_path / "log")
    due = log[:, 0] + log[:, 2]
    late = log[np.argsort(due, kind="stable"), 1]
    assert (np.diff(late) > 0).all()


def test_a_request_in_pieces_is_one_and_a_probe_is_none(tmp_path: Path) -> None:
    with known_delays(tmp_path / "log", "--delay-us", "0") as port:
        with connect(port) as probe:
            probe.sendall(GET.replace(b"Host", b"Connection: close\r\nHost"))
            assert b"Connection: close" in probe.recv(4096)
        with connect(port) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in GET:
                sock.sendall(bytes([byte]))
            assert sock.recv(4096).endswith(b"ok\n")
    assert len(read_log(tmp_path / "log")) == 1


def test_who_leaves_before_the_reply_disturbs_nobody(tmp_path: Path) -> None:
    with known_delays(tmp_path / "log", "--delay-us", "20000") as port:
        with connect(port) as sock:
            sock.sendall(GET)
        with connect(port) as sock:
            ask(sock)
    replied = read_log(tmp_path / "log")[:, 1]
    assert replied[-1] > 0


def test_a_stalling_server_is_silent_for_as_long_as_it_says(tmp_path: Path) -> None:
    with known_delays(tmp_path / "log", "--delay-us", "1000", "--stall-ms", "250") as port:
        deadline = after(30)
        with connect(port) as sock:
            ask(sock)
            while ask(sock) < 200_000_000:
                assert time.monotonic_ns() < deadline, "it never stalls"
    gaps = np.diff(read_log(tmp_path / "log")[:, 1])
    assert gaps.max() >= 250_000_000


# -- arithmetic ---------------------------------------------------------------------------


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(values: list[int]) -> None:
    for name, found in percentiles_us(np.array(values, np.int64)).items():
        enough = PER_MILLE[name] * len(values)
        value = round(found * 1000)
        assert value in values
        assert 1000 * sum(other <= value for other in values) >= enough
        assert 1000 * sum(other < value for other in values) < enough


@given(st.floats(0.01, 0.999), st.floats(0, 0.9))
def test_the_theory_of_the_stall_is_what_a_schedule_gives(quantile: float, stall_s: float) -> None:
    at_s = np.linspace(0, 1, 100_000, endpoint=False)
    waits_us = np.maximum(0, stall_s - at_s) * 1e6
    expected = np.quantile(waits_us, quantile) + 500
    assert math.isclose(stalled_us(quantile, stall_s * 1e6, 500), expected, abs_tol=30)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"lag_p99_us": 1001.0}, "sent late"),
        ({"client_busy": 0.96}, "saturated"),
        ({"kept_up_share": 0.98}, "answered in time: 98.0%"),
    ],
)
def test_a_rate_is_driven_unless_something_was_the_limit(
    change: dict[str, Any], reason: str
) -> None:
    row = {"lag_p99_us": 20.0, "client_busy": 0.5, "kept_up_share": 1.0} | change
    limit = measure._limit(row)
    assert reason in limit
    assert bool(limit) == bool(reason)


# -- kept, and asked ----------------------------------------------------------------------


def kept(**changes: Any) -> dict[str, Any]:
    facts = {"schema": calibration.SCHEMA, "machine": machine.facts(), "warnings": []}
    return {**facts, "open_loop_rps": 80_000, **changes}


def test_who_asks_for_what_was_calibrated_is_not_warned() -> None:
    assert calibration.warnings_for(80_000, kept()) == []


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "not calibrated"),
        (kept(open_loop_rps=79_999), "80,000 requests/s are asked for, calibrated were 79,999"),
        (kept(open_loop_rps=None), "no rate"),
        (kept(machine={**machine.facts(), "kernel": "Linux 2.2"}), "another kernel"),
        (kept(warnings=["the machine was busy"]), "the machine was busy"),
    ],
)
def test_who_asks_for_more_is_warned_in_one_line(found: dict[str, Any] | None, words: str) -> None:
    (warning,) = calibration.warnings_for(80_000, found)
    assert words in warning
    assert "\n" not in warning


def test_what_is_kept_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert calibration.load_calibration() is None
    calibration.keep(kept(), calibration.default_path())
    assert calibration.load_calibration() == json.loads(json.dumps(kept()))
    assert (tmp_path / "state" / "sedabench" / "calibration.json").is_file()


DAMAGED = {
    "torn": b"{",
    "no object": b"[]",
    "another version": b'{"schema": 0}',
    "no text": b"\xff",
    "no rate": json.dumps({**kept(), "open_loop_rps": "many"}).encode(),
    "no finite number": json.dumps(kept()).encode().replace(b"80000", b"1e999"),
    "nested without end": b"[" * 200_000,
    "larger than any calibration": json.dumps(kept()).encode() + b" " * calibration.LARGEST_BYTES,
}


@pytest.mark.parametrize("contents", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_when_it_is_shown_and_warned_of_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: bytes
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = calibration.default_path()
    path.parent.mkdir()
    path.write_bytes(contents)
    with pytest.raises(UserError, match=f"{path}.*sedabench calibrate"):
        calibration.read_calibration(path)
    (warning,) = calibration.warnings_for(1, calibration.load_calibration())
    assert str(path) in warning
    assert "run: sedabench calibrate" in warning


def test_what_is_no_regular_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    """/dev/full never ends, and a pipe without a writer never begins."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/full"), Path("/dev/zero")):
        with pytest.raises(UserError, match="no calibration that can be read"):
            calibration.read_calibration(path)
        with pytest.raises(UserError, match="no regular file"):
            calibration.ensure_writable(path)


def test_a_file_that_lacks_what_a_table_shows_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.keep(kept(), path)
    done = CliRunner().invoke(command, ["--show", "--out", str(path)])
    assert isinstance(done.exception, UserError)
    assert f"{path} is damaged" in str(done.exception)


def test_a_place_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "calibration.json", Path("/proc/calibration.json")):
        with pytest.raises(UserError, match="cannot be written"):
            calibration.ensure_writable(path)
    calibration.ensure_writable(tmp_path / "new" / "folder" / "calibration.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "trying leaves nothing behind"


def test_show_without_a_calibration_says_how_to_make_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--show", "--out", str(tmp_path / "none.json")])
    assert isinstance(done.exception, UserError)
    assert "run: sedabench calibrate" in str(done.exception)


def test_a_calibration_measures_everything_and_can_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "QUICK", TINY)
    path = tmp_path / "calibration.json"
    measured = CliRunner().invoke(command, ["--quick", "--out", str(path)])
    assert measured.exception is None, measured.output
    assert measured.output.splitlines()[-1] == f"kept in {path}"
    found = calibration.read_calibration(path)
    assert found is not None
    assert found["closed_loop_rps"] == max(row["rps"] for row in found["closed_loop"]) > 0
    assert found["closed_loop"][0]["peer"] == "eventloop"
    assert found["loopback"]["bandwidth_bps"] > 0
    assert [row["rate_rps"] for row in found["open_loop"]] == [100]
    (known,) = found["known_delays"]
    assert list(known["percentiles"]) == list(PER_MILLE)
    for row in known["percentiles"].values():
        assert row["measured_us"] >= row["true_us"], "no reply is seen before it was sent"
    done = CliRunner().invoke(command, ["--show", "--out", str(path)])
    assert done.exception is None, done.output
    for words in ("known delays", "open loop, Poisson", "a look at the clock", str(path)):
        assert words in done.output
        assert words in measured.output

    # The disk fills up while it is measured.
    monkeypatch.setattr(measure, "calibrate", lambda *_: found)
    monkeypatch.setattr(calibration, "ensure_writable", lambda _: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lost = CliRunner().invoke(command, ["--out", "/proc/calibration.json"])
    assert "known delays" in lost.output, "what was measured is shown all the same"
    assert isinstance(lost.exception, UserError)
    said, _, other = str(lost.exception).rpartition(" is in ")
    assert said.startswith("/proc/calibration.json cannot be written")
    assert calibration.read_calibration(Path(other)) == found


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_calibration_says_that_nothing_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt if stop == signal.SIGINT else StoppedBySignal(stop)

    monkeypatch.setattr(measure, "calibrate", interrupted)
    done = CliRunner().invoke(command, ["--out", str(tmp_path / "calibration.json")])
    assert done.output == "interrupted: nothing was kept\n"
    assert done.exit_code == 128 + stop
    assert not [*tmp_path.iterdir()]
