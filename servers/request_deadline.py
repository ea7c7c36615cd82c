"""How long a peer may take to finish a request that it has begun; the same in every architecture.

A head must be complete within `--header-timeout`, however slowly it trickles in.  A body
has `--body-timeout`, plus one second for every `--body-min-rate` bytes received so far (as
in Apache's mod_reqtimeout): a deadline that restarted with each byte would let a peer
hold a connection for ever with one byte per minute.
"""

from __future__ import annotations

from typing import Protocol

from servers.listener import ServerOptions
from servers.service import Session


class PeerDeadline(Protocol):
    """The part of a connection that this module needs; both numbers start at 0."""

    session: Session
    pending_part: int
    """What was pending at the last sweep: the number of a head, or minus that of a body."""
    pending_since_ns: int
    """The sweep at which that part was first seen pending."""


def request_overdue(connection: PeerDeadline, now_ns: int, options: ServerOptions) -> bool:
    """Called at every sweep: has the peer used up its time for the request that it began?"""
    session = connection.session
    pending = _pending(session)
    if pending != connection.pending_part:
        connection.pending_part = pending
        connection.pending_since_ns = now_ns
        return False
    if not pending:
        return False
    allowed_s = options.header_timeout_s
    if pending < 0:
        allowed_s = options.body_timeout_s + session.body_bytes / options.body_min_rate
    return now_ns - connection.pending_since_ns > allowed_s * 1e9


def still_pending(connection: PeerDeadline) -> bool:
    """Is the same part of the same request still missing?"""
    return connection.pending_part != 0 and connection.pending_part == _pending(connection.session)


def _pending(session: Session) -> int:
    return session.head_pending or -session.body_pending


def reports_pending(session: type[Session]) -> bool:
    """Does the protocol say when a request is pending?  If not, no sweep need look."""
    return (
        session.head_pending is not Session.head_pending
        or session.body_pending is not Session.body_pending
    )
