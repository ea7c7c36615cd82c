"""A server whose reply delays are known exactly: what a load generator is checked against.

    python -m sedabench.calibration.known_delays --log FILE
        [--delay-us N] [--stall-ms N] [--no-spin]

Every request gets a delay from a fixed table and is answered that long after it
arrived.  Two times are logged for each: when its bytes were seen, and when its
reply was about to be handed to the kernel.  Their difference, not the delay
that was intended, is the true latency: what this process does late is in it.

What is not in it: the two crossings of the loopback (a `send` of some
microseconds each) and the time until either side looks at its sockets.  A
client that measures well is therefore above the truth by 10 to 30 us, and
never below it.

The plan: one thread that never sleeps, an epoll asked without waiting, and a
heap of replies by the time at which they are due.  At 10,000 requests/s it is
busy for a sixth of its time, so a reply is rarely late by more than another
one takes.  With `--stall-ms` it does nothing at the beginning of every second.

Requests have no body and are not pipelined: the load generator sends the next
one after the reply.  One that says `Connection: close` (a probe, before the
load) is answered at once, and not logged.
"""

from __future__ import annotations

import gc
import heapq
import json
import os
import select
import signal
import socket
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadgen.interruption import INTERRUPTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLE_SIZE = 10_000
TABLE_SEED = 2001
LONGEST_US = 50_000.0
SECOND_NS = 1_000_000_000

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
LAST_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
END = b"\r\n\r\n"
BACKLOG = 4096


def delay_table() -> NDArray[np.int64]:
    """Delays in ns, shape (10000,), in the order in which they are drawn; always the same.

    97 of 100 are lognormal with a median of 1 ms, 3 of 100 a tail with a median
    of 12 ms, none above 50 ms.  The mean is 1.5 ms.
    """
    import numpy as np

    source = np.random.default_rng(TABLE_SEED)
    body = source.lognormal(np.log(1_000), 0.4, TABLE_SIZE)
    tail = source.lognormal(np.log(12_000), 0.6, TABLE_SIZE)
    delays_us = np.where(source.random(TABLE_SIZE) < 0.97, body, tail)
    return (np.minimum(delays_us, LONGEST_US) * 1_000).astype(np.int64)


def read_log(path: Path) -> NDArray[np.int64]:
    """What a server logged: shape (requests, 3), in the order in which requests arrived.

    Columns: arrival, reply (both on the clock of `time.monotonic_ns`) and the
    delay that was intended, all in ns.  A request without a reply has a 0.
    """
    import numpy as np

    return np.fromfile(path, np.int64).reshape(3, -1).T


class _Server:
    """Sockets, the heap of due replies, and the log."""

    def __init__(self, delays_ns: list[int], stall_ns: int, *, spin: bool) -> None:
        self.delays_ns = delays_ns
        self.stall_ns = stall_ns
        self.spin = spin
        self.epoll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.sockets: dict[int, socket.socket] = {}
        self.begun: dict[int, bytes] = {}
        self.due: list[tuple[int, int, int]] = []
        self.arrived, self.replied, self.intended = array("q"), array("q"), array("q")
        self.stopped = False

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def stop(self, *_: object) -> None:
        self.stopped = True

    def run(self) -> None:
        poll, clock, due, pop = self.epoll.poll, time.monotonic_ns, self.due, heapq.heappop
        replied, listener_fd = self.replied, self.listener.fileno()
        stall_ns, stalled_until_ns = self.stall_ns, clock()
        while not self.stopped:
            now = clock()
            if stall_ns and now >= stalled_until_ns:
                time.sleep(stall_ns / 1e9)
                stalled_until_ns += SECOND_NS
            while due and due[0][0] <= now:
                _, number, fd = pop(due)
                replied[number] = clock()
                self._send(fd, REPLY)
                now = clock()
            if not self.spin:
                self._wait(stalled_until_ns if stall_ns else now + SECOND_NS // 10)
            for fd, _event in poll(0, 32):
                if fd == listener_fd:
                    self._accept()
                else:
                    self._receive(fd, clock())

    def _wait(self, until_ns: int) -> None:
        if self.due:
            until_ns = min(until_ns, self.due[0][0])
        wait_s = (until_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            select.select([self.epoll], [], [], wait_s)

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:  # it has gone again
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets[sock.fileno()] = sock
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, fd: int, now: int) -> None:
        try:
            data = self.sockets[fd].recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(fd)
            return
        if fd in self.begun or not data.endswith(END):
            data = self.begun.pop(fd, b"") + data
            if not data.endswith(END):
                self.begun[fd] = data
                return
        if b"\r\nconnection: close\r\n" in data.lower():
            self._send(fd, LAST_REPLY)
            return
        number = len(self.arrived)
        delay_ns = self.delays_ns[number % len(self.delays_ns)]
        self.arrived.append(now)
        self.replied.append(0)
        self.intended.append(delay_ns)
        heapq.heappush(self.due, (now + delay_ns, number, fd))

    def _send(self, fd: int, reply: bytes) -> None:
        """A reply is smaller than any socket's buffer; who closed meanwhile gets none."""
        if (sock := self.sockets.get(fd)) is not None:
            try:
                sock.send(reply)
            except OSError:
                self._close(fd)

    def _close(self, fd: int) -> None:
        """Nobody else may be answered for it: its number can be another connection's soon."""
        self.sockets.pop(fd).close()
        self.begun.pop(fd, None)
        self.due[:] = [entry for entry in self.due if entry[2] != fd]
        heapq.heapify(self.due)

    def write_log(self, path: Path) -> None:
        with path.open("wb") as file:
            for column in (self.arrived, self.replied, self.intended):
                column.tofile(file)


@click.command(help=(__doc__ or "").split("\n", 1)[0])
@click.option("--log", type=click.Path(path_type=Path), required=True, help="Written at the end.")
@click.option("--delay-us", type=click.IntRange(0), help="One delay for all, not the table.")
@click.option("--stall-ms", type=click.IntRange(0, 999), default=0, help="Idle in each second.")
@click.option("--spin/--no-spin", default=True, help="Never sleep.  [default: spin]")
def main(log: Path, delay_us: int | None, stall_ms: int, spin: bool) -> None:
    delays_ns = delay_table().tolist() if delay_us is None else [delay_us * 1_000]
    server = _Server(delays_ns, stall_ms * 1_000_000, spin=spin)
    for number in INTERRUPTIONS:
        signal.signal(number, server.stop)
    gc.collect()
    gc.freeze()
    gc.disable()
    announcement = {"pid": os.getpid(), "host": "127.0.0.1", "port": server.port}
    print(json.dumps(announcement), flush=True)
    server.run()
    server.write_log(log)


if __name__ == "__main__":
    main()
