"""The service `web` under every architecture: what it is asked, and how it is treated badly."""

from __future__ import annotations

import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, cycle, islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers.services.web import Web
from tests.conformance.server import (
    DEADLINE_S,
    SCRIPT,
    Server,
    in_flight,
    read_exactly,
    read_to_end,
    reset,
)
from tests.conformance.test_command_line import assert_refused
from tests.servers.test_web_session import ENDINGS, STAYING
from tests.servers.web import Client, Reply, get, replies, web

SMALL = bytes(range(256)) * 4
MEDIUM = bytes(range(255, -1, -1)) * 200
LARGE = bytes(range(256)) * 12_000

LIMITS = {"max_header": 200, "max_body": 50}
"""Those with which `ENDINGS` end."""

SPEED = ("--compute-loops-per-us", "5")
"""The same work everywhere, and no time spent on measuring."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    (directory / "small").write_bytes(SMALL)
    (directory / "medium").write_bytes(MEDIUM)
    (directory / "large").write_bytes(LARGE)
    return directory


def serving(variant: tuple[str, ...]) -> tuple[str, ...]:
    """A variant for this service.  How soon requests are turned away is not its business here."""
    variant = tuple(option.replace("acknowledge=2", "parse=2,read_file=4") for option in variant)
    return (*variant, "--no-admission-controller") if variant[0] == "seda" else variant


@pytest.fixture(scope="module")
def server(variant: tuple[str, ...], root: Path) -> Iterator[Server]:
    """One server for all the tests that do it no harm; small limits, and two doors more."""
    with Server(
        *serving(variant), *SPEED, "--service", "faulty", "--docroot", str(root),
        "--max-header", str(LIMITS["max_header"]), "--max-body", str(LIMITS["max_body"]),
        program=SCRIPT,
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def harsh(variant: tuple[str, ...], root: Path) -> Iterator[Server]:
    """A server without patience, whose disk has failed."""
    with Server(
        *serving(variant), *SPEED, "--service", "web", "--docroot", str(root),
        "--header-timeout", "0.3", "--body-timeout", "0.3", "--body-min-rate", "1000",
        "--disk-faults", "1.0",
    ) as running:  # fmt: skip
        yield running


def read_reply(sock: socket.socket, method: str = "GET") -> Reply | None:
    """The next reply; None at the end of the connection.  Half a reply is an error."""
    head = bytearray()
    try:
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := sock.recv(1)):
                assert not head, f"the connection ended within a head: {head!r}"
                return None
            head += byte
        length = int(bytes(head).partition(b"Content-Length: ")[2].split(b"\r\n")[0])
        body = b"" if method == "HEAD" else read_exactly(sock, length)
        assert len(body) == (0 if method == "HEAD" else length), "half a body"
    except ConnectionError:
        assert not head, f"the connection broke within a reply: {bytes(head)!r}"
        raise
    (reply,) = replies(bytes(head) + body, [method])
    return reply


def ask(sock: socket.socket, path: str, *headers: str, method: str = "GET") -> Reply:
    sock.sendall(get(path, *headers, method=method))
    reply = read_reply(sock, method)
    assert reply is not None
    return reply


def is_fine(sock: socket.socket) -> bool:
    reply = ask(sock, "/healthz")
    return (reply.status, reply.body) == (200, b"ok\n")


def same(stream: bytes) -> list[object]:
    """Replies without their dates, which may differ by a second."""
    return [
        (reply.status, reply.body, {k: v for k, v in reply.headers.items() if k != "Date"})
        for reply in replies(stream)
    ]


# Requests, good and bad


ALONE: Web = web(**LIMITS)
"""The service by itself: what no architecture may change."""


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(list(STAYING)), max_size=5),
    st.sampled_from([b"", *ENDINGS]),
    st.data(),
)
def test_any_requests_in_any_chunks_are_answered_as_by_the_service_alone(
    server: Server, before: list[bytes], ending: bytes, data: st.DataObject
) -> None:
    stream = b"".join(before) + ending
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    with server.connect() as sock:
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            sock.sendall(stream[start:end])
        sock.shutdown(socket.SHUT_WR)
        assert same(read_to_end(sock)) == same(Client(ALONE).send(*([stream] if stream else [])))


def test_a_byte_at_a_time(server: Server) -> None:
    stream = get("/small") + get("/missing") + get("/healthz", "Connection: close")
    with server.connect() as sock:
        for byte in stream:
            sock.sendall(bytes([byte]))
        found = replies(read_to_end(sock))
    assert [reply.status for reply in found] == [200, 404, 200]
    assert found[0].body == SMALL


def test_a_hundred_pipelined_requests_get_a_hundred_whole_replies_in_order(server: Server) -> None:
    paths = ["/small", "/medium", "/missing", "/compute?us=20", "/raise", "/healthz", "/%zz"]
    wanted = [
        (200, SMALL), (200, MEDIUM), (404, b"404 Not Found\n"),
        (200, b'{"us": 20, "loops": 100}\n'), (500, b"500 Internal Server Error\n"),
        (200, b"ok\n"), (400, b"400 Bad Request\n"),
    ]  # fmt: skip
    stream = b"".join(get(path) for path in islice(cycle(paths), 100))
    with server.connect() as sock:
        sock.sendall(stream)
        for number in range(100):
            reply = read_reply(sock)
            assert reply is not None
            assert (reply.status, reply.body) == wanted[number % len(paths)]
        assert is_fine(sock)


def test_head_and_conditions(server: Server) -> None:
    with server.connect() as sock:
        full = ask(sock, "/large")
        assert full.body == LARGE
        head = ask(sock, "/large", method="HEAD")
        assert head.headers | {"Date": ""} == full.headers | {"Date": ""}
    for header, value in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
        condition = f"{header}: {full.headers[value]}"
        with server.connect() as sock:
            sock.sendall(get("/large", condition) + get("/healthz", "Connection: close"))
            unchanged, _, rest = read_to_end(sock).partition(b"\r\n\r\n")
        assert unchanged.startswith(b"HTTP/1.1 304 ")
        assert [reply.status for reply in replies(rest)] == [200]


def test_the_landing_page_names_the_architecture_and_its_statistics(server: Server) -> None:
    with server.connect() as sock:
        page = ask(sock, "/").body.decode()
    assert server.announcement["architecture"] in page
    assert f"http://{server.host}:{server.admin_port}/stats" in page


def test_stats_tell_the_truth(server: Server) -> None:
    before = server.rest()
    with server.connect() as sock:
        for path in ("/small", "/small", "/missing", "/compute?us=7", "/raise"):
            ask(sock, path)
    after = server.rest()
    for key in ("requests", "replies"):
        assert after[key] - before[key] == 5
    assert after["rejected"] == 0
    assert after["errors"]["handler"] - before["errors"]["handler"] == 1
    mine, earlier = after["service_stats"], before["service_stats"]
    assert mine["computed_us"] - earlier["computed_us"] == 7
    for status in ("404", "500"):
        assert mine["refused"][status] - earlier["refused"].get(status, 0) == 1
    assert mine["cache"]["hits"] - earlier["cache"]["hits"] in (1, 2)


# Faults


def test_a_step_that_raises_is_a_500_and_the_connection_stays(server: Server) -> None:
    before = server.stats()["errors"]["handler"]
    with server.connect() as sock:
        for _ in range(3):
            assert ask(sock, "/raise").status == 500
            assert is_fine(sock)
        sock.sendall(get("/raise", "Connection: close"))
        (reply,) = replies(read_to_end(sock))
        assert reply.status == 500
    assert server.stats()["errors"]["handler"] == before + 4


def test_a_file_removed_between_lookup_and_read_is_not_found(server: Server, root: Path) -> None:
    with server.connect() as sock:
        for number in range(3):
            (root / f"vanishing{number}").write_bytes(b"now you see it")
            assert ask(sock, f"/vanishing{number}").status == 404
            assert not (root / f"vanishing{number}").exists()
        assert is_fine(sock)


def test_a_file_removed_while_it_is_in_the_cache_is_still_there(server: Server, root: Path) -> None:
    with server.connect() as sock:
        (root / "kept").write_bytes(b"kept")
        assert ask(sock, "/kept").body == b"kept"
        (root / "kept").unlink()
        assert ask(sock, "/kept").body == b"kept"


def test_a_disk_that_fails_is_a_500_and_everything_else_goes_on(harsh: Server) -> None:
    before = harsh.stats()["service_stats"]["disk"]["errors"]
    with harsh.connect() as sock:
        sock.sendall((get("/small") + get("/healthz")) * 5)
        found = [read_reply(sock) for _ in range(10)]
    assert [reply and reply.status for reply in found] == [500, 200] * 5
    stats = harsh.rest()
    assert stats["service_stats"]["disk"]["errors"] == before + 5
    assert stats["errors"]["handler"] == 0  # it is no fault of a step


# Clients that misbehave


def test_who_sends_a_head_byte_by_byte_is_told_408_and_others_are_served(harsh: Server) -> None:
    before = harsh.rest()["errors"]["slow"]
    head = cycle(get("/healthz", *["A: b"] * 20)[:-2])
    with harsh.connect() as busy, harsh.connect() as slow, harsh.connect() as stuck:
        stuck.sendall(get("/healthz") + b"GET /")
        assert read_reply(stuck) is not None
        poll = select.poll()
        poll.register(slow, select.POLLIN)
        deadline_s = time.monotonic() + DEADLINE_S
        served = 0
        while not poll.poll(10):
            assert time.monotonic() < deadline_s, "it may go on for ever"
            slow.sendall(bytes([next(head)]))
            assert is_fine(busy)
            served += 1
        for sock in (slow, stuck):
            (reply,) = replies(read_to_end(sock))
            assert (reply.status, reply.headers["Connection"]) == (408, "close")
        assert served
        assert is_fine(busy)
    assert harsh.rest()["errors"]["slow"] == before + 2


TRICKLES = {
    "a body": get("/", "Content-Length: 60000", method="POST"),
    "a chunk": get("/", "Transfer-Encoding: chunked", method="POST") + b"ea60\r\n",
    "chunks": get("/", "Transfer-Encoding: chunked", method="POST"),
    "trailers": get("/", "Transfer-Encoding: chunked", method="POST") + b"0\r\n",
    "empty lines": get("/healthz"),
}
MORE = {"chunks": b"1\r\nx\r\n", "trailers": b"A: b\r\n", "empty lines": b"\r\n"}


def test_who_sends_the_rest_of_a_request_byte_by_byte_is_told_408(harsh: Server) -> None:
    before = harsh.rest()["errors"]["slow"]
    with ExitStack() as stack:
        busy = stack.enter_context(harsh.connect())
        slow = {}
        poll = select.poll()
        for name, begun in TRICKLES.items():
            sock = stack.enter_context(harsh.connect())
            sock.sendall(begun)
            if name == "empty lines":
                assert read_reply(sock) is not None
            poll.register(sock, select.POLLIN)
            slow[sock.fileno()] = sock, cycle(MORE.get(name, b"x"))
        deadline_s = time.monotonic() + DEADLINE_S
        while slow:
            assert time.monotonic() < deadline_s, "it may go on for ever"
            for descriptor, _ in poll.poll(10):
                poll.unregister(descriptor)
                (reply,) = replies(read_to_end(slow.pop(descriptor)[0]))
                assert (reply.status, reply.headers["Connection"]) == (408, "close")
            for sock, more in slow.values():
                sock.sendall(bytes([next(more)]))
            assert is_fine(busy)
    assert harsh.rest()["errors"]["slow"] == before + len(TRICKLES)


def test_a_body_that_comes_fast_enough_may_take_longer_than_its_time(harsh: Server) -> None:
    before = harsh.rest()["errors"]["slow"]
    body = bytes(60_000)  # which gives it a minute
    with harsh.connect() as slow, harsh.connect() as marker:
        slow.sendall(get("/", f"Content-Length: {len(body)}", method="POST") + body[:-1])
        marker.sendall(get("/", "Content-Length: 9", method="POST") + b"half")
        (reply,) = replies(read_to_end(marker))  # so that the time is over
        assert reply.status == 408
        slow.sendall(body[-1:])
        answer = read_reply(slow)
        assert answer is not None
        assert answer.status == 405
    assert harsh.rest()["errors"]["slow"] == before + 1


def test_a_connection_that_has_begun_no_request_has_no_deadline(harsh: Server) -> None:
    with harsh.connect() as idle, harsh.connect() as late, harsh.connect() as slow:
        assert is_fine(idle)
        late.sendall(b"\r\n")
        slow.sendall(b"GET / HTTP/1.1\r\n")
        (reply,) = replies(read_to_end(slow))  # so that the time is over for who has begun
        assert reply.status == 408
        assert is_fine(idle)
        assert is_fine(late)


def test_a_slow_reader_gets_a_large_file_whole_while_others_are_served(server: Server) -> None:
    with server.connect(receive_buffer=16_384) as slow, server.connect() as busy:
        slow.sendall(get("/large") + get("/small") + get("/large", "Connection: close"))
        data = bytearray()
        for turn in count():
            if turn % 20 == 0:
                assert is_fine(busy)
            if not (more := slow.recv(50_000)):
                break
            data += more
        assert [reply.body for reply in replies(bytes(data))] == [LARGE, SMALL, LARGE]


STATES = {
    "connected": (b"", 0),
    "within a line": (b"GET /sm", 0),
    "within a head": (get("/small")[:-3], 0),
    "within a body": (get("/", "Content-Length: 9", method="POST") + b"half", 0),
    "asked": (get("/small"), 0),
    "asked for work": (get("/compute?us=20000"), 0),
    "within a reply": (get("/large"), 5000),
    "within a pipeline": ((get("/large") + get("/small") + get("/raise")) * 10, 50_000),
    "answered": (get("/healthz"), len(b"HTTP/1.1 200 OK\r\n")),
    "answered for the last time": (get("/healthz", "Connection: close"), 10),
    "refused": (b"nonsense\r\n\r\n", 10),
}


@pytest.mark.parametrize("state", STATES)
def test_a_reset_at_any_time_costs_its_own_connection_only(server: Server, state: str) -> None:
    sent, received = STATES[state]
    server.rest()
    with server.connect() as bystander:
        assert is_fine(bystander)
        before = server.stats()
        for _ in range(5):
            victim = server.connect()
            victim.sendall(sent)
            assert len(read_exactly(victim, received)) == received
            reset(victim)
            assert is_fine(bystander)
        after = server.wait_for(
            lambda stats: (
                stats["connections"]["now"] == 1
                and stats["connections"]["accepted"] == before["connections"]["accepted"] + 5
                and not in_flight(stats)
            )
        )
    failed = {kind for kind, n in after["errors"].items() if n > before["errors"][kind]}
    assert failed <= {"reset", "handler"}  # "/raise" is in the pipeline


def test_what_is_begun_for_a_connection_that_ends_is_abandoned(server: Server) -> None:
    before = server.rest()
    with server.connect() as bystander:
        for _ in range(5):
            victim = server.connect()
            victim.sendall(get("/compute?us=3000") * 5)
            assert is_fine(bystander)
            reset(victim)
        assert is_fine(bystander)
    after = server.rest()
    gained = {key: after[key] - before[key] for key in ("requests", "replies", "abandoned")}
    assert gained["requests"] == gained["replies"] + gained["abandoned"]
    assert gained["replies"] >= 6


def test_who_reads_slowly_for_longer_than_the_send_timeout_gets_everything(
    variant: tuple[str, ...], tmp_path: Path
) -> None:
    # The socket's buffer takes megabytes: it is long until the poller says that it has room.
    body = bytes(24 << 20)
    (tmp_path / "huge").write_bytes(body)
    send_timeout_s = 1.0
    with Server(
        *serving(variant), *SPEED, "--service", "web", "--docroot", str(tmp_path),
        "--send-timeout", str(send_timeout_s),
    ) as server:  # fmt: skip
        while True:
            before = server.rest()
            longest_pause_s = 0.0
            received = 0
            with server.connect(receive_buffer=16_384) as slow:
                slow.sendall(get("/huge", "Connection: close"))
                begun_s = looked_s = time.monotonic()
                while looked_s - begun_s < 2.5 * send_timeout_s:
                    received += len(slow.recv(4000))
                    time.sleep(0.02)  # that is what slow means
                    longest_pause_s = max(longest_pause_s, time.monotonic() - looked_s)
                    looked_s = time.monotonic()
                while more := len(slow.recv(1 << 20)):
                    received += more
            if longest_pause_s < send_timeout_s / 2:  # else this machine was slow, not we
                break
        assert received > len(body)
        after = server.rest()
        assert after["errors"] == before["errors"]
        assert after["replies"] == before["replies"] + 1


def test_thousands_of_idle_connections_are_kept_while_others_are_served(
    server: Server, variant: tuple[str, ...]
) -> None:
    number = 900 if "select" in variant else 2000  # what select() can watch, and some room
    with server.clients(number) as idle, server.connect() as busy:
        request = get("/healthz")
        for sock in idle:
            sock.sendall(request)
        size = len(busy_reply(busy))
        assert all(len(read_exactly(sock, size)) == size for sock in idle)
        for _ in range(50):
            reply = ask(busy, "/medium")
            assert (reply.status, reply.body) == (200, MEDIUM)
        assert server.stats()["connections"]["now"] == number + 1
        for sock in idle[::10]:
            assert is_fine(sock)


def busy_reply(sock: socket.socket) -> bytes:
    """The bytes of the reply to `/healthz`: as many for everybody."""
    sock.sendall(get("/healthz"))
    head = b""
    while not head.endswith(b"\r\n\r\nok\n"):
        head += sock.recv(1)
    return head


# Its end


def test_at_sigterm_every_request_that_got_a_reply_got_a_whole_one(
    variant: tuple[str, ...], root: Path
) -> None:
    counts: list[int] = []
    faults: list[BaseException] = []
    running = threading.Semaphore(0)

    def go_on(server: Server, path: str, body: bytes, depth: int) -> None:
        turns = 0
        try:
            with server.connect() as sock:
                while True:
                    sock.sendall(get(path) * depth)
                    for _ in range(depth):
                        if (reply := read_reply(sock)) is None:
                            return
                        assert (reply.status, reply.body) == (200, body)
                    turns += 1
                    if turns == 3:
                        running.release()
        except ConnectionError:  # between two replies: `read_reply` has seen to that
            pass
        except BaseException as error:
            faults.append(error)
        finally:
            counts.append(turns)
            running.release()

    with Server(
        *serving(variant), *SPEED, "--service", "web", "--docroot", str(root)
    ) as server:  # fmt: skip
        clients = [
            threading.Thread(target=go_on, args=(server, path, body, depth))
            for path, body, depth in (
                ("/small", SMALL, 1), ("/small", SMALL, 20), ("/medium", MEDIUM, 1),
                ("/medium", MEDIUM, 5), ("/large", LARGE, 1), ("/large", LARGE, 2),
            )
        ]  # fmt: skip
        for client in clients:
            client.start()
        for _ in clients:
            assert running.acquire(timeout=DEADLINE_S)
        server.signal(signal.SIGTERM)
        for client in clients:
            client.join(DEADLINE_S)
            assert not client.is_alive()
        server.wait()
    assert faults == []
    assert min(counts) >= 3


# Too much


SLOW_DISK = ("--cache-bytes", "0", "--disk-ms", "2", "--queue-capacity", "2", "--batch", "1")


def pipelined(server: Server, connections: int, requests: int) -> list[Reply]:
    """All the replies to so many requests for a file, on so many connections at once."""
    found: list[Reply] = []
    with server.clients(connections) as socks:
        for sock in socks:
            sock.sendall(get("/small") * (requests - 1) + get("/small", "Connection: close"))
        for sock in socks:
            mine = replies(read_to_end(sock))
            assert len(mine) == requests
            found += mine
    return found


@pytest.mark.parametrize("policy", ["auto", "reject", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("run", ["pools", "shared"])
def test_seda_sheds_where_a_queue_is_full_and_says_when_to_come_again(
    run: str, policy: str, root: Path
) -> None:
    with Server(
        "seda", "--run", run, "--queue-policy", policy, "--no-admission-controller", *SLOW_DISK,
        *SPEED, "--service", "web", "--docroot", str(root),
    ) as server:  # fmt: skip
        found = pipelined(server, connections=4, requests=20)
        stats = server.rest()
    served = [reply for reply in found if reply.status == 200]
    shed = [reply for reply in found if reply.status == 503]
    assert len(served) + len(shed) == 80
    assert all(reply.body == SMALL for reply in served)
    assert all(int(reply.headers["Retry-After"]) > 0 for reply in shed)
    assert served
    assert shed
    assert stats["requests"] == stats["replies"] == 80
    assert stats["rejected"] == len(shed) == stats["service_stats"]["refused"]["503"]
    assert sum(stage["dropped"] for stage in stats["stages"]) == len(shed)
    assert sum(stats["errors"].values()) == 0


@pytest.mark.parametrize(
    "options", [("pools", "--queue-policy", "block"), ("shared", "--queue-policy", "block"),
                ("shared", "--shared-threads", "3", "--queue-policy", "block"), ("direct",)],
    ids=" ".join,
)  # fmt: skip
def test_where_nothing_is_to_be_shed_everybody_waits_and_is_served(
    options: tuple[str, ...], root: Path
) -> None:
    with Server(
        "seda", "--run", *options, "--no-admission-controller", *SLOW_DISK, *SPEED,
        "--service", "web", "--docroot", str(root),
    ) as server:  # fmt: skip
        found = pipelined(server, connections=4, requests=20)
        stats = server.rest()
    assert [(reply.status, reply.body) for reply in found] == [(200, SMALL)] * 80
    assert stats["rejected"] == 0
    assert sum(stage["dropped"] for stage in stats["stages"]) == 0


def test_seda_sheds_at_the_entry_while_replies_take_too_long(root: Path) -> None:
    with Server(
        "seda", "--admission-target-ms", "5", "--cache-bytes", "0", "--disk-ms", "20", *SPEED,
        "--service", "web", "--docroot", str(root),
    ) as server:  # fmt: skip
        deadline_s = time.monotonic() + DEADLINE_S
        while not (shed := [r for r in pipelined(server, 8, 4) if r.status == 503]):
            assert time.monotonic() < deadline_s, server.stats()
        assert all(int(reply.headers["Retry-After"]) > 0 for reply in shed)
        stats = server.rest()
        assert stats["rejected"] == len(shed)
        assert stats["admission"]["target_ms"] == 5
        assert stats["admission"]["p90_ms"] > 5
        assert stats["admission"]["limit_per_s"] > 0
        decision = next(d for d in stats["decisions"] if d["controller"] == "admission")
        assert decision["stage"] == "read"
        assert "target 5 ms" in decision["reason"]
        assert all(stage["dropped"] == 0 for stage in stats["stages"])
        # Nobody asks any more; who comes next is not to suffer for it.
        server.wait_for(lambda stats: stats["admission"]["limit_per_s"] is None)
        with server.connect() as sock:
            assert is_fine(sock)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("eventloop --service web --port 0 --docroot /nowhere/at/all", "is not a directory"),
        ("threaded --service web --cache-bytes -1", "at least 0"),
        ("threaded --service web --disk-ms x", "'x' is not a number"),
        ("seda --service web --queue-policy lottery", "invalid choice: 'lottery'"),
        ("seda --service web --run fibers", "invalid choice: 'fibers'"),
        ("seda --service web --schedule random", "invalid choice: 'random'"),
        ("seda --service web --run shared --shared-threads 0", "at least 1"),
        ("seda --service web --run shared --shared-threads 100000", "at most 1000"),
        ("eventloop --service web --disk-faults 5", "at most 1"),
        ("seda --service web --port 0 --queue-capacity 4 --batch 5", "less than its batch of 5"),
        ("seda --service web --port 0 --threads read_fil=2", "there is no stage 'read_fil'"),
        ("seda --service web --pid-controller", "unrecognized arguments: --pid-controller"),
        ("seda --service web --admission-target-ms 0", "at least 0.1"),
        ("seda --service web --port 0 --trace /nowhere/trace", "cannot write the trace"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(arguments: str, says: str) -> None:
    assert_refused(*arguments.split(), says=says)


# Real clients


def run_client(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def url(harsh: Server) -> str:
    """Of a page that needs no disk, with limits that suit any client."""
    return f"http://{harsh.host}:{harsh.port}/healthz"


def test_curl_gets_files_whole(server: Server, tmp_path: Path) -> None:
    base = f"http://{server.host}:{server.port}"
    files = {"small": SMALL, "large": LARGE, "medium": MEDIUM}
    out: list[str] = []
    for name in files:
        out += ["-o", str(tmp_path / name), f"{base}/{name}"]
    run_client("curl", "-sS", "--fail", "--max-time", "20", *out)  # on one connection
    for name, body in files.items():
        assert (tmp_path / name).read_bytes() == body
    for options in ([], ["--http1.0"], ["-H", "Connection: close"]):
        assert run_client("curl", "-sS", "--max-time", "20", *options, f"{base}/healthz") == "ok\n"
    assert "Content-Length: 3072000" in run_client("curl", "-sSI", f"{base}/large")
    code = ["-o", str(tmp_path / "body"), "-w", "%{http_code}"]
    assert run_client("curl", "-sS", *code, f"{base}/missing") == "404"
    assert run_client("curl", "-sS", *code, "-d", "a=b", f"{base}/small") == "405"
    upload = ["-T", str(tmp_path / "large"), f"{base}/x"]
    assert run_client("curl", "-sS", *code, *upload) == "405"  # it asks before it sends
    assert run_client("curl", "-sS", *code, "-H", "Expect:", *upload) == "413"


def test_ab_completes_without_an_error(url: str) -> None:
    for keep in ([], ["-k"]):
        said = run_client("ab", "-q", "-n", "400", "-c", "10", *keep, url)
        assert "Complete requests:      400" in said
        assert "Failed requests:        0" in said
        assert "Non-2xx" not in said


def test_wrk_completes_without_an_error(url: str) -> None:
    said = run_client("wrk", "-t", "1", "-c", "20", "-d", "1s", url)
    assert "requests in" in said
    assert "Socket errors" not in said
    assert "Non-2xx" not in said


def test_h2load_completes_without_an_error(url: str) -> None:
    said = run_client("h2load", "--h1", "-n", "400", "-c", "10", "-m", "4", url)
    assert "400 succeeded, 0 failed, 0 errored, 0 timeout" in said
