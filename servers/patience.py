"""How long a peer may take over a request that it has begun, the same in every architecture.

A head has `--header-timeout`, however much of it comes meanwhile.  A body has
`--body-timeout`, and a second more for every `--body-min-rate` bytes that have come (as in
Apache's mod_reqtimeout): a deadline that ran anew with each byte would let a peer
hold a connection for ever with a byte a minute.
"""

from __future__ import annotations

from typing import Protocol

from servers.listener import ServerOptions
from servers.service import Session


class Awaiting(Protocol):
    """A connection, as far as this is concerned; both begin at 0."""

    session: Session
    awaited: int
    """What was pending at the last look: the number of a head, or the negative one of a body."""
    awaited_ns: int
    """Since when."""


def request_overdue(connection: Awaiting, now_ns: int, options: ServerOptions) -> bool:
    """Called at every look: has the peer had its time for the request that it began?"""
    session = connection.session
    pending = _pending(session)
    if pending != connection.awaited:
        connection.awaited = pending
        connection.awaited_ns = now_ns
        return False
    if not pending:
        return False
    allowed_s = options.header_timeout_s
    if pending < 0:
        allowed_s = options.body_timeout_s + session.body_bytes / options.body_min_rate
    return now_ns - connection.awaited_ns > allowed_s * 1e9


def still_pending(connection: Awaiting) -> bool:
    """Is it still the same part of the same request that has not come?"""
    return connection.awaited != 0 and connection.awaited == _pending(connection.session)


def _pending(session: Session) -> int:
    return session.head_pending or -session.body_pending


def tells_pending(session: type[Session]) -> bool:
    """Does the protocol tell when a request is pending?  If not, nobody need look."""
    return (
        session.head_pending is not Session.head_pending
        or session.body_pending is not Session.body_pending
    )
