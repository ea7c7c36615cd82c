"""What a server counts, without locks: one block per thread, summed when read.

Requests are counted the same in every architecture:

- `requests` were received completely;
- `replies` were handed to the kernel completely (an empty reply, for a service
  that only closes, counts as well); `rejected` are the requests that were shed,
  whether or not their 503 could be sent;
- `abandoned` will never get a complete reply: their connection ended first, by
  its peer, by a time-out, or with the last reply to an earlier request.

`requests - replies - abandoned` are in flight; when the server is idle that is 0.

`x.n += 1` from two threads loses counts.  So every thread that counts leases a
`Counters` block of its own and is its only writer; a snapshot sums all blocks.
A block that is given back keeps its counts and is leased to the next thread, so
that no sum ever decreases and there are never more blocks than threads.
"""

from __future__ import annotations

from collections import deque

ERROR_KINDS = (
    "reset",     # the peer reset the connection or vanished
    "idle",      # silent for longer than --idle-timeout
    "linger",    # had its last reply and did not close within LINGER_S
    "slow",      # had not sent a whole request when --header-timeout or --body-timeout ran out
    "unread",    # took nothing of a waiting reply for --send-timeout
    "handler",   # a step raised
    "protocol",  # the bytes were not the service's protocol
    "aborted",   # still in flight when --grace ran out
    "accept",    # no descriptor, memory or thread for a new connection
)  # fmt: skip


class Counters:
    """Counts of one thread; they never decrease."""

    __slots__ = (
        "abandoned", "accepted", "bytes_in", "bytes_out", "closed", "errors",
        "refused", "rejected", "replies", "requests",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accepted = 0
        self.refused = 0
        self.closed = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.requests = 0
        self.replies = 0
        self.abandoned = 0
        self.rejected = 0
        self.errors = dict.fromkeys(ERROR_KINDS, 0)


class Ledger:
    """Every block of one server."""

    def __init__(self) -> None:
        self._blocks: list[Counters] = []
        self._free: deque[Counters] = deque()

    def lease(self) -> Counters:
        """A block that only the calling thread writes, until it gives it back."""
        try:
            return self._free.pop()
        except IndexError:
            block = Counters()
            self._blocks.append(block)
            return block

    def give_back(self, block: Counters) -> None:
        self._free.append(block)

    def total(self) -> Counters:
        """The sum of all blocks, which are read one after another without a lock."""
        total = Counters()
        for block in self._blocks.copy():
            # Closed before accepted, and outcomes before requests: the number of connections
            # open or requests in flight may be slightly out of date, but is never negative.
            total.closed += block.closed
            for kind in ERROR_KINDS:
                total.errors[kind] += block.errors[kind]
            total.bytes_in += block.bytes_in
            total.bytes_out += block.bytes_out
            total.replies += block.replies
            total.abandoned += block.abandoned
            total.rejected += block.rejected
        for block in self._blocks.copy():
            total.requests += block.requests
            total.accepted += block.accepted
            total.refused += block.refused
        return total
