"""What every architecture does the same with sockets: options, limits, bind, accept.

It is written once because an architecture that treated its sockets differently
would not be comparable with the others.
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
"""Reserved for standard streams, listener, epoll, admin port and its clients, open files."""

LINGER_S = 1.0
"""How long the peer may keep sending after we have shut down our side.

Closing a socket with unread bytes sends a reset, which can overtake our reply
(RFC 9112, section 9.6); so we shut down our side, keep reading, and then close.
"""


DRAIN_TICK_S = 0.01
"""How often a server that is stopping looks for connections with nothing in flight."""


@dataclass(frozen=True)
class ServerOptions:
    """The options of every server, whatever its architecture and service."""

    host: str = option("127.0.0.1", "address to listen on; a name, IPv4 or IPv6")
    port: int = option(8080, "port to listen on; 0: any free one", minimum=0, maximum=65535)
    admin_port: int | None = option(
        None, "serve /stats and /metrics on this port; 0: any free port (default: not served)",
        minimum=0, maximum=65535, metavar="PORT",
    )  # fmt: skip
    admin_name: tuple[str, ...] = option(
        (), "a further name to which the admin port answers, besides the address it listens on",
        metavar="NAME",
    )  # fmt: skip
    backlog: int = option(4096, "maximum number of connections queued by the kernel", minimum=1)
    max_connections: int | None = option(
        None, "maximum number of open connections; further ones are closed at once and counted as "
        "refused (default: as many as descriptors allow)", minimum=1, metavar="N",
    )  # fmt: skip
    idle_timeout_s: float = option(
        60.0, "close a connection that has been silent for this long", minimum=0.01
    )
    header_timeout_s: float = option(
        10.0, "time for the whole head of a request, from its first byte", minimum=0.01
    )
    body_timeout_s: float = option(
        20.0, "time for the body of a request, plus one second for every --body-min-rate bytes "
        "received", minimum=0.01,
    )  # fmt: skip
    body_min_rate: int = option(
        500, "bytes per second at which a body must arrive, on average, after --body-timeout",
        minimum=1, metavar="BYTES",
    )  # fmt: skip
    send_timeout_s: float = option(
        20.0,
        "close a connection that has taken no byte of a waiting reply for this long",
        minimum=0.01,
    )
    max_unsent: int = option(
        1 << 20, "unsent bytes of replies per connection; beyond that, none of its further "
        "requests is begun until it has read", minimum=1, metavar="BYTES",
    )  # fmt: skip
    grace_s: float = option(10.0, "after SIGTERM, time for requests in flight to finish", minimum=0)
    receive_buffer: int | None = option(
        None, "SO_RCVBUF of each connection (default: the kernel adapts it, up to megabytes)",
        minimum=1024, metavar="BYTES",
    )  # fmt: skip
    receive_bytes: int = option(
        256 * 1024, "maximum size of one read", minimum=1, maximum=1 << 30, metavar="BYTES"
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

    Raises UsageError if more were asked for than `descriptors` allow, or they allow none.
    """
    possible = descriptors - RESERVED_DESCRIPTORS
    if asked is None and possible >= 1:
        return possible
    if asked is None:
        raise UsageError(
            f"a server needs {RESERVED_DESCRIPTORS + 1} descriptors for one connection, "
            f"but {limit_name} is {descriptors}; {remedy}"
        )
    if asked > possible:
        raise UsageError(
            f"--max-connections {asked} needs {asked + RESERVED_DESCRIPTORS} descriptors, "
            f"but {limit_name} is {descriptors}; {remedy}"
        )
    return asked


def bind(host: str, port: int, backlog: int, receive_buffer: int | None = None) -> socket.socket:
    """A nonblocking listening socket.  Raises UsageError, with a remedy."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"cannot resolve {host!r}; check the spelling") from None
    family, kind, protocol, _, address = found[0]
    try:
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(_why_not(error, host, port)) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The sockets that accept() returns inherit these on Linux, which saves two
        # system calls per connection.
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
        return f"{where} is in use; stop what uses it, or choose another --port (0: any free one)"
    if error.errno == errno.EACCES:
        return f"you are not permitted to listen on {where}; choose a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; choose another with --host"
    if is_shortage(error):
        return f"cannot listen on {where}: {limit_reached(error)}"
    return f"cannot listen on {where}: {os.strerror(error.errno or 0)}"


def accept(listener: socket.socket) -> socket.socket | None:
    """The next connection, or None if none is waiting.

    Raises OSError when the process or the machine has run out of descriptors or memory
    (`servers.acceptor` handles that).
    """
    while True:
        try:
            return listener.accept()[0]
        except BlockingIOError:
            return None
        except ConnectionError:  # it was reset in the backlog
            continue


def set_kernel_timeouts(sock: socket.socket, receive_s: float, send_s: float) -> None:
    """Time-outs for a *blocking* socket, kept by the kernel.

    `socket.settimeout` would make the socket nonblocking and add a poll() to
    every call; these cost nothing until they expire, and then the call
    raises BlockingIOError.
    """
    for name, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        whole = int(seconds)
        micros = int((seconds - whole) * 1e6)
        sock.setsockopt(socket.SOL_SOCKET, name, struct.pack("ll", whole, max(micros, not whole)))


def sweep_interval_s(options: ServerOptions) -> float:
    """How often a server checks time-outs: a quarter of the shortest one, at most 0.25 s."""
    return min(
        0.25,
        options.idle_timeout_s / 4,
        options.send_timeout_s / 4,
        options.header_timeout_s / 4,
        options.body_timeout_s / 4,
    )


def shut(sock: socket.socket, how: int) -> None:
    """`sock.shutdown(how)` that tolerates a peer that is gone."""
    with contextlib.suppress(OSError):
        sock.shutdown(how)
