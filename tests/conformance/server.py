"""A real server process, and the few things that a client does to it.

Nothing here sleeps to let something happen: `Server.wait_for` asks the server
until what is awaited is so, and fails with what the server said last.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from servers.architecture import ARCHITECTURES

ROOT = Path(__file__).parents[2]

DEADLINE_S = 30.0
"""Nothing that is awaited takes so long, unless it never comes."""

OPTIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "threaded": ((), ("--writers", "2"), ("--writers", "4", "--blocking-writers")),
    "eventloop": ((), ("--poller", "poll"), ("--poller", "select")),
    "seda": (
        (),
        ("--threads", "accept=2,read=3,acknowledge=2,write=2"),
        ("--run", "shared"),
        ("--run", "shared", "--shared-threads", "3", "--schedule", "round_robin"),
        ("--run", "direct"),
    ),
}
"""The variants of each architecture that must behave alike; one without an entry has one."""

VARIANTS = [
    (architecture, *options)
    for architecture in ARCHITECTURES
    for options in OPTIONS.get(architecture, ((),))
]

BURST = "servers"
SCRIPT = "tests.conformance.script"
RAISED = "the service raised "
"""Modules that serve: the real one, and the one that knows the services for tests as well."""

Stats = dict[str, Any]


class Server:
    """`python -m servers ...` on free ports, from its announcement to its end.

    Used as a context manager it is stopped at the end of the block, and must
    then have exited with status 0 and nothing on standard error.
    """

    def __init__(
        self,
        *arguments: str,
        program: str = BURST,
        limits: Callable[[], None] | None = None,
        stderr: int | None = None,
    ) -> None:
        self.program = program
        # A file: a pipe could fill up, and then the server would wait for us.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, *arguments, "--port", "0", "--admin-port", "0"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=limits,
            stderr=self._stderr if stderr is None else stderr,
        )  # fmt: skip
        try:
            self.announcement = json.loads(self._first_line())
        except BaseException:
            self._reap()
            raise
        self.pid: int = self.announcement["pid"]
        self.host: str = self.announcement["host"]
        self.port: int = self.announcement["port"]
        self.admin_port: int = self.announcement["admin_port"]

    def _first_line(self) -> bytes:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        line = self.process.stdout.readline() if ready else b""
        assert line.endswith(b"\n"), f"no announcement; standard error: {self._errors()!r}"
        return line

    def _errors(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._reap()

    # Its life

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def exited(self) -> bool:
        return self.process.poll() is not None

    def wait_until_refusing(self) -> None:
        """Wait until nobody listens on its port any more."""
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline_s, "it still accepts connections"
            try:
                self.connect().close()
            except ConnectionRefusedError:
                return
            except ConnectionError:  # it was in the backlog that went
                pass

    def wait(self) -> None:
        """Wait for a server that was told to stop; it must do so in order, and quietly."""
        try:
            status = self.process.wait(DEADLINE_S)
            said = self._errors()
        finally:
            self._reap()
        if self.program == SCRIPT:  # what its services raise on purpose is told
            said = "".join(line for line in said.splitlines() if not line.startswith(RAISED))
        assert (status, said) == (0, ""), f"exit status {status}; standard error: {said}"

    def stop(self) -> None:
        if self._stderr.closed:  # already waited for
            return
        self.signal()
        self.wait()

    def _reap(self) -> None:
        if self._stderr.closed:
            return
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()

    # What it tells

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and body of a page of the admin port."""
        connection = http.client.HTTPConnection(self.host, self.admin_port, timeout=DEADLINE_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
        finally:
            connection.close()

    def stats(self) -> Stats:
        status, _, body = self.get("/stats")
        assert status == 200
        stats: Stats = json.loads(body)
        return stats

    def wait_for(self, what: Callable[[Stats], bool]) -> Stats:
        """The first statistics of which `what` is true."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not what(stats := self.stats()):
            assert time.monotonic() < deadline_s, f"it never came to be; at the end: {stats}"
        return stats

    def rest(self) -> Stats:
        """The statistics once no connection is open and nothing is in flight any more."""
        return self.wait_for(
            lambda stats: stats["connections"]["now"] == 0 and not in_flight(stats)
        )

    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def address_space_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGESIZE")

    def descriptors(self) -> set[int]:
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}  # noqa: PTH208

    # Its clients

    def connect(self, **options: int) -> socket.socket:
        """A new connection; `receive_buffer` makes its window small."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family)
        try:
            if "receive_buffer" in options:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receive_buffer"])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(DEADLINE_S)
            sock.connect((self.host, self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    @contextmanager
    def clients(self, number: int) -> Iterator[list[socket.socket]]:
        """So many connections at once."""
        socks: list[socket.socket] = []
        try:
            socks.extend(self.connect() for _ in range(number))
            yield socks
        finally:
            for sock in socks:
                sock.close()


def in_flight(stats: Stats) -> int:
    """Requests of which it is not known yet what becomes of them; 0 at rest."""
    number: int = stats["requests"] - stats["replies"] - stats["abandoned"]
    return number


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """The next `size` bytes, or what came of them before the end."""
    data = bytearray()
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    """Everything until the peer says that no more comes."""
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def closed_by_peer(sock: socket.socket) -> bool:
    """Waits for the connection's end, in order or not; False if data came instead."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def reset(sock: socket.socket) -> None:
    """Close the connection the way a crash does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
