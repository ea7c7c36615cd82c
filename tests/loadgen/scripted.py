"""A burst server that misbehaves on purpose: one script (a function) a connection.

A script gets a `Peer` and does what a server under test must never do: answer
early, late, short, too long, not at all, or vanish at byte k.  It counts what
it received, so that tests can compare both ends byte for byte.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loadgen.net.targets import Target, resolve

ACK = b"A" * 32
DEADLINE_S = 20.0


class GoneError(Exception):
    """The client closed or reset the connection."""


class Peer:
    def __init__(self, sock: socket.socket, index: int, stop: threading.Event) -> None:
        self.sock = sock
        self.index = index
        self.stop = stop
        self.received = 0

    def read(self, count: int) -> None:
        """Exactly `count` bytes, or `GoneError`."""
        while count:
            count -= self._read_some(count)

    def _read_some(self, most: int) -> int:
        try:
            data = self.sock.recv(min(most, 1 << 16))
        except ConnectionError:
            raise GoneError from None
        if not data:
            raise GoneError
        self.received += len(data)
        return len(data)

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except ConnectionError:
            raise GoneError from None

    def drain(self) -> None:
        """Read, answer nothing, until the client goes."""
        while True:
            self._read_some(1 << 16)

    def finish(self) -> None:
        """End of stream for the client; what it still sends is read, so this is no reset."""
        self.sock.shutdown(socket.SHUT_WR)
        self.drain()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Script = Callable[[Peer], None]


@dataclass
class Server:
    target: Target
    peers: list[Peer] = field(default_factory=list)

    @property
    def received(self) -> int:
        return sum(peer.received for peer in self.peers)


@contextmanager
def serving(script: Script, host: str = "127.0.0.1") -> Iterator[Server]:
    """Run `script` for every connection; on exit wait until all of them have ended."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    stop = threading.Event()
    threads: list[threading.Thread] = []
    crashes: list[BaseException] = []

    def converse(peer: Peer) -> None:
        try:
            with peer.sock:
                script(peer)
        except GoneError:
            pass
        except BaseException as error:
            crashes.append(error)

    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(256)
        port = listener.getsockname()[1]
        server = Server(resolve(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"))

        def accept() -> None:
            while True:
                sock, _ = listener.accept()
                if stop.is_set():
                    sock.close()
                    return
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(DEADLINE_S)
                peer = Peer(sock, len(server.peers), stop)
                server.peers.append(peer)
                threads.append(threading.Thread(target=converse, args=(peer,)))
                threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server
        finally:
            stop.set()
            with socket.socket(family) as knock:
                knock.connect((host, port))
                acceptor.join(DEADLINE_S)
            for thread in threads:
                thread.join(DEADLINE_S)
    assert not crashes, crashes
    assert not any(thread.is_alive() for thread in threads)


def acknowledging(burst_bytes: int, bursts: int | None = None, ack: bytes = ACK) -> Script:
    """A proper server; with `bursts`, one that falls silent after that many ACKs."""

    def script(peer: Peer) -> None:
        done = 0
        while bursts is None or done < bursts:
            peer.read(burst_bytes)
            peer.send(ack)
            done += 1
        peer.drain()

    return script
