"""An HTTP server that misbehaves as its request says, and keeps a log of what it did.

A process of its own (`python -m tests.loadgen.fault_server`), so that its delays are
its own and not those of the load generator's interpreter; a thread a connection.
The path chooses the behaviour:

    /TOKEN/FAULT/ARGUMENT      ARGUMENT is a number, 0 if it is left out
    /log/TOKEN                 what was done under TOKEN, as JSON (`Log`)

It prints one line, its port, and ends with its standard input.  Every good reply
has the body `BODY`.  `FAULTS` is the whole list; each says in a line what it does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.net.targets import Target, resolve

BODY = b"0123456789" * 4 + b"01234567"
"""48 bytes, so that the head and one byte more are as long as the head's end and the body."""

PIECE = b"HTTP/1.1 200 OK\r\nServer: fault\r\nContent-Length: 48\r\n\r\n" + BODY
CHUNKS = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"8\r\n01\r\n\r\n67\r\n28;a=b\r\n" + BODY[:40] + b"\r\n0\r\nTrailer: x\r\n\r\n"
)
# The settings frame with which a server begins to speak HTTP/2.
HTTP2 = bytes.fromhex("00000604000000000000030000006400000408000000000000010000")

DELAYS_S = (0.0, 0.001, 0.003, 0.01, 0.03)

STALL_S, PERIOD_S = 0.2, 1.0

PAUSE_S = 0.001
"""Between two pieces, so that they arrive as two."""

LONG_BYTES = 1 << 20


class GoneError(Exception):
    """The client has left."""


class Gate:
    """Open, but for 200 ms of every second; it logs when it really was shut."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.shut_ns: list[tuple[int, int]] = []

    def run(self) -> None:
        begin_s = time.monotonic()
        for number in itertools.count(1):
            time.sleep(max(0.0, begin_s + number * PERIOD_S - time.monotonic()))
            self.opened.clear()
            shut_ns = time.monotonic_ns()
            time.sleep(STALL_S)
            self.shut_ns.append((shut_ns, time.monotonic_ns()))
            self.opened.set()


class Peer:
    """One connection."""

    def __init__(self, sock: socket.socket, gate: Gate) -> None:
        self.sock = sock
        self.gate = gate
        self.port = sock.getpeername()[1]
        self.requests = 0
        self.unread = 0  # bytes of the request's body
        self.asked_to_close = False
        self.replied_ns = 0
        self._buffer = b""

    def read_head(self) -> str:
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.asked_to_close = "Connection: close" in lines
        lengths = [line[15:] for line in lines if line.lower().startswith("content-length:")]
        self.unread = int(lengths[0]) if lengths else 0
        self.requests += 1
        self.replied_ns = 0
        return lines[0]

    def read_body(self) -> None:
        while len(self._buffer) < self.unread:
            self.unread -= len(self._buffer)
            self._buffer = b""
            self._fill()
        self._buffer, self.unread = self._buffer[self.unread :], 0

    def _fill(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise GoneError
        self._buffer += data

    def send(self, data: bytes) -> None:
        """The time before the first byte leaves is the reply's: no client can see it earlier."""
        self.replied_ns = self.replied_ns or time.monotonic_ns()
        self.sock.sendall(data)

    def send_apart(self, data: bytes, at: int) -> None:
        for piece in (data[:at], data[at:]):
            self.send(piece)
            time.sleep(PAUSE_S)

    def close(self) -> None:
        """In order: whatever was sent arrives."""
        self.sock.shutdown(socket.SHUT_WR)
        self.drain()

    def drain(self) -> None:
        while True:
            if not self.sock.recv(1 << 16):
                raise GoneError

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise GoneError


Fault = Callable[[Peer, int], None]

FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__.rstrip("_")] = function
    return function


def reply(status: str, body: bytes = BODY, headers: str = "", version: str = "1.1") -> bytes:
    head = f"HTTP/{version} {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@fault
def ok(peer: Peer, _: int) -> None:
    """As it should be."""
    peer.send(PIECE)


@fault
def fresh(peer: Peer, _: int) -> None:
    """A head that was never sent before."""
    peer.send(reply("200 OK", headers=f"X-Request-ID: {peer.port}-{peer.requests}\r\n"))


@fault
def delay(peer: Peer, number: int) -> None:
    """After the delay of that number in `DELAYS_S`."""
    time.sleep(DELAYS_S[number % len(DELAYS_S)])
    peer.send(PIECE)


@fault
def stall(peer: Peer, _: int) -> None:
    """Nothing while the gate is shut."""
    peer.gate.opened.wait()
    peer.send(PIECE)


@fault
def status(peer: Peer, number: int) -> None:
    peer.send(reply(f"{number} Something", b"" if number in (204, 304) else BODY))


@fault
def bare(peer: Peer, number: int) -> None:
    """A status that has no body and no length."""
    peer.send(f"HTTP/1.1 {number} Something\r\n\r\n".encode())


@fault
def shed(peer: Peer, _: int) -> None:
    """503, and the end of the connection."""
    peer.send(reply("503 Busy", headers="Connection: close\r\n"))
    peer.close()


@fault
def length(peer: Peer, number: int) -> None:
    """A body of another length, well framed."""
    peer.send(reply("200 OK", b"x" * number))


@fault
def beyond(peer: Peer, number: int) -> None:
    """More bytes than announced, at once or a little later."""
    peer.send_apart(PIECE + b"spare", len(PIECE) if number else len(PIECE) + 5)


@fault
def close_at(peer: Peer, at: int) -> None:
    peer.send(PIECE[:at])
    peer.close()


@fault
def reset_at(peer: Peer, at: int) -> None:
    peer.send(PIECE[:at])
    peer.reset()


@fault
def close_chunks_at(peer: Peer, at: int) -> None:
    peer.send(CHUNKS[:at])
    peer.close()


@fault
def split(peer: Peer, at: int) -> None:
    peer.send_apart(PIECE, at % len(PIECE))


@fault
def chunks(peer: Peer, at: int) -> None:
    peer.send_apart(CHUNKS, at % len(CHUNKS))


@fault
def split_long(peer: Peer, at: int) -> None:
    peer.send_apart(reply("200 OK", BODY * 4), at)


@fault
def trickle(peer: Peer, _: int) -> None:
    for number in range(len(PIECE)):
        peer.send(PIECE[number : number + 1])


@fault
def long(peer: Peer, _: int) -> None:
    peer.send(reply("200 OK", bytes(LONG_BYTES)))


@fault
def until_close(peer: Peer, at: int) -> None:
    """HTTP/1.0 without a length: the end of the connection ends the reply."""
    peer.send_apart(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n" + BODY, at)
    peer.close()


@fault
def old(peer: Peer, _: int) -> None:
    """HTTP/1.0 that keeps the connection."""
    peer.send(reply("200 OK", headers="Connection: Keep-Alive\r\n", version="1.0"))


@fault
def early(peer: Peer, _: int) -> None:
    """413 before the body has come, and a reset when more of it comes."""
    peer.unread = 0
    peer.send(reply("413 Too Large", headers="Connection: close\r\n"))
    raise GoneError


@fault
def turn_away(peer: Peer, _: int) -> None:
    """503 at once; what has come of the body is never read, so a reset follows the reply."""
    peer.unread = 0
    peer.send(reply("503 Busy", headers="Connection: close\r\n"))
    raise GoneError


@fault
def thrifty(peer: Peer, _: int) -> None:
    """A long 200 as soon as the head is here, and not a byte of the body is read before it went."""
    peer.send(reply("200 OK", bytes(LONG_BYTES * 16)))


@fault
def hasty(peer: Peer, _: int) -> None:
    """200 before the body has come, all of which is read afterwards."""
    peer.send(PIECE)


@fault
def continues(peer: Peer, _: int) -> None:
    """Two interim replies before the reply, the second joined to it."""
    peer.send_apart(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PIECE, 25
    )


@fault
def head(peer: Peer, at: int) -> None:
    """The head of a reply, as to HEAD."""
    peer.send_apart(PIECE[: -len(BODY)], at)


@fault
def flood(peer: Peer, number: int) -> None:
    """Chunks of empty lines, or of a byte each, as fast as they are read."""
    body = b"\r\n" * (1 << 17)
    chunks = b"%x\r\n%s\r\n" % (len(body), body) if number else b"1\r\nx\r\n" * 10_000
    peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        peer.send(chunks)


@fault
def garbage(peer: Peer, number: int) -> None:
    peer.send(
        (
            b"\x16\x03\x01\x02\x00\x01\x00", HTTP2, b"HTTP/2 200\r\n\r\n", b"SSH-2.0-x\r\n",
            b"HTTP/1.1 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
            b"HTTP/1.1 200 OK\nContent-Length: 48\n\n" + BODY,
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        )[number]
    )  # fmt: skip
    peer.drain()


GARBAGE = 13


@fault
def silent(peer: Peer, _: int) -> None:
    peer.drain()


@fault
def half(peer: Peer, at: int) -> None:
    """The first bytes of a reply, and never the rest."""
    peer.send(PIECE[:at])
    peer.drain()


@fault
def deaf(peer: Peer, _: int) -> None:
    """Does not even read, until it is told to end."""
    time.sleep(2.0)
    raise GoneError


@fault
def obey(peer: Peer, _: int) -> None:
    """Closes after its reply if it was asked to, and says so in it."""
    peer.send(reply("200 OK", headers="Connection: close\r\n" if peer.asked_to_close else ""))
    if peer.asked_to_close:
        peer.close()


@fault
def drop(peer: Peer, number: int) -> None:
    """Closes after so many requests without a word."""
    peer.send(PIECE)
    if peer.requests >= number:
        peer.close()


@fault
def leave(peer: Peer, number: int) -> None:
    """Closes after so many requests, and says so."""
    last = peer.requests >= number
    peer.send(reply("200 OK", headers="Connection: close\r\n" if last else ""))
    if last:
        peer.close()


@dataclass
class Log:
    """What was done under one token: (path, port of the client, received_ns, replied_ns)."""

    requests: list[tuple[str, int, int, int]]
    shut_ns: list[tuple[int, int]]
    """When the gate was shut, for all tokens."""


class Serving:
    def __init__(self) -> None:
        self.gate = Gate()
        self.logs: defaultdict[str, list[list[Any]]] = defaultdict(list)

    def converse(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with sock:
                peer = Peer(sock, self.gate)
                while True:
                    self.answer(peer)
        except (GoneError, OSError):
            pass

    def answer(self, peer: Peer) -> None:
        path = peer.read_head().split()[1]
        received_ns = time.monotonic_ns()
        token, name, *argument = [*path[1:].split("/"), ""]
        if token == "log":
            peer.send(reply("200 OK", json.dumps([self.logs[name], self.gate.shut_ns]).encode()))
            return
        if name not in FAULTS:
            peer.send(reply("404 Not Found"))
            return
        entry = [path, peer.port, received_ns, 0]
        self.logs[token].append(entry)
        if name not in ("early", "turn_away", "thrifty", "deaf", "hasty"):
            peer.read_body()
        try:
            FAULTS[name](peer, int(argument[0] or 0))
        finally:
            entry[3] = peer.replied_ns
        peer.read_body()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    listener = socket.create_server(("127.0.0.1", parser.parse_args().port), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    serving = Serving()
    threading.Thread(target=serving.gate.run, daemon=True).start()

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serving.converse, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # threads may sleep on


# For tests


@dataclass
class FaultServer:
    """The process, seen from a test."""

    process: subprocess.Popen[str]
    port: int
    tokens: Iterator[int]

    @property
    def target(self) -> Target:
        return resolve(f"127.0.0.1:{self.port}")

    def token(self) -> str:
        return f"t{next(self.tokens)}"

    def log(self, token: str) -> Log:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/log/{token}") as answer:
            requests, shut_ns = json.load(answer)
        return Log([tuple(r) for r in requests], [tuple(pair) for pair in shut_ns])


@contextmanager
def fault_server(port: int = 0) -> Iterator[FaultServer]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.loadgen.fault_server", "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        try:
            assert process.stdout is not None
            yield FaultServer(process, int(process.stdout.readline()), itertools.count())
        finally:
            process.kill()


if __name__ == "__main__":
    main()
