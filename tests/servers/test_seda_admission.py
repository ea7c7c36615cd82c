"""Admission control, against a simulated server: one queue, a clock of its own, no thread."""

from __future__ import annotations

import random
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import TypeAlias

import pytest

from servers.seda import Admission
from servers.seda.admission import TokenBucket
from servers.seda.connections import StagedConnection
from servers.seda.kernel_queues import Readiness
from tests.servers.web import web

SECOND_NS = 1_000_000_000
SLO_MS = 100.0
REJECTING = 0.05
"""Of what a request costs, on average: what turning one away costs."""

Service: TypeAlias = Callable[[random.Random], float]


def fixed(seconds: float) -> Service:
    return lambda draw: seconds


def mixture(draw: random.Random) -> float:
    """Hits of 20 us, misses of 200 us, and work of 1 ms."""
    kind = draw.random()
    return 20e-6 if kind < 0.7 else 200e-6 if kind < 0.9 else 1e-3


SERVICES: dict[str, tuple[Service, float]] = {
    "10 us": (fixed(10e-6), 10e-6),
    "300 us": (fixed(300e-6), 300e-6),
    "5 ms": (fixed(5e-3), 5e-3),
    "mixture": (mixture, 0.7 * 20e-6 + 0.2 * 200e-6 + 0.1 * 1e-3),
}


@dataclass
class Window:
    """What became of the requests that came in some seconds."""

    seconds: float
    offered: int
    refused: int
    response_ms: list[float]

    @property
    def goodput(self) -> float:
        return sum(ms <= SLO_MS for ms in self.response_ms) / self.seconds

    @property
    def p99_ms(self) -> float:
        return sorted(self.response_ms)[int(0.99 * (len(self.response_ms) - 1))]


class Simulation:
    """Poisson arrivals, gathered in batches of a millisecond, of each of which one is timed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, service: Service, mean_s: float) -> None:
        self.now_ns = float(SECOND_NS)
        clock = SimpleNamespace(monotonic_ns=lambda: int(self.now_ns))
        monkeypatch.setattr("servers.seda.admission.time", clock)
        monkeypatch.setattr("servers.seda.controllers.time", clock)
        self.service, self.mean_s = service, mean_s
        self.draw = random.Random(1)
        self.completed = 0
        self.controller = Admission("read", SLO_MS / 1e3, lambda: self.completed)
        self.ends: deque[tuple[float, float | None]] = deque()  # when; how long if it is timed
        self.free_ns = 0.0  # when the server has done what was let in
        self.look_ns = self.now_ns

    def run(self, rate: float, seconds: float) -> Window:
        """So many requests a second."""
        window = Window(seconds, 0, 0, [])
        refused = self.controller.refused
        end_ns = self.now_ns + seconds * SECOND_NS
        at_ns = self.now_ns
        while (at_ns := at_ns + self.draw.expovariate(rate) * 1e9) < end_ns:
            batch = [at_ns]
            while (after := at_ns + self.draw.expovariate(rate) * 1e9) < batch[0] + 1e6:
                batch.append(at_ns := after)
            at_ns = max(at_ns, batch[0] + 1e6)
            self.advance(batch[-1])
            self.serve(batch, window)
        self.advance(end_ns)
        window.refused = self.controller.refused - refused
        return window

    def serve(self, batch: list[float], window: Window) -> None:
        entering = batch[: self.controller.admit(len(batch))]
        window.offered += len(batch)
        free_ns = max(self.free_ns, self.now_ns)
        timed = self.draw.randrange(len(entering) or 1)
        for number, arrived_ns in enumerate(entering):
            free_ns += self.service(self.draw) * 1e9
            response_ns = free_ns - arrived_ns
            window.response_ms.append(response_ns / 1e6)
            self.ends.append((free_ns, response_ns if number == timed else None))
        refusals = len(batch) - len(entering)
        self.free_ns = free_ns + refusals * REJECTING * self.mean_s * 1e9

    def advance(self, until_ns: float) -> None:
        """Let the controller look, at its period, at what has ended by then."""
        while self.look_ns <= until_ns:
            self.now_ns = self.look_ns
            while self.ends and self.ends[0][0] <= self.now_ns:
                _, response_ns = self.ends.popleft()
                self.completed += 1
                if response_ns is not None:
                    self.controller.responded([int(response_ns)])
            self.controller.observe(int(self.now_ns))
            self.look_ns += self.controller.period_s * SECOND_NS
        self.now_ns = until_ns


Simulate: TypeAlias = Callable[[str], tuple[Simulation, float]]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """A server of one kind, and how many requests it can serve in a second."""

    def make(kind: str) -> tuple[Simulation, float]:
        service, mean_s = SERVICES[kind]
        return Simulation(monkeypatch, service, mean_s), 1 / mean_s

    return make


def seconds(kind: str) -> float:
    """Long enough to tell, short enough to simulate."""
    return 0.7 if kind == "10 us" else 3.0


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize("times", [2, 3])
def test_under_overload_nearly_all_that_the_server_can_do_is_done_in_time(
    simulate: Simulate, kind: str, times: float
) -> None:
    server, capacity = simulate(kind)
    server.run(times * capacity, 2 if kind == "10 us" else 4)  # until the limit is found
    window = server.run(times * capacity, seconds(kind))
    left = (1 - REJECTING * times) / (1 - REJECTING)  # what turning the others away leaves
    assert window.goodput >= 0.9 * left * capacity
    assert window.p99_ms < SLO_MS
    assert server.controller.limit is not None


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_below_its_capacity_nobody_is_refused(simulate: Simulate, kind: str, share: float) -> None:
    server, capacity = simulate(kind)
    window = server.run(share * capacity, seconds(kind))
    assert window.refused == 0
    assert server.controller.limit is None


@pytest.mark.parametrize("kind", ["300 us", "5 ms", "mixture"])
def test_at_its_capacity_nearly_all_are_served(simulate: Simulate, kind: str) -> None:
    server, capacity = simulate(kind)
    server.run(capacity, 2)
    assert server.run(capacity, 3).goodput >= 0.85 * capacity


@pytest.mark.parametrize("kind", ["300 us", "5 ms", "mixture"])
def test_a_sudden_overload_is_throttled_in_two_seconds(simulate: Simulate, kind: str) -> None:
    server, capacity = simulate(kind)
    server.run(0.5 * capacity, 1)
    server.run(3 * capacity, 2)
    window = server.run(3 * capacity, 0.5)
    assert window.goodput >= 0.7 * capacity
    assert window.p99_ms < SLO_MS


@pytest.mark.parametrize("kind", ["300 us", "5 ms", "mixture"])
def test_after_a_spike_nothing_of_it_is_left(simulate: Simulate, kind: str) -> None:
    server, capacity = simulate(kind)
    server.run(4 * capacity, 2)
    assert server.controller.limit is not None
    server.run(0.5 * capacity, 5)
    assert server.controller.limit is None
    assert server.run(0.5 * capacity, 2).refused == 0


def test_a_server_that_was_slow_for_seconds_is_at_its_capacity_again_in_seconds(
    simulate: Simulate,
) -> None:
    server, capacity = simulate("300 us")
    server.service = fixed(0.15)  # six a second
    server.run(20, 3)
    server.ends.clear()
    server.free_ns = server.now_ns
    server.service = fixed(300e-6)
    server.run(2 * capacity, 5)
    window = server.run(2 * capacity, 2)
    assert window.goodput >= 0.85 * capacity
    assert window.p99_ms < SLO_MS


def test_a_service_ten_times_as_heavy_for_a_while_is_found_and_forgotten(
    simulate: Simulate,
) -> None:
    server, capacity = simulate("300 us")
    server.run(2 * capacity, 2)
    server.service = fixed(3e-3)
    server.run(2 * capacity, 1)
    server.service = fixed(300e-6)
    server.run(2 * capacity, 5)
    assert server.run(2 * capacity, 2).goodput >= 0.85 * capacity


# What it decides from


class Load:
    """Requests with response times of one's choice, all of them told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = SECOND_NS
        clock = SimpleNamespace(monotonic_ns=lambda: self.now_ns)
        monkeypatch.setattr("servers.seda.admission.time", clock)
        monkeypatch.setattr("servers.seda.controllers.time", clock)
        self.controller = Admission("read", target_s=0.1)

    def second(self, response_ms: float, requests: int = 1000) -> list[float | None]:
        """One second of requests; the limit at every look."""
        begin_ns = self.now_ns
        limits = []
        for number in range(requests):
            self.now_ns = begin_ns + number * SECOND_NS // max(1, requests)
            if self.controller.admit(1):
                self.controller.responded([int(response_ms * 1e6)])
            if number * 20 % requests < 20:
                self.controller.observe(self.now_ns)
                limits.append(self.controller.limit)
        self.now_ns = begin_ns + SECOND_NS
        self.controller.observe(self.now_ns)
        return [*limits, self.controller.limit]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    return Load(monkeypatch)


def test_without_pressure_everybody_enters(load: Load) -> None:
    for _ in range(5):
        load.second(response_ms=99)
    assert load.controller.limit is None
    assert (load.controller.admitted, load.controller.refused) == (5000, 0)
    assert load.controller.p90_ms == pytest.approx(99)
    assert not load.controller.decisions


def test_over_the_target_the_limit_begins_below_what_is_completed(load: Load) -> None:
    limits = [limit for limit in load.second(response_ms=300) if limit is not None]
    assert 300 <= limits[0] < 1000
    assert load.controller.refused > 0
    decision = load.controller.decisions[0]
    assert (decision.controller, decision.quantity) == ("admission", "requests/s")
    assert "p90 300.0 ms, target 100 ms" in decision.reason
    assert "are completed" in decision.reason


@pytest.mark.parametrize("slow", [1, 2])
def test_a_few_slow_requests_at_an_idle_server_decide_nothing(load: Load, slow: int) -> None:
    load.second(response_ms=600, requests=slow)
    for _ in range(10):
        load.second(response_ms=1, requests=6)
    assert load.controller.refused == 0
    assert not load.controller.decisions


def test_requests_that_take_long_though_hardly_any_others_are_inside_are_not_limited(
    load: Load,
) -> None:
    for _ in range(10):
        load.second(response_ms=300, requests=7)  # two inside at once
    assert load.controller.refused == 0


def test_a_few_slow_requests_among_many_are_not_an_overload(load: Load) -> None:
    for _ in range(5):
        load.controller.responded([int(900e6)] * 4)
        load.second(response_ms=10, requests=960)
    assert load.controller.limit is None


def test_while_requests_are_refused_and_none_waits_the_limit_grows_faster_and_faster(
    load: Load,
) -> None:
    for _ in range(3):
        load.second(response_ms=300)
    growing: list[float] = []
    for _ in range(5):
        growing += filter(None, load.second(response_ms=5, requests=20_000))
    growing = growing[5:]  # until what was slow is forgotten
    assert growing == sorted(growing)
    assert growing[-1] > 10_000
    assert all(after < 1.5 * before + 10 for before, after in pairwise(growing))


def test_a_limit_that_refuses_nobody_goes(load: Load) -> None:
    for _ in range(3):
        load.second(response_ms=300)
    for _ in range(6):
        load.second(response_ms=1, requests=50)
    assert load.controller.limit is None
    assert "no limit" in load.controller.decisions[-1].reason
    assert load.controller.admit(10_000) == 10_000


def test_when_the_load_has_gone_nothing_is_known_of_the_response_time(load: Load) -> None:
    for _ in range(3):
        load.second(response_ms=300)
    for _ in range(5):
        load.now_ns += SECOND_NS
        load.controller.observe(load.now_ns)
    assert load.controller.limit is None
    assert load.controller.p90_ms is None
    load.second(response_ms=10)  # nor is what was then held against who comes next
    assert load.controller.limit is None
    assert load.controller.p90_ms == pytest.approx(10)


# How long requests wait in the kernel


@pytest.fixture
def readiness() -> Iterator[Readiness]:
    """A reader's view of four connections, each of which has something to read."""
    readiness = Readiness(readers=1)
    pairs = [socket.socketpair() for _ in range(4)]
    for ours, peer in pairs:
        ours.setblocking(False)
        readiness.add(StagedConnection(ours, web().session(), 0))
        peer.sendall(b"x")
    yield readiness
    for ours, peer in pairs:
        ours.close()
        peer.close()


def be_away(seconds: float) -> int:
    """What the reader does meanwhile; how long, in nanoseconds."""
    begin_ns = time.monotonic_ns()
    while time.monotonic_ns() - begin_ns < seconds * SECOND_NS:
        pass
    return int(seconds * SECOND_NS)


def waited_ns(readiness: Readiness, most: int) -> int:
    asked_ns = time.monotonic_ns()
    assert readiness.take(most, 1)
    return asked_ns - readiness.oldest_ns


def test_what_came_while_nobody_looked_may_have_waited_since_then(readiness: Readiness) -> None:
    readiness.take(16, 0)
    away_ns = be_away(0.1)
    assert waited_ns(readiness, 16) > 0.5 * away_ns  # less what the look itself took


def test_what_a_full_look_left_has_waited_for_as_many_as_show_all(readiness: Readiness) -> None:
    readiness.take(16, 0)
    waits = []
    for _ in range(6):
        away_ns = be_away(0.05)
        waits.append(waited_ns(readiness, 2) / away_ns)
    assert waits[1] > 1.5
    assert min(waits[2:]) > 2.5  # this look, and two for the four connections


def test_time_in_which_somebody_waited_in_its_place_is_no_wait(readiness: Readiness) -> None:
    readiness.take(16, 0)
    readiness.idle_ns += be_away(0.2)
    assert waited_ns(readiness, 16) < 0.2 * SECOND_NS


# The bucket


class Clock:
    now_ns = SECOND_NS

    def monotonic_ns(self) -> int:
        return self.now_ns


def test_a_token_bucket_lets_through_its_depth_and_then_its_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("servers.seda.admission.time", clock)
    bucket = TokenBucket(rate=2000.0, depth=20.0)
    assert bucket.take(0) == 0
    assert bucket.take(30) == 20
    passed = 0
    for _ in range(1000):
        clock.now_ns += SECOND_NS // 1000
        passed += bucket.take(3)
    assert passed == pytest.approx(2000, abs=2)


def test_a_token_bucket_that_rests_gathers_no_more_than_its_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("servers.seda.admission.time", clock)
    bucket = TokenBucket(rate=1e9, depth=5)
    for _ in range(3):
        clock.now_ns += SECOND_NS
        assert bucket.take(100) == 5
