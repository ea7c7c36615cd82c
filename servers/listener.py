"""Sockets, as every architecture has them: options, limits, bind, accept.

Everything here is the same whoever runs the steps, so it is here once: an
architecture that treated its sockets differently would be compared with
something else than an architecture.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import struct
from dataclasses import dataclass

from servers.options import UsageError, option
from servers.shortage import is_shortage, limit_reached

RESERVED_DESCRIPTORS = 40
"""Kept for standard streams, listener, epoll, admin and its clients, files being read."""

LINGER_S = 1.0
"""How long a connection that we have finished may keep its peer's last bytes coming.

Closing a socket with unread bytes sends a reset, which can overtake our reply
(RFC 9112, section 9.6); so we say that we are done, read on, then close.
"""


DRAIN_TICK_S = 0.01
"""How often a server that is stopping looks for connections that came to rest."""


@dataclass(frozen=True)
class ServerOptions:
    """What every server can be told, whatever its architecture and service."""

    host: str = option("127.0.0.1", "address to listen on; a name, IPv4 or IPv6")
    port: int = option(8080, "port to listen on; 0 takes a free one", minimum=0, maximum=65535)
    admin_port: int | None = option(
        None, "serve /stats and /metrics on this port, 0 takes a free one (default: not served)",
        minimum=0, maximum=65535, metavar="PORT",
    )  # fmt: skip
    admin_name: tuple[str, ...] = option(
        (), "a name by which the admin port may be asked, besides the address that it listens on",
        metavar="NAME",
    )  # fmt: skip
    backlog: int = option(4096, "connections that the kernel may queue for us", minimum=1)
    max_connections: int | None = option(
        None, "connections served at once; more are closed on arrival and counted as refused "
        "(default: as many as descriptors allow)", minimum=1, metavar="N",
    )  # fmt: skip
    idle_timeout_s: float = option(60.0, "close a connection silent for so long", minimum=0.01)
    header_timeout_s: float = option(
        10.0, "a request that was begun must have its whole head after so long", minimum=0.01
    )
    body_timeout_s: float = option(
        20.0, "a request's body must be there so long after its head; each --body-min-rate bytes "
        "that have come give it a second more", minimum=0.01,
    )  # fmt: skip
    body_min_rate: int = option(
        500, "bytes a second at which a body must come, on average, beyond --body-timeout",
        minimum=1, metavar="BYTES",
    )  # fmt: skip
    send_timeout_s: float = option(
        20.0, "close a connection that takes no byte of a waiting reply for so long", minimum=0.01
    )
    max_unsent: int = option(
        1 << 20, "bytes of replies that may wait for one connection; beyond, no further "
        "request of it is begun until it has read", minimum=1, metavar="BYTES",
    )  # fmt: skip
    grace_s: float = option(
        10.0, "at SIGTERM, finish what is in flight for at most so long", minimum=0
    )
    receive_buffer: int | None = option(
        None, "SO_RCVBUF of each connection (default: the kernel adapts it, to megabytes)",
        minimum=1024, metavar="BYTES",
    )  # fmt: skip
    receive_bytes: int = option(
        256 * 1024, "read at most so much at a time", minimum=1, maximum=1 << 30, metavar="BYTES"
    )  # fmt: skip


def descriptor_limit() -> int:
    """Raise the soft limit on open descriptors to the hard one; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass
    return soft


def connection_limit(asked: int | None, descriptors: int, limit_name: str, remedy: str) -> int:
    """How many connections may be open at once.

    Raises UsageError if more were asked for than `descriptors` allow.
    """
    possible = descriptors - RESERVED_DESCRIPTORS
    if asked is None:
        return max(1, possible)
    if asked > possible:
        raise UsageError(
            f"--max-connections {asked} needs {asked + RESERVED_DESCRIPTORS} descriptors, "
            f"but {limit_name} is {descriptors}; {remedy}"
        )
    return asked


def bind(host: str, port: int, backlog: int, receive_buffer: int | None = None) -> socket.socket:
    """A nonblocking listening socket.  Raises UsageError with what to do about it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"cannot find the address of {host!r}; is it spelled right?") from None
    family, kind, protocol, _, address = found[0]
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(_why_not(error, host, port)) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Linux hands these down to the sockets that accept() returns: two
        # system calls a connection less.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:  # before listen(): the window scale is agreed on connect
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(address)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(_why_not(error, host, port)) from None
    return listener


def _why_not(error: OSError, host: str, port: int) -> str:
    where = f"{host} port {port}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is in use; stop who uses it, or choose another with --port (0: a free one)"
    if error.errno == errno.EACCES:
        return f"{where} is not allowed to this user; choose a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; choose another with --host"
    if is_shortage(error):
        return f"cannot listen on {where}: {limit_reached(error)}"
    return f"cannot listen on {where}: {os.strerror(error.errno or 0)}"


def accept(listener: socket.socket) -> socket.socket | None:
    """The next connection, or None when there is none to be had now.

    Raises OSError when the process or the machine has run out of descriptors
    or memory: the caller stops looking at the listener until its next look
    for time-outs, and sleeps in no thread that serves.
    """
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            return None
        except ConnectionError:  # it was reset while it waited in the backlog
            continue


def set_kernel_timeouts(sock: socket.socket, receive_s: float, send_s: float) -> None:
    """Time-outs for a *blocking* socket, kept by the kernel.

    `socket.settimeout` would make the socket nonblocking and add a poll() to
    every call; these cost nothing until they run out, and then the call
    raises BlockingIOError.
    """
    for name, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        whole = int(seconds)
        micros = int((seconds - whole) * 1e6)
        sock.setsockopt(socket.SOL_SOCKET, name, struct.pack("ll", whole, max(micros, not whole)))


def sweep_interval_s(options: ServerOptions) -> float:
    """How often a server looks for time-outs: a quarter of the shortest, at most 0.25 s."""
    return min(
        0.25,
        options.idle_timeout_s / 4,
        options.send_timeout_s / 4,
        options.header_timeout_s / 4,
        options.body_timeout_s / 4,
    )


def shut(sock: socket.socket, how: int) -> None:
    """`sock.shutdown(how)`, of a socket whose peer may have gone."""
    with contextlib.suppress(OSError):
        sock.shutdown(how)
