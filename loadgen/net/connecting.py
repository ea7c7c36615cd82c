"""N connections to one target, opened at a limited rate, failures counted by kind.

The rate is limited because a burst of SYNs beyond the server's accept backlog
is dropped and retried after a second: one would then measure the kernel's
retransmission timer.  Every workload opens its connections here, and starts
only when all are open.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections import Counter, deque

from loadgen.errors import LoadError
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
    """After a failed send: had the peer ended its side in order before it reset the connection?

    tcp_reset() reports EPIPE then and ECONNRESET otherwise.  It matters for a reply that is
    delimited by the end of the connection.
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
    """Open `count` nonblocking connections, at most `rate` per second.

    Returns those that were opened, with TCP_NODELAY set; adds the others to
    `failures` by kind.  Waits at most `timeout_s` for each.
    """
    begun: deque[tuple[int, socket.socket]] = deque()  # (deadline_ns, socket), oldest first
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
                # A millisecond is the shortest that epoll sleeps, and enough for
                # pacing: 5 connections at the default rate.
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


def nothing_connected(target: Target, count: int, failures: Counter[str]) -> LoadError:
    """The error for none of `count` connections having been opened."""
    if failures["refused"] == count:
        return LoadError(f"nothing listens on {target}: start the server first")
    kinds = ", ".join(f"{kind}: {n}" for kind, n in failures.items() if n)
    return LoadError(f"no connection to {target} came up ({kinds}): check host, port and firewall")


def begin(target: Target, send_buffer_bytes: int, failures: Counter[str]) -> socket.socket | None:
    """A nonblocking connection that is being opened; None, and a failure counted, if it cannot."""
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
