"""Peers that ask and do not read, and floods of peers: they cost their own connections only."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from servers.listener import RESERVED_DESCRIPTORS
from tests.conformance.server import Server, in_flight, reset
from tests.conformance.test_web import ask, get, is_fine, read_reply, serving

LARGE = bytes(range(256)) * 40_000
MEDIUM = bytes(range(255, -1, -1)) * 200
"""200 of them are as much as the large one: more than the kernel's buffers take."""

FLOOD = 80
"""Connections at once, to a server with descriptors for fewer."""

WEB = ("--service", "web", "--compute-loops-per-us", "5")
FOREVER = ("--send-timeout", "600", "--idle-timeout", "600")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    (directory / "large").write_bytes(LARGE)
    (directory / "medium").write_bytes(MEDIUM)
    for number in range(FLOOD):
        (directory / str(number)).write_bytes(b"%d" % number * 5000)
    return directory


@pytest.fixture(scope="module")
def patient(variant: tuple[str, ...], root: Path) -> Iterator[Server]:
    """It closes no connection because its peer does not read."""
    with Server(*serving(variant), *WEB, *FOREVER, "--docroot", str(root)) as running:
        yield running


def test_peers_that_do_not_read_hold_up_nobody(patient: Server, variant: tuple[str, ...]) -> None:
    # The paper's pool keeps the promise as long as a writer is left.
    each = 1 if "--blocking-writers" in variant else 4
    with ExitStack() as stack:
        early = stack.enter_context(patient.connect())
        assert is_fine(early)
        before = patient.stats()
        ask_one = [stack.enter_context(patient.connect(receive_buffer=4096)) for _ in range(each)]
        ask_many = [stack.enter_context(patient.connect(receive_buffer=4096)) for _ in range(each)]
        for sock in ask_one:
            sock.sendall(get("/large"))
        for sock in ask_many:
            sock.sendall(get("/medium") * 200)
        patient.wait_for(lambda stats: stats["requests"] > before["requests"] + 2 * each)
        for sock in (early, stack.enter_context(patient.connect())):
            sock.settimeout(10)
            assert all(is_fine(sock) for _ in range(20))
        patient.stats()
        # Who reads after all has lost nothing; who leaves instead leaves nothing behind.
        for sock, bodies in ((ask_one[0], [LARGE]), (ask_many[0], [MEDIUM] * 200)):
            for body in bodies:
                reply = read_reply(sock)
                assert reply is not None
                assert reply.body == body
        for sock in (*ask_one[1:], *ask_many[1:]):
            reset(sock)
        assert is_fine(early)
    assert not in_flight(patient.rest())


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def test_a_flood_of_connections_leaves_those_that_are_served_their_descriptors(
    variant: tuple[str, ...], root: Path
) -> None:
    most = 64 - RESERVED_DESCRIPTORS
    with Server(*serving(variant), *WEB, "--docroot", str(root), limits=few_descriptors) as server:
        with server.clients(FLOOD) as socks:
            for number, sock in enumerate(socks):
                with suppress(ConnectionError):
                    sock.sendall(get(f"/{number}") + get(f"/{FLOOD - 1 - number}"))
            served = []
            for number, sock in enumerate(socks):
                with suppress(ConnectionError):
                    if (reply := read_reply(sock)) is not None:
                        second = read_reply(sock)
                        assert second is not None
                        assert (reply.status, reply.body) == (200, b"%d" % number * 5000)
                        assert second.body == b"%d" % (FLOOD - 1 - number) * 5000
                        served.append(sock)
            assert len(served) == most
            stats = server.stats()
            assert stats["connections"] == {
                "now": most, "accepted": most, "refused": FLOOD - most,
            }  # fmt: skip
            assert not any(stats["errors"].values())
            assert all(is_fine(sock) for sock in served)
        server.rest()
        with server.clients(most) as socks:
            for number, sock in enumerate(socks):
                assert ask(sock, f"/{number}").body == b"%d" % number * 5000
