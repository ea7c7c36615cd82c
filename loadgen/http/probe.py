"""One request before the load: does the target speak HTTP/1.1?  And what does its mix consist of?

A wrong port, a server that expects TLS, one that closes at once: detected here,
in one line, instead of as a hundred thousand failed requests.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadgen.demand.mixes import Mix, Template, load_mix, single
from loadgen.errors import LoadError
from loadgen.http.reply import BadReplyError, Reply
from loadgen.net.connecting import ended_before, error_kind
from loadgen.net.targets import Target, resolve

MIN_TIMEOUT_S = 5.0
"""The first request may take at least this long; an overloaded server is slow to answer."""

MAX_REPLY_BYTES = 16 << 20
"""Maximum size of a reply that is kept: a file that describes a mix."""


@dataclass(frozen=True)
class Url:
    """What `--target` names."""

    target: Target
    host: str
    """For the Host header, as given."""
    path: str


def read_url(text: str, *, allow_remote: bool = False) -> Url:
    """`http://HOST[:PORT][/PATH]`, or without the scheme; `LoadError` for anything else."""
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        port = 80 if parts.port is None else parts.port
    except ValueError as error:
        raise LoadError(f"target {text!r} is not a URL: {error}") from None
    if parts.scheme != "http":
        raise LoadError(
            f"target {text!r}: only http:// can be loaded, as in http://127.0.0.1:8080/"
        )
    if not parts.hostname or parts.username is not None:
        raise LoadError(f"target {text!r} is not http://HOST:PORT/PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(resolve(f"{host}:{port}", allow_remote=allow_remote), parts.netloc, path)


def probe(url: Url, template: Template, timeout_s: float) -> None:
    """Send one request as the load will, and accept any reply that the load would.

    `timeout_s` is that of the load; the probe waits for `MIN_TIMEOUT_S` at least.
    Raises LoadError if nobody answers, or not in HTTP/1.1.
    """
    _exchange(url, template, max(MIN_TIMEOUT_S, timeout_s), None)


def open_mix(url: Url, name: str | None) -> Mix:
    """The mix of that name, which may depend on files of the server; None: the URL's own path.

    Raises LoadError.
    """

    def fetch(path: str) -> bytes:
        body: list[bytes] = []
        status = _exchange(url, Template(path, "GET", path, 1.0), MIN_TIMEOUT_S, body)
        if status != 200:
            raise LoadError(f"{url.target} answers {path} with {status}: mix {name!r} needs it")
        return b"".join(body)

    return single(url.path) if name is None else load_mix(name, fetch)


def _exchange(url: Url, template: Template, timeout_s: float, body: list[bytes] | None) -> int:
    """Send one request on a connection of its own; return the status.  `body` gets the pieces."""
    target = url.target
    reply = Reply(head_only=template.method == "HEAD", body=body)
    deadline_s = time.monotonic() + timeout_s
    received = 0
    try:
        with socket.socket(target.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(target.address)
            for data in _converse(sock, template.wire(url.host, close=True), deadline_s):
                received += len(data)
                if data:
                    reply.feed(data)
                else:
                    reply.end()
                if body is not None and received > MAX_REPLY_BYTES:
                    raise LoadError(
                        f"{target} answers {template.path} with over {MAX_REPLY_BYTES} bytes"
                    )
                if reply.complete:
                    return reply.status
    except TimeoutError:
        what = "did not answer" if not received else "did not finish its answer"
        raise LoadError(
            f"{target} {what} within {timeout_s:g} s: is it overloaded, or the wrong port?"
        ) from None
    except ConnectionRefusedError:
        raise LoadError(f"nothing listens on {target}: start the server first") from None
    except OSError as error:
        raise LoadError(
            f"{target} broke the connection ({error_kind(error.errno)}) before it had answered: "
            "does it speak HTTP/1.1 there?"
        ) from None
    except BadReplyError as error:
        raise LoadError(f"{target} does not speak HTTP/1.1: {error}") from None
    when = "at once" if not received else "in the middle of its answer"
    raise LoadError(f"{target} closes the connection {when}: does it speak HTTP/1.1 there?")


def _converse(sock: socket.socket, wire: bytes, deadline_s: float) -> Iterator[bytes]:
    """What the peer sends while `wire` is sent to it and afterwards; b"" when it has closed.

    It may answer, and close, before it has read everything.  A failed send is raised once what
    arrived before has been read.
    """
    sock.setblocking(False)
    unsent, failure = memoryview(wire), None
    while True:
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if unsent else 0))
        found = poll.poll(max(0.0, deadline_s - time.monotonic()) * 1e3)
        if not found:
            raise TimeoutError
        if found[0][1] == select.POLLOUT:  # alone: what there is to read comes before an error
            try:
                unsent = unsent[sock.send(unsent) :]
            except BlockingIOError:
                continue
            except OSError as error:
                unsent, failure = unsent[:0], error
            continue
        data = sock.recv(1 << 16)
        if not data and failure is not None and not ended_before(failure):
            raise failure
        yield data
        if not data:
            return
