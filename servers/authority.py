"""The authority of a URL or a Host field: `host` or `host:port`.

The grammar is that of RFC 3986 (section 3.2.2), without user information and never
empty; in addition, as in nginx and Apache, no label of a name may be empty.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

MAX_PORT = 65535

_AUTHORITY = re.compile(
    rb"(?P<host>(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[(?P<literal>[0-9A-Fa-f:.]+)\])"
    rb"(?::(?P<port>[0-9]{0,5}))?"
)


@lru_cache(maxsize=64)  # clients repeat the same few values
def host_of(authority: bytes) -> str | None:
    """The host in lower case, an IPv6 address without its brackets; None if it is not valid.

    Spaces and tabs around it, which a header may have, are ignored.
    """
    match = _AUTHORITY.fullmatch(authority.strip(b" \t"))
    if match is None or b".." in match["host"] or int(match["port"] or 0) > MAX_PORT:
        return None
    if match["literal"] is None:
        return match["host"].decode().lower()
    try:
        return str(ipaddress.IPv6Address(match["literal"].decode()))
    except ValueError:
        return None
