"""What a server counts, without a lock: one writer a block, summed when read.

Of requests, the same in every architecture:

- `requests` were received whole;
- `replies` were handed to the kernel whole (a reply that says nothing, because
  the service only closes, counts as well); `rejected` are those of the requests
  that were shed, whether or not their 503 could be handed over;
- `abandoned` will never have a reply, or not the whole of one: their connection
  ended first, by its peer, by a time-out, or with the last reply to a request
  before them.

`requests - replies - abandoned` are in flight; at rest that is 0.

`x.n += 1` from two threads loses counts.  So every thread that counts leases a
`Counters` block of its own and is its only writer; a snapshot sums all blocks.
A block that is given back keeps its counts and goes to the next thread, so
that the sum never falls and there are never more blocks than threads.
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
    """Counts of one thread.  All only ever grow."""

    __slots__ = (
        "abandoned", "accepted", "bytes_in", "bytes_out", "closed", "errors",
        "refused", "rejected", "replies", "requests", "served",
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
        self.served = 0  # their last step was done; counted where admission control asks for it
        self.errors = dict.fromkeys(ERROR_KINDS, 0)


class Ledger:
    """Every block of one server."""

    def __init__(self) -> None:
        self._blocks: list[Counters] = []
        self._free: deque[Counters] = deque()

    def lease(self) -> Counters:
        """A block for the calling thread alone, until it gives it back."""
        try:
            return self._free.pop()
        except IndexError:
            block = Counters()
            self._blocks.append(block)
            return block

    def give_back(self, block: Counters) -> None:
        self._free.append(block)

    def total(self) -> Counters:
        """The sum of all blocks: no lock, so blocks are read one shortly after the other."""
        total = Counters()
        for block in self._blocks.copy():
            # closed before accepted, and what became of requests before the requests: what
            # is open or in flight may be a moment old, but never negative
            total.closed += block.closed
            for kind in ERROR_KINDS:
                total.errors[kind] += block.errors[kind]
            total.bytes_in += block.bytes_in
            total.bytes_out += block.bytes_out
            total.replies += block.replies
            total.abandoned += block.abandoned
            total.rejected += block.rejected
            total.served += block.served
        for block in self._blocks.copy():
            total.requests += block.requests
            total.accepted += block.accepted
            total.refused += block.refused
        return total
