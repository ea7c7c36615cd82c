"""One request before the load: is there somebody who speaks HTTP/1.1?

A wrong port, a server that wants TLS, one that closes at once: found out here,
in one line, instead of as a hundred thousand failed requests.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadgen.demand.mixes import Template
from loadgen.http.reply import BadReplyError, Reply
from loadgen.net.connecting import error_kind
from loadgen.net.targets import LoadError, Target, resolve

MOST_BYTES = 16 << 20
"""Of one reply to the probe."""


@dataclass(frozen=True)
class Url:
    """What `--target` said."""

    target: Target
    host: str
    """For the Host header, as it was written."""
    path: str


def read_url(text: str, *, allow_remote: bool = False) -> Url:
    """`http://HOST[:PORT][/PATH]`, or without the scheme; `LoadError` for anything else."""
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        port = 80 if parts.port is None else parts.port
    except ValueError as error:
        raise LoadError(f"target {text!r} is no URL: {error}") from None
    if parts.scheme != "http":
        raise LoadError(
            f"target {text!r}: only http:// can be loaded, as in http://127.0.0.1:8080/"
        )
    if not parts.hostname or parts.username is not None:
        raise LoadError(f"target {text!r} is not http://HOST:PORT/PATH")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Url(resolve(f"{host}:{port}", allow_remote=allow_remote), parts.netloc, path)


def ask(url: Url, template: Template, timeout_s: float) -> tuple[int, bytes]:
    """Send one request on a connection of its own; status and body.

    Raises LoadError when what answers is no HTTP/1.1, or nobody does.
    """
    target = url.target
    body: list[bytes] = []
    reply = Reply(head_only=template.method == "HEAD", body=body)
    deadline_s = time.monotonic() + timeout_s
    received = 0
    try:
        with socket.socket(target.family, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(target.address)
            sock.sendall(template.wire(url.host, close=True))
            while not reply.complete:
                sock.settimeout(max(0.001, deadline_s - time.monotonic()))
                data = sock.recv(1 << 16)
                received += len(data)
                if not data:
                    reply.end()
                    break
                reply.feed(data)
                if received > MOST_BYTES:
                    raise LoadError(
                        f"{target} answers {template.path} with over {MOST_BYTES} bytes"
                    )
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
    if not reply.complete:
        when = "at once" if not received else "in the middle of its answer"
        raise LoadError(f"{target} closes the connection {when}: does it speak HTTP/1.1 there?")
    return reply.status, b"".join(body)
