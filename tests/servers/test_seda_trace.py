"""`--trace`: the path of each sampled request, in a file that Perfetto opens."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest

from servers.counters import Counters
from servers.options import UsageError
from servers.seda.connections import StagedConnection
from servers.seda.kernel_queues import Readiness
from servers.seda.network import Network
from servers.seda.sample import Sample
from servers.seda.trace import MAX_UNWRITTEN_PATHS, REJECTED, Tracer
from servers.service import Request, Session
from tests.conformance.server import Server, read_exactly, reset
from tests.conformance.test_command_line import assert_refused, run
from tests.servers.web import get, replies

HIT = ["read", "parse", "route", "lookup", "respond", "write"]
MISS = ["read", "parse", "route", "lookup", "read_file", "respond", "write"]
PATHS = {
    "/page": MISS,
    "/page?again": HIT,
    "/compute?us=10": ["read", "parse", "route", "compute", "respond", "write"],
    "/missing": MISS,
    "/%zz": ["read", "parse", "respond", "write"],
    "/healthz": ["read", "parse", "route", "respond", "write"],
}


Bar = dict[str, Any]


def endings(path: Path) -> list[tuple[str, list[Bar]]]:
    """How each request ended and its bars, in the order in which they came."""
    trace = json.loads(path.read_text())
    assert trace["displayTimeUnit"] in ("ms", "ns")
    name, *events = trace["traceEvents"]
    assert (name["ph"], name["name"]) == ("M", "process_name")
    found: dict[int, tuple[str, list[Bar]]] = {}
    for event in events:
        assert event["pid"] == name["pid"]
        if event["ph"] == "M":
            assert event["name"] == "thread_name"
            title, _, ending = event["args"]["name"].partition(": ")
            assert title == f"request {event['tid']}"
            found[event["tid"]] = (ending, [])
            continue
        assert event["ph"] == "X"
        assert event["dur"] >= 0
        found[event["tid"]][1].append(event)
    return sorted(found.values(), key=lambda row: row[1][0]["ts"])


def rows(path: Path) -> list[list[Bar]]:
    """The bars of each request, all of which were answered."""
    found = endings(path)
    assert {ending for ending, _ in found} <= {"answered"}
    return [bars for _, bars in found]


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
        assert [bar["name"] for bar in wait] == [f"wait for {name}" for name in stages[1:]]
        assert [bar["args"] for bar in service] == [{"events": 1}] * len(stages)
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


def test_what_was_turned_away_ends_there(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Server(
        "seda", "--service", "web", "--trace", str(trace), "--docroot", str(tmp_path),
        "--queue-capacity", "1", "--batch", "1", "--compute-loops-per-us", "5",
    ) as server:  # fmt: skip
        for _ in range(10):
            with server.connect() as sock:
                sock.sendall(get("/healthz") * 50 + get("/healthz", "Connection: close"))
                while sock.recv(1 << 16):
                    pass
        stats = server.rest()
    assert stats["replies"] == 510
    paths = defaultdict(list)
    for ending, bars in endings(trace):
        assert bars[0]["name"] == "read"
        paths[ending].append([bar["name"] for bar in bars])
    assert set(paths) - {"answered"} == {"rejected"}
    assert all(names[-1] == "write" for names in paths["answered"])
    assert all(names[-1] == "rejected" for names in paths["rejected"])
    assert all("write" not in names for names in paths["rejected"])


def test_what_waited_for_write_and_what_write_did_are_told_apart() -> None:
    """Ours is the second of two batches that wait for the write stage."""
    tracer = Tracer(os.devnull, every=1)
    network = Network(Readiness(1), lambda *_: Nothing(), Counters, 10, 1000, 1000)
    network.tracer = tracer
    pairs = [socket.socketpair() for _ in range(2)]
    trails = []
    for ours, _ in pairs:
        connection = StagedConnection(ours, Nothing(), 0)
        network.readiness.add(connection)
        request = Request(lambda request: None)
        request.context = Sample(1, [("respond", 1, time.monotonic_ns(), 1)])
        trails.append(request.context.trail)
        request.reply = (b"reply",)
        request.done = True
        connection.pending.append(request)
    for connection in network.readiness.connections.values():
        network.write([connection], lambda stage, events: ())
    (_, first_write), (second_respond, second_write) = trails
    assert first_write[0] == second_write[0] == "write"
    assert first_write[1] <= first_write[2] <= second_write[1] <= second_write[2]
    assert second_respond[2] < second_write[1]  # it waited
    for sock in chain(*pairs):
        sock.close()
    tracer.close()


def test_a_request_whose_connection_ended_first_was_abandoned(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Server(
        "seda", "--service", "web", "--trace", str(trace), "--docroot", str(tmp_path),
        "--disk-ms", "50", "--no-admission-controller", "--compute-loops-per-us", "5",
    ) as server:  # fmt: skip
        for turn in count(1):
            victim = server.connect()
            victim.sendall(get("/missing"))
            server.wait_for(lambda stats, turn=turn: stats["requests"] == turn)
            reset(victim)
            if server.rest()["abandoned"]:  # else the disk was quicker
                break
    found = [(ending, bars[-1]["name"]) for ending, bars in endings(trace)]
    assert ("abandoned", "abandoned") in found
    assert set(found) <= {("abandoned", "abandoned"), ("answered", "write")}


def test_to_describe_a_server_leaves_a_trace_as_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text("precious")
    done = run("seda", "--service", "web", "--trace", str(trace), "--describe")
    assert done.returncode == 0, done.stderr
    assert trace.read_text() == "precious"


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "trace.json", tmp_path, Path("/dev/full")):
        assert_refused(
            "seda", "--port", "0", "--service", "web", "--trace", str(path),
            says=f"cannot write the trace to {path}",
        )  # fmt: skip


class Nothing(Session):
    """A session in which nothing comes."""

    idle = True

    def receive(self, data: memoryview) -> Sequence[Request]:
        return ()


def traced(*stages: tuple[str, int, int, int]) -> Request:
    request = Request(lambda request: None)
    request.context = Sample(1, list(stages))
    return request


def test_a_bar_is_in_microseconds(tmp_path: Path) -> None:
    tracer = Tracer(str(tmp_path / "trace"), every=1)
    tracer.finish(traced(("a", 1_000_000, 2_000_000, 1), ("b", 2_500_000, 5_000_000, 7)))
    tracer.close()
    (bars,) = rows(tmp_path / "trace")
    assert [(bar["name"], bar["ts"], bar["dur"]) for bar in bars] == [
        ("a", 1000.0, 1000.0), ("wait for b", 2000.0, 500.0), ("b", 2500.0, 2500.0),
    ]  # fmt: skip


def test_a_path_has_one_end(tmp_path: Path) -> None:
    tracer = Tracer(str(tmp_path / "trace"), every=1)
    request = traced(("a", 1, 2, 1))
    tracer.finish(request, REJECTED)
    tracer.passed([request], "write", 3)
    tracer.finish_all([request])
    tracer.close()
    ((ending, bars),) = endings(tmp_path / "trace")
    assert (ending, [bar["name"] for bar in bars]) == (REJECTED, ["a", REJECTED])


def test_what_waits_to_be_written_has_a_bound(tmp_path: Path) -> None:
    tracer = Tracer(str(tmp_path / "trace"), every=1)
    for number in range(MAX_UNWRITTEN_PATHS + 5):
        tracer.finish(traced(("a", number, number + 1, 1)))
    tracer.close()
    assert len(rows(tmp_path / "trace")) == MAX_UNWRITTEN_PATHS


def test_a_disk_that_fills_up_is_told_at_the_end(tmp_path: Path) -> None:
    class Full:
        def write(self, text: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    tracer = Tracer(str(tmp_path / "trace"), every=1)
    tracer._file.close()
    tracer._file = Full()  # type: ignore[assignment]
    tracer.finish(traced(("a", 1, 2, 1)))
    tracer.write()  # serving goes on
    with pytest.raises(UsageError, match=r"cannot write the trace to .*No space left"):
        tracer.close()
