"""What an architecture promises a service (`servers.service`), kept by each of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.conformance.server import (
    SCRIPT,
    Server,
    closed_by_peer,
    in_flight,
    read_exactly,
    read_to_end,
    reset,
)


@pytest.fixture(scope="module")
def server(variant: tuple[str, ...]) -> Iterator[Server]:
    """Like the usual one, but with the service `script`."""
    options = tuple(option.replace("acknowledge=2", "begin=2,hop=2") for option in variant)
    with Server(*options, "--service", "script", program=SCRIPT) as running:
        yield running


def say(server: Server, *lines: str) -> bytes:
    """Everything that comes back for these lines, sent at once."""
    with server.connect() as sock:
        sock.sendall("".join(f"{line}\n" for line in lines).encode())
        sock.shutdown(1)
        return read_to_end(sock)


def test_steps_follow_one_another(server: Server) -> None:
    assert say(server, "echo one", "hop 1 two", "hop 50 three", "sleep 1 four") == (
        b"one\ntwo\nthree\nfour\n"
    )


def test_replies_leave_in_request_order_whichever_is_ready_first(server: Server) -> None:
    lines = [f"sleep {ms} {ms}" for ms in (60, 0, 30, 10, 20)]
    lines[2:2] = ["echo quick", "hop 9 hopped"]
    assert say(server, *lines) == b"60\n0\nquick\nhopped\n30\n10\n20\n"


def test_replies_of_many_connections_do_not_mix(server: Server) -> None:
    with server.clients(50) as socks:
        for number, sock in enumerate(socks):
            sock.sendall(f"hop 3 {number}\necho {number}!\nsleep 1 {number}?\n".encode())
        for number, sock in enumerate(socks):
            expected = f"{number}\n{number}!\n{number}?\n".encode()
            assert read_exactly(sock, len(expected)) == expected


def test_a_reply_of_many_buffers_arrives_whole(server: Server) -> None:
    expected = b"".join(bytes([65 + n % 26]) * 3000 for n in range(1000))
    assert say(server, "many 1000 3000", "echo end") == expected + b"end\n"
    assert say(server, "many 0 0", "many 3 0", "echo end") == b"end\n"


def test_a_step_that_raises_ends_its_connection_after_the_replies_before_it(
    server: Server,
) -> None:
    before = server.stats()["errors"]["handler"]
    assert say(server, "echo one", "hop 5 two", "raise", "echo three") == b"one\ntwo\n"
    assert say(server, "echo fine") == b"fine\n"
    assert server.rest()["errors"]["handler"] == before + 1


def test_a_service_may_answer_for_a_step_that_raised_and_go_on(server: Server) -> None:
    before = server.stats()["errors"]["handler"]
    assert say(server, "echo one", "sorry for that", "echo two") == b"one\nsorry for that\ntwo\n"
    assert server.rest()["errors"]["handler"] == before + 1


def test_a_service_that_fails_to_fail_costs_its_connection_only(server: Server) -> None:
    with server.connect() as bystander:
        before = server.stats()["errors"]["handler"]
        assert say(server, "echo one", "worse", "echo two") == b"one\n"
        bystander.sendall(b"echo fine\n")
        assert read_exactly(bystander, 5) == b"fine\n"
    assert server.rest()["errors"]["handler"] == before + 1


@pytest.mark.parametrize("reply", ["words that no socket takes", "bare b", "bare bytes"])
@pytest.mark.parametrize("before", [(), ("echo one", "hop 3 two")])
def test_a_reply_that_is_no_bytes_costs_its_connection_and_is_told(
    server: Server, reply: str, before: tuple[str, ...]
) -> None:
    with server.connect() as bystander, server.connect() as sock:
        errors = server.stats()["errors"]["handler"]
        sock.sendall("".join(f"{line}\n" for line in (*before, reply, "echo three")).encode())
        with suppress(ConnectionError):
            assert b"three" not in read_to_end(sock)
        bystander.sendall(b"echo fine\n")
        assert read_exactly(bystander, 5) == b"fine\n"
    stats = server.rest()
    assert stats["errors"]["handler"] == errors + 1
    assert stats["last_fault"].startswith("TypeError: ")


def test_what_a_step_raised_is_told_with_its_place(server: Server) -> None:
    say(server, "sorry for that")
    place = r"LookupError: sorry for that \(script\.py, line \d+, in begin\)"
    assert re.fullmatch(place, server.rest()["last_fault"])


def test_a_session_that_raises_costs_its_connection_only(server: Server) -> None:
    with server.connect() as bystander, server.connect() as sock:
        before = server.stats()["errors"]["protocol"]
        sock.sendall(b"garble\n")
        assert closed_by_peer(sock)
        bystander.sendall(b"echo fine\n")
        assert read_exactly(bystander, 5) == b"fine\n"
    assert server.rest()["errors"]["protocol"] == before + 1


def test_a_service_that_has_no_session_for_a_connection_costs_that_one(server: Server) -> None:
    before = server.rest()
    with server.connect() as bystander:
        bystander.sendall(b"broken 2\n")
        assert read_exactly(bystander, 2) == b"2\n"
        for _ in range(2):
            with server.connect() as sock:
                assert closed_by_peer(sock)
        assert say(server, "echo fine") == b"fine\n"
        bystander.sendall(b"echo fine\n")
        assert read_exactly(bystander, 5) == b"fine\n"
    after = server.rest()
    assert after["errors"]["protocol"] == before["errors"]["protocol"] + 2
    assert after["connections"]["refused"] == before["connections"]["refused"] + 2


@pytest.mark.parametrize("reader", ["slow", "gone"])
def test_standard_error_that_takes_nothing_stops_nobody(
    variant: tuple[str, ...], reader: str
) -> None:
    options = tuple(option.replace("acknowledge=2", "begin=2,hop=2") for option in variant)
    out_of, into = os.pipe()
    try:
        if reader == "slow":
            os.set_blocking(into, False)
            with suppress(BlockingIOError):
                while True:
                    os.write(into, bytes(4096))
            os.set_blocking(into, True)
        else:
            os.close(out_of)
        with Server(*options, "--service", "script", program=SCRIPT, stderr=into) as server:
            lines = [f"sorry {number}{'x' * 5000}" for number in range(5)]
            assert say(server, *lines, "echo fine").endswith(b"\nfine\n")
            assert server.rest()["errors"]["handler"] == 5
    finally:
        os.close(into)
        if reader == "slow":
            os.close(out_of)


def test_nothing_follows_a_last_reply(server: Server) -> None:
    before = server.rest()["replies"]
    assert say(server, "echo one", "last two", "echo three", "sleep 5 four") == b"one\ntwo\n"
    assert server.rest()["replies"] == before + 2


def test_a_last_reply_arrives_whole_although_the_client_sends_on(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"many 300 3000\nlast bye\n")
        reply = bytearray()
        while not reply.endswith(b"bye\n"):
            sock.sendall(b"echo more\n")
            more = sock.recv(1 << 16)
            assert more
            reply += more
        assert len(reply) == 900_000 + 4
        assert sock.recv(1) == b""


def test_a_client_that_stays_after_its_last_reply_is_left(server: Server) -> None:
    before = server.rest()["errors"]["linger"]
    with server.connect() as mute, server.connect() as chatty:
        for sock in (mute, chatty):
            sock.sendall(b"last bye\n")
            assert read_to_end(sock) == b"bye\n"
        chatty.settimeout(0.05)
        while server.stats()["connections"]["now"]:
            try:
                chatty.sendall(b"more\n")
            except ConnectionError:
                break
        assert server.rest()["errors"]["linger"] in (before + 1, before + 2)


def test_requests_that_a_connection_leaves_behind_are_abandoned(server: Server) -> None:
    before = server.rest()
    assert say(server, "echo one", "last two", "echo three", "echo four") == b"one\ntwo\n"
    after = server.rest()
    gained = {key: after[key] - before[key] for key in ("requests", "replies", "abandoned")}
    assert gained == {"requests": 4, "replies": 2, "abandoned": 2}


@pytest.mark.parametrize(
    "lines",
    [
        ["sleep 20 a"] * 5, ["hop 50 a"] * 300, ["many 300 3000"] * 20, ["echo a"] * 3000,
        ["echo a", "last b", "echo c"], ["echo a", "raise", "echo b"], ["echo a", "garble"],
        ["sleep 5 a", "worse", "many 1000 3000", "echo c"],
    ],
    ids=lambda lines: f"{len(lines)} x {lines[-1]}",
)  # fmt: skip
def test_every_request_is_answered_or_abandoned(server: Server, lines: list[str]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    before = server.rest()
    for received in (0, 0, 1, 5000):
        with server.connect() as sock:
            sock.sendall(data)
            with suppress(ConnectionError):
                sock.recv(received)
            reset(sock)
    accepted = before["connections"]["accepted"] + 4
    server.wait_for(
        lambda stats: (
            stats["connections"]["accepted"] == accepted
            and stats["connections"]["now"] == in_flight(stats) == 0
        )
    )


def test_one_session_is_never_in_two_threads_at_once(server: Server) -> None:
    # The session checks it.  Pipelining beyond what may be in flight at once
    # makes a connection stop, go on, and be armed again from other threads.
    lines = 2000
    before = server.rest()["errors"]["protocol"]
    expected = b"".join(b"%d\n" % number for number in range(lines))
    with server.clients(8) as socks:
        for _ in range(2):
            for sock in socks:
                sock.sendall(b"".join(b"echo %d\n" % number for number in range(lines)))
            for sock in socks:
                assert read_exactly(sock, len(expected)) == expected
    assert server.rest()["errors"]["protocol"] == before
