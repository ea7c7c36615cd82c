"""The admin port: `/stats` for programs, `/metrics` for Prometheus."""

from __future__ import annotations

import json
import re
import socket
import time
from contextlib import ExitStack

from servers.admin import MAX_CLIENTS
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import (
    DEADLINE_S,
    Server,
    Stats,
    closed_by_peer,
    read_exactly,
    read_to_end,
    reset,
)

LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(
    rf"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\{{(?P<labels>{LABEL}(?:,{LABEL})*)\}} (?P<value>\S+)"
)


def burst(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(bytes(PACKETS * PACKET_BYTES))
        assert len(read_exactly(sock, 32)) == 32


def parse(text: str) -> dict[str, dict[str, float]]:
    """name -> labels -> value; strictly as the text format 0.0.4 has it."""
    metrics: dict[str, dict[str, float]] = {}
    kinds: dict[str, str] = {}
    name = ""
    assert text.endswith("\n")
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("# HELP "):
            _, _, name, words = line.split(" ", 3)
            assert words
            assert name not in kinds, f"{name} is described twice"
            kind_line = next(lines)
            assert kind_line.startswith(f"# TYPE {name} ")
            kinds[name] = kind_line.rpartition(" ")[2]
            assert kinds[name] in ("counter", "gauge")
            assert name.endswith("_total") == (kinds[name] == "counter")
            metrics[name] = {}
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample["name"] == name
        assert sample["labels"] not in metrics[name]
        metrics[name][sample["labels"]] = float(sample["value"])
    assert all(metrics.values()), "a metric without a sample"
    return metrics


def test_stats_tell_everything(server: Server) -> None:
    burst(server)
    stats = server.rest()
    of_its_own = {"runner", "decisions"} if stats["architecture"] == "seda" else set()
    assert set(stats) == of_its_own | {
        "architecture", "service", "pid", "time_ns", "uptime_s", "connections", "bytes_in",
        "bytes_out", "requests", "replies", "abandoned", "rejected", "errors", "last_fault",
        "threads",
        "service_stats", "stages",
    }  # fmt: skip
    assert set(stats["connections"]) == {"now", "accepted", "refused"}
    assert set(stats["errors"]) >= {"reset", "idle", "unread", "handler", "protocol", "accept"}
    assert stats["architecture"] == server.announcement["architecture"]
    assert stats["pid"] == server.pid
    assert stats["threads"] >= 2
    assert server.stats()["time_ns"] > stats["time_ns"]
    for stage in stats["stages"]:
        assert set(stage) == {
            "name", "to", "blocking", "queue_length", "queue_capacity", "threads", "batch",
            "batches", "events_in", "events_out", "dropped", "losses", "faults", "failed",
            "last_fault", "wait_s", "busy_s",
        }  # fmt: skip


def test_metrics_are_well_formed_and_say_what_stats_say(server: Server) -> None:
    def told() -> Stats:
        return {key: n for key, n in server.rest().items() if key not in ("time_ns", "uptime_s")}

    burst(server)
    deadline_s = time.monotonic() + DEADLINE_S
    while True:  # a batch is counted when its handler has returned: after the connection's end
        stats = told()
        status, kind, text = server.get("/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4")
        if told() == stats:
            break
        assert time.monotonic() < deadline_s, "its counts never come to rest"
    metrics = parse(text)
    who = f'architecture="{stats["architecture"]}",service="burst"'
    for key in ("bytes_in", "bytes_out", "requests", "replies", "abandoned", "rejected"):
        assert metrics[f"sedabench_{key}_total"] == {who: stats[key]}
    assert metrics["sedabench_connections"] == {who: 0}
    for key in ("accepted", "refused"):
        assert metrics[f"sedabench_connections_{key}_total"] == {who: stats["connections"][key]}
    assert metrics["sedabench_errors_total"] == {
        f'{who},kind="{kind}"': number for kind, number in stats["errors"].items()
    }
    for stage in stats["stages"]:
        labels = f'{who},stage="{stage["name"]}"'
        assert metrics["sedabench_stage_events_out_total"][labels] == stage["events_out"]
        assert metrics["sedabench_stage_threads"][labels] == stage["threads"]


def test_other_pages_are_404_and_say_which_there_are(server: Server) -> None:
    for path in ("/", "/stat", "/stats/x"):
        status, _, text = server.get(path)
        assert status == 404
        assert "/stats" in text
    assert server.get("/stats?pretty")[0] == 200


def test_clients_of_the_admin_port_that_misbehave_are_survived_in_silence() -> None:
    with Server("eventloop") as server:
        for request in (b"", b"GET /metrics HTTP/1.0\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET"):
            for _ in range(5):
                sock = socket.create_connection((server.host, server.admin_port))
                sock.sendall(request)
                reset(sock)
        with socket.create_connection((server.host, server.admin_port)) as sock:
            sock.sendall(b"DELETE /stats HTTP/1.0\r\n\r\n")
            head = read_to_end(sock)
            assert head.startswith(b"HTTP/1.0 405 ")
            assert b"\r\nAllow: GET, HEAD\r\n" in head
        server.stats()


def test_who_asks_for_the_head_gets_the_head() -> None:
    with Server("eventloop") as server:
        heads = []
        for method in (b"HEAD", b"GET"):
            with socket.create_connection((server.host, server.admin_port)) as sock:
                sock.sendall(method + b" /stats?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n")
                heads.append(read_to_end(sock).partition(b"\r\n\r\n"))
        (head, _, nothing), (full, _, body) = heads
        assert nothing == b""
        assert json.loads(body)["architecture"] == "eventloop"
        assert head.splitlines()[0] == full.splitlines()[0] == b"HTTP/1.0 200 OK"
        assert b"Content-Type: application/json" in head


def test_an_idle_or_slow_client_of_the_admin_port_holds_up_nobody() -> None:
    with Server("eventloop") as server, ExitStack() as stack:
        address = server.host, server.admin_port

        def visitor() -> socket.socket:
            sock = stack.enter_context(socket.create_connection(address, timeout=DEADLINE_S))
            sock.sendall(b"GET /sta")
            return sock

        slow = visitor()
        for byte in b"ts HTTP/1.0\r\n\r\n":
            server.stats()
            slow.sendall(bytes([byte]))
        assert read_to_end(slow).startswith(b"HTTP/1.0 200 OK")
        oldest = visitor()
        for _ in range(2 * MAX_CLIENTS):
            visitor()
            server.stats()
        assert closed_by_peer(oldest)  # there is a bound to them
        last = visitor()
        assert closed_by_peer(last)  # and to how long they may take


def test_a_client_of_the_admin_port_that_does_not_read_holds_up_nobody() -> None:
    with Server("eventloop") as server, ExitStack() as stack:
        for _ in range(MAX_CLIENTS):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.connect((server.host, server.admin_port))
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        server.stats()


def ask_as(server: Server, *hosts: str, version: str = "1.1", address: str = "") -> tuple[int, str]:
    """Status and text of `/stats`, asked for with these Host fields."""
    lines = [f"GET /stats HTTP/{version}", *(f"Host: {host}" for host in hosts), "", ""]
    with socket.create_connection((address or server.host, server.admin_port)) as sock:
        sock.sendall("\r\n".join(lines).encode())
        head, _, text = read_to_end(sock).decode().partition("\r\n\r\n")
    return int(head.split()[1]), text


def test_the_admin_port_answers_only_to_names_of_its_own(variant: tuple[str, ...]) -> None:
    with Server(*variant, "--admin-name", "Known.example", "--admin-name", "2001:db8::1") as server:
        for host in ("127.0.0.1", "localhost", "[::1]", "known.EXAMPLE", "[2001:db8::1]"):
            for port in ("", f":{server.admin_port}", ":80"):  # a tunnel has another
                assert ask_as(server, host + port)[0] == 200
        for host in ("elsewhere.example", "localhost.elsewhere.example", "10.0.0.1", "known", "0"):
            status, text = ask_as(server, f"{host}:{server.admin_port}")
            assert (status, text.count("\n")) == (421, 1)
            assert f"--admin-name {host}" in text
        for bad in ((), ("",), ("a@localhost",), ("localhost", "localhost")):
            assert ask_as(server, *bad)[0] == 400
        assert ask_as(server, version="1.0")[0] == 200  # no browser


def test_to_listen_everywhere_makes_no_name_known() -> None:
    with Server("eventloop", "--host", "0.0.0.0") as server:
        for host in ("0.0.0.0", "127.0.0.1", "localhost"):
            assert ask_as(server, host)[0] == 200
        assert ask_as(server, "127.0.0.2", address="127.0.0.2")[0] == 200  # asked at that address
        for host in ("elsewhere.example", "127.0.0.2", "10.0.0.1"):
            assert ask_as(server, host)[0] == 421
