"""`--trace`: the path of each sampled request, in a file that Perfetto opens."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from servers.options import UsageError
from servers.seda.trace import MOST_WAITING, Tracer
from servers.service import Request
from tests.conformance.server import Server, read_exactly
from tests.conformance.test_command_line import assert_refused
from tests.servers.web import get, replies

HIT = ["parse", "route", "lookup", "respond", "write"]
MISS = ["parse", "route", "lookup", "read_file", "respond", "write"]
PATHS = {
    "/page": MISS,
    "/page?again": HIT,
    "/compute?us=10": ["parse", "route", "compute", "respond", "write"],
    "/missing": MISS,
    "/%zz": ["parse", "respond", "write"],
    "/healthz": ["parse", "route", "respond", "write"],
}


def rows(path: Path) -> list[list[dict[str, Any]]]:
    """The bars of each request, in the order in which they came."""
    trace = json.loads(path.read_text())
    assert trace["displayTimeUnit"] in ("ms", "ns")
    name, *bars = trace["traceEvents"]
    assert (name["ph"], name["name"]) == ("M", "process_name")
    found = defaultdict(list)
    for bar in bars:
        assert bar["ph"] == "X"
        assert bar["pid"] == name["pid"]
        assert bar["dur"] >= 0
        found[bar["tid"]].append(bar)
    return sorted(found.values(), key=lambda bars: bars[0]["ts"])


def ask(server: Server, *paths: str) -> None:
    """One after another on one connection, so that each is a batch of its own."""
    with server.connect() as sock:
        for path in paths:
            sock.sendall(get(path))
            head = b""
            while b"\r\n\r\n" not in head:
                head += read_exactly(sock, 1)
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert len(replies(head + read_exactly(sock, length))) == 1


@pytest.mark.parametrize(
    "run", ["pools", "shared", "shared --shared-threads 3 --schedule longest", "direct"]
)
def test_every_stage_that_a_request_passed_has_a_wait_and_a_service_bar(
    run: str, tmp_path: Path
) -> None:
    (tmp_path / "page").write_bytes(b"a page")
    trace = tmp_path / "trace.json"
    with Server(
        "seda", "--run", *run.split(), "--service", "web", "--docroot", str(tmp_path),
        "--trace", str(trace), "--no-admission-controller", "--compute-loops-per-us", "5",
    ) as server:  # fmt: skip
        ask(server, *PATHS)
    found = rows(trace)
    assert len(found) == len(PATHS)
    for bars, stages in zip(found, PATHS.values(), strict=True):
        service = [bar for bar in bars if bar["cat"] == "service"]
        wait = [bar for bar in bars if bar["cat"] == "queue"]
        assert [bar["name"] for bar in service] == stages
        assert [bar["name"] for bar in wait] == [f"wait for {name}" for name in stages]
        edges = [time for bar in bars for time in (bar["ts"], bar["ts"] + bar["dur"])]
        assert edges == pytest.approx(sorted(edges), abs=0.01)


def test_every_third_is_followed_if_no_more_are_wanted(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Server(
        "seda", "--service", "web", "--trace", str(trace), "--trace-every", "3",
        "--no-admission-controller", "--compute-loops-per-us", "5",
    ) as server:  # fmt: skip
        ask(server, *["/healthz"] * 12)
    assert len(rows(trace)) == 4


def test_a_run_without_requests_is_a_trace_too(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Server("seda", "--service", "web", "--trace", str(trace)):
        pass
    assert rows(trace) == []


def test_what_was_turned_away_is_not_in_it(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Server(
        "seda", "--service", "web", "--trace", str(trace), "--docroot", str(tmp_path),
        "--queue-capacity", "1", "--batch", "1", "--compute-loops-per-us", "5",
    ) as server:  # fmt: skip
        with server.connect() as sock:
            sock.sendall(get("/healthz") * 50 + get("/healthz", "Connection: close"))
            while sock.recv(1 << 16):
                pass
        stats = server.rest()
    assert stats["replies"] == 51
    assert len(rows(trace)) <= 51 - stats["rejected"]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "trace.json", tmp_path, Path("/dev/full")):
        assert_refused(
            "seda", "--port", "0", "--service", "web", "--trace", str(path),
            says=f"cannot write the trace to {path}",
        )  # fmt: skip


def traced(begin_ns: int, *stages: tuple[str, int, int]) -> Request:
    request = Request(lambda request: None)
    request.entered_ns = begin_ns
    request.trail = list(stages)
    return request


def test_a_bar_is_in_microseconds(tmp_path: Path) -> None:
    tracer = Tracer(str(tmp_path / "trace"), every=1)
    tracer.finish(traced(1_000_000, ("a", 1_500_000, 2_000_000), ("b", 2_000_000, 5_000_000)))
    tracer.close()
    (bars,) = rows(tmp_path / "trace")
    assert [(bar["name"], bar["ts"], bar["dur"]) for bar in bars] == [
        ("wait for a", 1000.0, 500.0), ("a", 1500.0, 500.0),
        ("wait for b", 2000.0, 0.0), ("b", 2000.0, 3000.0),
    ]  # fmt: skip


def test_what_waits_to_be_written_has_a_bound(tmp_path: Path) -> None:
    tracer = Tracer(str(tmp_path / "trace"), every=1)
    for number in range(MOST_WAITING + 5):
        tracer.finish(traced(number, ("a", number, number + 1)))
    tracer.close()
    assert len(rows(tmp_path / "trace")) == MOST_WAITING


def test_a_disk_that_fills_up_is_told_at_the_end(tmp_path: Path) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    tracer = Tracer(str(tmp_path / "trace"), every=1)
    tracer._file.close()
    tracer._file = Full()  # type: ignore[assignment]
    tracer.finish(traced(0, ("a", 1, 2)))
    tracer.write()  # serving goes on
    with pytest.raises(UsageError, match=r"cannot write the trace to .*No space left"):
        tracer.close()
