"""Who may touch a connection of SEDA when, with the threads made to meet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from servers.connection import READABLE, WRITABLE
from servers.counters import Counters
from servers.seda.connections import StagedConnection
from servers.seda.kernel_queues import Readiness
from servers.seda.network import Network
from servers.service import Request, Session

DEADLINE_S = 30.0


class Slow(Session):
    """Stays inside `receive` until it is let go; knows whether it was alone there."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.chunks: list[bytes] = []
        self.idle_now = True

    def receive(self, data: memoryview) -> Sequence[Request]:
        self.chunks.append(bytes(data))
        self.entered.release()
        assert self.let_go.wait(DEADLINE_S)
        return ()

    @property
    def idle(self) -> bool:
        return self.idle_now


def nowhere(stage: str, events: Sequence[object]) -> Sequence[object]:
    """To dispatch: there is no other stage."""
    return ()


@contextmanager
def network(readers: int) -> Iterator[tuple[Network, StagedConnection, Slow, socket.socket]]:
    """A network of one connection, and the other end of it."""
    session = Slow()
    counters = Counters()
    readiness = Readiness(readers)
    built = Network(readiness, lambda *_: session, lambda: counters, 10, 1000, 1000)
    ours, theirs = socket.socketpair()
    connection = StagedConnection(ours, session, 0)
    readiness.add(connection)
    with ours, theirs:
        yield built, connection, session, theirs


@contextmanager
def thread(work: Callable[[], object]) -> Iterator[None]:
    running = threading.Thread(target=work)
    running.start()
    yield
    running.join(DEADLINE_S)
    assert not running.is_alive()


def test_a_connection_reported_to_two_readers_is_read_by_one() -> None:
    with network(readers=2) as (net, connection, session, client):
        client.sendall(b"first")
        early = net.readiness.take(10)
        assert early is not None
        # While that waits in the first reader's batch, the write stage wants to
        # know when the socket takes more, and so a second reader is told as well.
        with connection.lock:
            net.readiness.arm(connection, READABLE | WRITABLE)
        late = net.readiness.take(10)
        assert late is not None
        with thread(lambda: net.read(late, nowhere)):
            assert session.entered.acquire(timeout=DEADLINE_S)
            client.sendall(b"second")
            net.read(early, nowhere)  # does not wait inside the session
            assert session.chunks == [b"first"]
            session.let_go.set()
        # Nothing was lost: it is armed again, and the rest is there to be read.
        again = net.readiness.take(10)
        assert again is not None
        net.read(again, nowhere)
        assert session.chunks == [b"first", b"second"]


def test_an_old_report_does_not_read_what_is_not_to_be_read_now() -> None:
    with network(readers=2) as (net, connection, session, client):
        session.let_go.set()
        client.sendall(b"first")
        early = net.readiness.take(10)
        assert early is not None
        held = [Request(lambda request: None)]
        with connection.lock:
            connection.held = iter(held)
            net.readiness.arm(connection, WRITABLE)
        net.read(early, nowhere)
        assert session.chunks == []
        assert connection.held is not None
        assert list(connection.held) == held


@pytest.mark.parametrize("readers", [1, 2])
def test_shutdown_waits_for_a_connection_that_was_just_active(readers: int) -> None:
    with network(readers) as (net, connection, _, _client):
        connection.active = True
        net.retire(connection)
        assert not connection.closing
        connection.active = False
        net.retire(connection)
        assert connection.closing


def test_shutdown_waits_for_a_connection_within_a_request() -> None:
    with network(1) as (net, connection, session, _client):
        connection.active = False
        session.idle_now = False
        net.retire(connection)
        assert not connection.closing


def test_a_late_event_of_a_closed_descriptor_waits_until_the_next_owner_is_known() -> None:
    # A reader still has an event of a connection that is closed; a new one gets its
    # descriptor, and the reader finds it before the kernel knows what to watch.
    counters = Counters()
    readiness = Readiness(readers=2)
    built = Network(readiness, lambda *_: Slow(), lambda: counters, 10, 1000, 1000)
    ours, theirs = socket.socketpair()
    connection = StagedConnection(ours, Slow(), 0)
    kernel = readiness._epoll
    faults: list[Exception] = []

    def read() -> None:
        try:
            built.read([(readiness.connections[ours.fileno()], READABLE)], nowhere)
        except Exception as fault:
            faults.append(fault)

    late = threading.Thread(target=read)

    class Meeting:
        """The kernel, which gets to know of the connection only when the reader has come."""

        def __init__(self) -> None:
            self.modify = kernel.modify

        def register(self, descriptor: int, events: int) -> None:
            late.start()
            late.join(0.2)  # it ends in a fault, or it waits for us
            kernel.register(descriptor, events)

    readiness._epoll = Meeting()  # type: ignore[assignment]
    with ours, theirs:
        readiness.add(connection)
        late.join(DEADLINE_S)
        assert faults == []
        theirs.send(b"hello")
        assert kernel.poll(DEADLINE_S) == [(ours.fileno(), READABLE)]
