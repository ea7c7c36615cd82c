"""N connections to one target, opened at a bounded rate, failures counted by kind.

The rate is bounded because a burst of SYNs beyond the server's accept backlog
is dropped and retried after a second: one would then measure the kernel's
retransmission timer.  Every workload opens its connections here, and starts
only when all are up.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter, deque

from loadgen.net.targets import Target

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ECONNABORTED: "reset",
    errno.ETIMEDOUT: "timeout",
}


def error_kind(code: int | None) -> str:
    """`refused`, `reset`, `timeout`, or the errno's own name, such as `EHOSTUNREACH`."""
    code = code or 0
    return _KINDS.get(code) or errno.errorcode.get(code, f"errno {code}")


def ended_before(error: OSError) -> bool:
    """Sending failed: had the peer ended its side in order before it reset the connection?

    tcp_reset() says EPIPE then and ECONNRESET otherwise.  It matters to a reply that lasts until
    the connection ends.
    """
    return error.errno == errno.EPIPE


def open_connections(
    target: Target,
    count: int,
    *,
    rate: float,
    timeout_s: float,
    send_buffer_bytes: int = 0,
    failures: Counter[str],
) -> list[socket.socket]:
    """Open `count` nonblocking connections, at most `rate` a second.

    Returns those that came up, in the order in which they were begun, with
    TCP_NODELAY set; adds the others to `failures` by kind.  Waits at most
    `timeout_s` for each.
    """
    begun: deque[tuple[int, socket.socket]] = deque()  # deadline_ns, oldest first
    up: list[socket.socket] = []
    timeout_ns = round(timeout_s * 1e9)
    made = 0
    pending: dict[int, socket.socket] = {}
    start_ns = time.monotonic_ns()
    try:
        with select.epoll() as epoll:
            while made < count or pending:
                due = min(count, 1 + int((time.monotonic_ns() - start_ns) * rate / 1e9))
                while made < due:
                    made += 1
                    sock = begin(target, send_buffer_bytes, failures)
                    if sock is not None:
                        pending[sock.fileno()] = sock
                        begun.append((time.monotonic_ns() + timeout_ns, sock))
                        epoll.register(sock, select.EPOLLOUT)
                # A millisecond is the shortest that epoll sleeps, and all that
                # pacing needs: 5 connections at the default rate.
                wait_s = 0.001 if made < count else 0.05
                for fd, _ in epoll.poll(wait_s):
                    sock = pending.pop(fd)
                    epoll.unregister(fd)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code:
                        failures[error_kind(code)] += 1
                        sock.close()
                    else:
                        up.append(sock)
                now = time.monotonic_ns()
                while begun and begun[0][0] <= now:
                    sock = begun.popleft()[1]
                    if pending.pop(sock.fileno(), None) is not None:
                        failures["timeout"] += 1
                        epoll.unregister(sock)
                        sock.close()
    except BaseException:
        for sock in (*up, *pending.values()):
            sock.close()
        raise
    return up


def begin(target: Target, send_buffer_bytes: int, failures: Counter[str]) -> socket.socket | None:
    sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    code = sock.connect_ex(target.address)
    if code in (0, errno.EINPROGRESS):
        return sock
    failures[error_kind(code)] += 1
    sock.close()
    return None
