"""The ledger: exact sums although nobody takes a lock."""

from __future__ import annotations

import threading

from servers.counters import Ledger


def test_nothing_is_lost_between_threads_and_blocks_are_used_again() -> None:
    ledger = Ledger()
    rounds, threads, counts = 5, 8, 2000

    def work() -> None:
        block = ledger.lease()
        for _ in range(counts):
            block.requests += 1
            block.errors["reset"] += 1
        ledger.give_back(block)

    for turn in range(1, rounds + 1):
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        total = ledger.total()
        assert total.requests == total.errors["reset"] == turn * threads * counts
    blocks = [ledger.lease() for _ in range(threads)]
    assert sum(block.requests for block in blocks) == ledger.total().requests


def test_two_threads_never_lease_the_same_block() -> None:
    ledger = Ledger()
    first, second = ledger.lease(), ledger.lease()
    assert first is not second
    ledger.give_back(first)
    assert ledger.lease() is first


def test_a_sum_taken_meanwhile_never_has_more_closed_than_accepted() -> None:
    ledger = Ledger()
    done = threading.Event()

    def work() -> None:
        block = ledger.lease()
        while not done.is_set():
            block.accepted += 1
            block.closed += 1

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = 0
    for _ in range(500):
        total = ledger.total()
        assert total.closed <= total.accepted
        assert total.accepted >= seen
        seen = total.accepted
    done.set()
    for worker in workers:
        worker.join()
