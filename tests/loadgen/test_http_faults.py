"""Whatever was scheduled is accounted for, whatever the server does."""

from __future__ import annotations

import gc
import select
import socket
import threading
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from loadgen.demand.arrivals import schedule
from loadgen.demand.mixes import Mix, Template
from loadgen.http.config import HttpConfig
from loadgen.http.connections import Connections
from loadgen.http.ledger import finite, ring
from loadgen.http.loop import run
from loadgen.http.pool import BUSY
from loadgen.http.probe import Url, probe
from loadgen.http.records import ANSWERED, NEVER_SENT, OUTCOMES, TIMEOUT, Raw
from loadgen.http.result import HttpResult, summarise

from .fault_server import BODY, CHUNKS, GARBAGE, LONG_BYTES, PIECE, FaultServer, fault_server
from .scripted import DEADLINE_S, Peer, serving


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as found:
        yield found


@dataclass(frozen=True)
class Case:
    """A fault, and what must become of every request that meets it."""

    fault: str
    outcome: str
    kind: str = ""
    """Counted under `error_kinds`, if it is an error."""
    method: str = "GET"
    status: int = 200
    reply_bytes: int | None = len(BODY)
    body: bytes = b""

    def template(self, token: str) -> Template:
        return Template(
            self.fault, self.method, f"/{token}/{self.fault}", 1.0, body=self.body,
            status=self.status, reply_bytes=self.reply_bytes,
        )  # fmt: skip

    @property
    def patience_s(self) -> float:
        return 0.1 if self.outcome == "timeout" else DEADLINE_S


CASES = [
    Case("ok", "answered"),
    Case("fresh", "answered"),
    Case("delay/1", "answered"),
    Case("long", "answered", reply_bytes=LONG_BYTES),
    Case("trickle", "answered"),
    Case("status/204", "answered", status=204, reply_bytes=0),
    Case("bare/304", "answered", status=304, reply_bytes=0),
    Case("status/404", "answered", status=404),
    Case("length/0", "answered", reply_bytes=0),
    Case("head/30", "answered", method="HEAD", reply_bytes=0),
    Case("continues", "answered"),
    Case("until_close/20", "answered"),
    Case("until_close/36", "answered"),
    Case("old", "answered"),
    Case("leave/1", "answered"),
    Case("leave/3", "answered"),
    Case("split/17", "answered"),
    Case(f"chunks/{len(CHUNKS) - 1}", "answered"),
    Case("ok", "answered", method="POST", body=bytes(4 << 20)),
    Case("status/503", "rejected"),
    Case("shed", "rejected"),
    Case("status/404", "wrong", "status_404"),
    Case("status/500", "wrong", "status_500"),
    Case("length/9", "wrong", "wrong_length"),
    Case("length/0", "wrong", "wrong_length"),
    Case("beyond", "wrong", "wrong_length"),
    *(Case(f"garbage/{number}", "wrong", "bad_reply") for number in range(GARBAGE)),
    Case("early", "wrong", "status_413", method="POST", body=b"?"),
    Case("early", "wrong", "status_413", method="POST", body=bytes(8 << 20)),
    Case("turn_away", "rejected", method="POST", body=bytes(8 << 20)),
    Case("hasty", "answered", method="POST", body=bytes(8 << 20)),
    Case("thrifty", "answered", method="POST", body=bytes(8 << 20), reply_bytes=LONG_BYTES * 16),
    Case("close_at/0", "connection", "closed"),
    Case("close_at/1", "connection", "closed_early"),
    Case("close_at/60", "connection", "closed_early"),
    Case(f"close_at/{len(PIECE) - 1}", "connection", "closed_early"),
    Case(f"close_chunks_at/{len(CHUNKS) - 2}", "connection", "closed_early"),
    Case("reset_at/0", "connection", "reset"),
    Case("reset_at/30", "connection", ""),  # before or after what was sent
    Case("silent", "timeout", "timeout"),
    Case("half/20", "timeout", "timeout"),
    Case("half/60", "timeout", "timeout"),
    Case("deaf", "timeout", "timeout", method="POST", body=bytes(8 << 20)),
]


def config(server: FaultServer, *templates: Template, **settings: Any) -> HttpConfig:
    small = {"connections": 4, "duration_s": 0.1, "warmup_s": 0.0, "timeout_s": 5.0, "spin": False}
    return HttpConfig(
        target=server.target, host="test", mix=Mix("faults", templates), **(small | settings)
    )  # fmt: skip


def drive(config: HttpConfig) -> tuple[Raw, HttpResult]:
    raw = run(config)
    result = summarise(config, [raw])
    assert_accounted_for(config, raw, result)
    return raw, result


def assert_accounted_for(config: HttpConfig, raw: Raw, result: HttpResult) -> None:
    summary, records = result.summary, raw.records
    accounts = summary["answered"], summary["rejected"], *summary["errors"].values()
    assert sum(accounts) == summary["scheduled"]
    assert sum(c["scheduled"] for c in summary["by_class"].values()) == summary["scheduled"]
    if config.open_loop:
        assert config.rate is not None
        due_ns = schedule(config.arrivals, config.rate, config.length_s, config.seed)
        assert np.array_equal(records.scheduled_ns - raw.start_ns, due_ns)
    timeline = summary["timeline"]
    assert sum(timeline["offered"]) == len(records)
    ended = (sum(timeline[what]) for what in ("answered", "rejected", "errors"))
    never = records.outcome == NEVER_SENT
    assert sum(ended) == len(records)
    assert sum(timeline["never_sent"]) == never.sum()
    assert np.array_equal(records.sent_ns == 0, never)
    assert np.array_equal(records.done_ns == 0, never)
    assert np.array_equal(records.connection < 0, never)
    assert (records.scheduled_ns <= records.sent_ns)[~never].all()
    assert (records.sent_ns <= records.done_ns)[~never].all()
    assert records.connection.max(initial=-1) < config.connections


def outcomes(raw: Raw, template: int | None = None) -> Counter[str]:
    which = raw.records.outcome
    if template is not None:
        which = which[raw.records.template == template]
    return Counter(OUTCOMES[outcome] for outcome in which.tolist())


def name(case: Case) -> str:
    return f"{case.fault.replace('/', '-')}-{case.outcome}"


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
@pytest.mark.parametrize("case", CASES, ids=name)
def test_every_request_has_the_outcome_of_its_fault(
    server: FaultServer, case: Case, rate: float | None
) -> None:
    token = server.token()
    raw, _ = drive(config(server, case.template(token), rate=rate, timeout_s=case.patience_s))
    found = outcomes(raw)
    assert found.pop(case.outcome) > 0
    if case.outcome == "timeout":  # while all connections wait, others become too late
        found.pop("never_sent", None)
    assert not found, raw.first_wrong
    if case.kind:
        assert set(raw.error_kinds) == {case.kind}
    received = len(server.log(token).requests)
    sent = int((raw.records.sent_ns > 0).sum())
    # One that has timed out may never have reached the server's interpreter.
    assert received == sent or (case.outcome == "timeout" and received < sent)


ACCEPTED = [
    case
    for case in CASES
    if case.outcome in ("answered", "rejected", "wrong") and case.kind != "bad_reply"
]


@pytest.mark.parametrize("case", ACCEPTED, ids=name)
def test_the_probe_accepts_every_reply_that_the_load_accepts(
    server: FaultServer, case: Case
) -> None:
    template = case.template(server.token())
    probe(Url(server.target, "test", template.path), template, DEADLINE_S)


HEAD_413 = b"HTTP/1.1 413 Too Large\r\n"
WHOLE = HEAD_413 + b"Content-Length: 2\r\n\r\nno"


@pytest.mark.parametrize("sized", [False, True], ids=["load", "swarm"])
@pytest.mark.parametrize("begun", [False, True], ids=["first-send", "later-send"])
@pytest.mark.parametrize(
    ("said", "in_order", "outcome", "kind"),
    [
        (WHOLE, False, "wrong", "status_413"),
        (WHOLE, True, "wrong", "status_413"),
        (PIECE, False, "answered", ""),
        (HEAD_413 + b"\r\nno", True, "wrong", "status_413"),
        (HEAD_413 + b"\r\nno", False, "connection", "reset"),  # is that all of it?
        (WHOLE[:-1], False, "connection", "reset"),
        (WHOLE[:-1], True, "connection", "closed_early"),
        (b"", False, "connection", "reset"),
        (b"", True, "connection", "reset"),
    ],
    ids=[
        "whole", "whole-ended", "right", "until-close-ended", "until-close", "part", "part-ended",
        "nothing", "nothing-ended",
    ],
)  # fmt: skip
def test_a_reply_that_came_before_a_send_failed_is_judged(
    said: bytes, in_order: bool, outcome: str, kind: str, begun: bool, sized: bool
) -> None:
    """`in_order`: the server ended its side before it reset the connection."""

    def script(peer: Peer) -> None:
        assert opened.wait(DEADLINE_S)
        if begun:
            peer.sock.recv(1)
        peer.sock.sendall(said)
        if in_order:
            peer.sock.shutdown(socket.SHUT_WR)
        peer.reset()

    post = Template("post", "POST", "/", 1.0, body=b"?" * 99, reply_bytes=len(BODY))
    opened = threading.Event()
    choice = array("H", [0])
    ledger = ring(1, choice, NEVER_SENT) if sized else finite(array("q", [0]), choice)
    with serving(script) as closing:
        settings = HttpConfig(closing.target, "test", Mix("post", (post,)), connections=1)
        with Connections(settings, ledger) as connections:
            connections.open_all()
            opened.set()
            connection = connections.free.popleft()
            connection.request, connection.state = 0, BUSY
            connection.known, wire = connections.heads[0], connections.wires[0]
            if begun:
                connections.send_later(connection, wire[connection.send(wire[:9]) :])
            wait_for_reset(connection.sock)
            if begun:
                connections.event(connection, select.EPOLLOUT)
            else:
                with pytest.raises(OSError, match=r"Broken pipe|reset") as failed:
                    connection.send(wire)
                connections.send_failed(connection, wire, failed.value)
            assert connection in connections.closed  # it is of no use to another request
    assert OUTCOMES[ledger.outcome[0]] == outcome
    assert set(connections.error_kinds) == ({kind} if kind else set())
    assert ledger.done[0] > 0


def wait_for_reset(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, 0)  # errors are told without being asked for
    assert poll.poll(DEADLINE_S * 1e3)


def test_faults_of_one_request_do_not_touch_the_others(server: FaultServer) -> None:
    token = server.token()
    cases = [case for case in CASES if case.outcome != "timeout" and len(case.body) < 2]
    # Two templates cannot be told apart by the server, but by their number here.
    templates = [case.template(token) for case in cases]
    raw, result = drive(config(server, *templates, rate=2000.0, duration_s=0.3, connections=16))
    for number, case in enumerate(cases):
        assert set(outcomes(raw, number)) <= {case.outcome}, case
    assert len(server.log(token).requests) == len(raw.records)
    assert result.summary["errors"]["timeout"] == 0


@pytest.mark.parametrize("rate", [None, 2000.0], ids=["closed", "open"])
def test_no_request_leaves_anything_to_the_garbage_collector(
    server: FaultServer, rate: float | None
) -> None:
    """It is off in a run: what is left to it is never given back."""
    token = server.token()
    cases = [case for case in CASES if case.outcome != "timeout" and len(case.body) < 2]
    templates = [case.template(token) for case in cases]
    settings = config(server, *templates, rate=rate, duration_s=0.3, connections=8)
    gc.collect()
    gc.disable()
    try:
        raw = run(settings)
        assert gc.collect() < 20
    finally:
        gc.enable()
    assert len(raw.records) > 200


@pytest.mark.parametrize("number", [0, 1], ids=["tiny chunks", "empty lines"])
def test_connections_that_are_flooded_do_not_stop_the_others(
    server: FaultServer, number: int
) -> None:
    token = server.token()
    cases = Case(f"flood/{number}", ""), *[Case("ok", "")] * 9
    templates = [case.template(token) for case in cases]
    raw, _ = drive(
        config(server, *templates, rate=100.0, duration_s=0.5, connections=40, timeout_s=1.0)
    )
    assert set(outcomes(raw, 0)) == {"timeout"}
    for template in range(1, len(cases)):
        assert outcomes(raw, template)["answered"] > 0


@pytest.mark.parametrize("fault", ["split", "split_long", "chunks"])
@pytest.mark.parametrize("rate", [None, 1000.0], ids=["closed", "open"])
def test_a_reply_may_be_split_anywhere(server: FaultServer, fault: str, rate: float | None) -> None:
    token = server.token()
    reply_bytes, most = (192, 60) if fault == "split_long" else (48, len(CHUNKS))
    splits = [
        Case(f"{fault}/{at}", "answered", reply_bytes=reply_bytes).template(token)
        for at in range(1, most)
    ]
    raw, _ = drive(config(server, *splits, rate=rate, duration_s=0.4, connections=8))
    assert set(outcomes(raw)) == {"answered"}, (raw.first_wrong, raw.error_kinds)


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
def test_bytes_that_come_after_a_reply_are_an_error_of_that_or_the_next(
    server: FaultServer, rate: float | None
) -> None:
    token = server.token()
    raw, _ = drive(config(server, Case("beyond/1", "").template(token), rate=rate))
    assert set(outcomes(raw)) <= {"answered", "wrong"}
    assert set(raw.error_kinds) <= {"unexpected_bytes", "bad_reply", "wrong_length"}
    assert raw.error_kinds
    assert "spare" in raw.first_wrong or "beyond" in raw.first_wrong


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
def test_a_server_that_drops_connections_without_a_word_costs_at_most_a_request_each(
    server: FaultServer, rate: float | None
) -> None:
    token = server.token()
    raw, _ = drive(config(server, Case("drop/3", "").template(token), rate=rate))
    found = outcomes(raw)
    assert set(found) <= {"answered", "connection"}
    assert found["connection"] <= raw.reconnects
    assert found["answered"] == len(server.log(token).requests)


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
@pytest.mark.parametrize("fault", ["obey", "ok"])
def test_a_connection_ends_after_as_many_requests_as_was_asked(
    server: FaultServer, fault: str, rate: float | None
) -> None:
    """`ok` does not close when it is told to: the load generator does."""
    token = server.token()
    settings = {"rate": rate, "requests_per_connection": 3, "duration_s": 0.3}
    raw, _ = drive(config(server, Case(fault, "").template(token), **settings))
    assert set(outcomes(raw)) == {"answered"}
    of_each = Counter(port for _, port, _, _ in server.log(token).requests)
    assert max(of_each.values()) == 3
    assert sum(count < 3 for count in of_each.values()) <= 4  # those of the end


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
def test_a_request_without_reply_gives_its_place_to_others_after_the_time_out(
    server: FaultServer, rate: float | None
) -> None:
    token = server.token()
    cases = Case("silent", ""), Case("half/60", ""), Case("ok", ""), Case("ok", "")
    templates = [case.template(token) for case in cases]
    raw, _ = drive(
        config(server, *templates, rate=rate, duration_s=0.6, timeout_s=0.1, connections=2)
    )
    found = raw.records
    late = found.outcome == TIMEOUT
    assert late.sum() > 2  # more than connections: those that it had were opened anew
    assert ((found.done_ns - found.scheduled_ns)[late] >= 0.1e9).all()
    assert (found.outcome[found.template >= 2] == ANSWERED).any()
    assert not (found.outcome[found.template < 2] == ANSWERED).any()
    assert raw.error_kinds["timeout"] == late.sum()


def test_more_than_can_be_sent_is_never_sent_and_accounted_for(server: FaultServer) -> None:
    token = server.token()
    slow = Case("delay/4", "").template(token)
    raw, result = drive(config(server, slow, rate=2000.0, connections=2, timeout_s=0.1))
    found = outcomes(raw)
    assert found["never_sent"] > len(raw.records) / 2
    assert found["answered"] > 0
    # A request that waits for a connection waits on the clock.
    waited = result.summary["latency_us"]["max"], result.summary["service_latency_us"]["max"]
    assert waited[0] > waited[1]
    assert raw.own_unsent == 0
    assert result.summary["send_lag_us"]["p50"] is not None


@pytest.mark.parametrize("rate", [None, 400.0], ids=["closed", "open"])
def test_a_server_that_dies_and_comes_back_is_found_again(rate: float | None) -> None:
    begun, over = threading.Event(), threading.Event()

    def on_event(event: str, _: int) -> None:
        if event == "window_begin":
            begun.set()

    with fault_server() as first:
        case = Case("ok", "").template("t")
        settings = config(first, case, rate=rate, duration_s=1.2, timeout_s=2.0)

        def die_and_come_back() -> None:
            begun.wait(DEADLINE_S)
            while len(first.log("t").requests) < 20:
                pass
            first.process.kill()
            first.process.wait()
            with fault_server(first.port) as second:
                over.wait(DEADLINE_S)
                revived.append(len(second.log("t").requests))

        revived: list[int] = []
        other = threading.Thread(target=die_and_come_back)
        other.start()
        raw = run(settings, on_event)
        over.set()
        other.join()
    assert_accounted_for(settings, raw, summarise(settings, [raw]))
    found = outcomes(raw)
    assert found["answered"] >= 20
    assert found["connection"] + found["never_sent"] + found["timeout"] < len(raw.records)
    assert raw.error_kinds["connect_refused"] > 0
    assert revived[0] > 0
    last = raw.records.part(raw.records.sent_ns > 0)
    assert OUTCOMES[int(last.outcome[np.argmax(last.sent_ns)])] == "answered"
