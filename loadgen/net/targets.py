"""What the user typed as HOST:PORT: parsed, resolved, and allowed or not.

A load generator is a weapon by nature, so a target that is not this machine
needs an explicit `--allow-remote`.  Nothing here opens a connection.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from loadgen.errors import LoadError


@dataclass(frozen=True)
class Target:
    """One address to load, resolved once so that no name lookup is ever measured."""

    host: str
    port: int
    family: socket.AddressFamily
    address: tuple[Any, ...]
    """As `socket.connect` takes it: `(ip, port)`, or for IPv6 `(ip, port, flow, scope)`."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Does it stay on this machine?  So does 0.0.0.0, which connect() takes for 127.0.0.1."""
        address = _address(self.address[0])
        return address.is_loopback or address.is_unspecified


def is_this_machine(host: str, *, listening: bool = False) -> bool:
    """Are all addresses of this host or name loopback?  False for a name that has none.

    `listening`: 0.0.0.0 and :: are this machine to who connects to them; who listens on them is
    reached from everywhere.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = [_address(str(info[4][0])) for info in found]
    return all(a.is_loopback or (a.is_unspecified and not listening) for a in addresses)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Without a scope; IPv4 in IPv6, of which `ipaddress` knows nothing, as IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def split_host_port(text: str) -> tuple[str, int]:
    """`"localhost:80"` and `"[::1]:80"` to host and port; `LoadError` for anything else."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise LoadError(f"target {text!r}: put an IPv6 address in brackets, as in [::1]:8080")
    if not colon or not host:
        raise LoadError(f"target {text!r} is not HOST:PORT, as in 127.0.0.1:8080")
    # str.isdigit alone would let "²" and "٣" through.
    if not (port_text.isascii() and port_text.isdigit() and 1 <= int(port_text[:6]) <= 65535):
        raise LoadError(f"target {text!r}: the port must be a number from 1 to 65535")
    return host, int(port_text)


def resolve(text: str, *, allow_remote: bool = False) -> Target:
    """The address behind HOST:PORT; `LoadError` if there is none or it is not allowed.

    A name with both IPv4 and IPv6 addresses (`localhost`, often) means the
    IPv4 one, where a server binds unless told otherwise.
    """
    host, port = split_host_port(text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid name"
        raise LoadError(f"cannot resolve target {host!r}: {reason}") from None
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    target = Target(host, port, family, address)
    if not target.is_loopback and not allow_remote:
        raise LoadError(
            f"target {target} is not this machine: give --allow-remote if you may load it"
        )
    return target
