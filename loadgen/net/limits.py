"""What the kernel must allow before N connections to one address can be opened.

Checked before the first `connect`, because a run that finds out at connection
19,997 has already disturbed what it wanted to measure.
"""

from __future__ import annotations

import resource
from pathlib import Path

from loadgen.errors import LoadError

SPARE_DESCRIPTORS = 32
"""For everything that is not a connection: standard streams, epoll, loaded files."""

PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def ensure_room_for(connections: int, port_range: Path = PORT_RANGE) -> None:
    """Raise the soft descriptor limit to the hard one; `LoadError` if N do not fit."""
    _ensure_descriptors(connections + SPARE_DESCRIPTORS)
    _ensure_ports(connections, port_range)


def _ensure_descriptors(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise LoadError(
            f"{needed - SPARE_DESCRIPTORS} connections need {needed} file descriptors and the hard "
            f"limit (RLIMIT_NOFILE) is {hard}: raise it as root with `ulimit -n {needed}`, "
            f"or use fewer --connections"
        )


def _ensure_ports(connections: int, port_range: Path) -> None:
    # All connections share source and destination address, so only the source
    # port tells them apart.  IPv6 uses the same range.
    try:
        first, last = map(int, port_range.read_text().split())
    except (OSError, ValueError):
        return  # no such limit to be read here; connect() will tell
    available = last - first + 1
    if connections > available:
        raise LoadError(
            f"{connections} connections to one address need as many ephemeral ports and "
            f"net.ipv4.ip_local_port_range has {available}: raise it as root with "
            f'`sysctl -w net.ipv4.ip_local_port_range="1024 65535"`, or use fewer --connections'
        )
