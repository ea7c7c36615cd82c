r"""A policy of your own: a full queue of `seda` shares its room fairly between clients.

With the built-in policies, a client that pipelines a hundred requests fills the queue, and
clients that send one at a time are rejected, too.  This one admits the first request of
each client first, then the second of each, and so on.  By itself, with a queue for four
events and without any server:

    python examples/own_policy.py

prints that `reject` keeps only the requests of the greedy client, and `fair_share` one of each
of the others.  In a server, where a request belongs to its connection:

    sedabench serve examples/own_policy.py:FairSeda --service web --port 8080 --queue-capacity 64
    sedabench run overload --quick --server seda \
                           --server 'examples/own_policy.py:FairSeda --queue-capacity 64 --batch 32'
"""

from collections import Counter, deque
from dataclasses import replace

from servers.seda import POLICIES, EventQueue, Policy
from servers.seda.server import Seda


def whose(event):
    return event.connection


class FairShare(Policy):
    name = "fair_share"
    tells = True  # the producer is told what was lost, and `seda` answers it with 503
    whose = staticmethod(whose)

    def overflow(self, waiting, arriving, room):
        has = Counter(map(self.whose, waiting))
        has_before = []
        for event in arriving:  # each with how many of the same client are before it
            has_before.append((has[self.whose(event)], event))
            has[self.whose(event)] += 1
        has_before.sort(key=lambda pair: pair[0])
        waiting.extend(event for _, event in has_before[:room])
        return [event for _, event in has_before[room:]]


POLICIES[FairShare.name] = FairShare


class FairSeda(Seda):
    """The architecture `seda` with that policy on every queue."""

    name = "fair-seda"
    summary = "seda, whose full queues take in first whose client has least in them"

    def __init__(self, service, listener, server, options):
        super().__init__(service, listener, server, replace(options, queue_policy=FairShare.name))


class FairShareOfPairs(FairShare):
    """For the example below, whose events are (client, number)."""

    whose = staticmethod(lambda event: event[0])


if __name__ == "__main__":
    arriving = deque([("greedy", n) for n in range(6)] + [("ann", 0), ("bob", 0), ("cem", 0)])
    for policy in ("reject", FairShareOfPairs()):
        queue = EventQueue(4, policy)
        queue.put(list(arriving))
        name = policy if isinstance(policy, str) else policy.name
        print(f"{name:11} keeps", ", ".join(f"{who} {n}" for who, n in queue.take(10, 0)))
