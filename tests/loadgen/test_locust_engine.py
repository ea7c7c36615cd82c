"""The engine as a process: its orders, its reports, its account, its end."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadgen.engine.account import COUNTS, LATENCY
from loadgen.engine.histogram import unpacked
from loadgen.engine.process import STALL_NS, Engine
from loadgen.engine.settings import Settings
from loadgen.http.pool import Connection
from loadgen.http.records import OUTCOMES

from .fault_server import fault_server

DEADLINE_S = 30.0


@contextmanager
def server(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "servers", "eventloop", "--service", "web", "--port", f"{port}"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["port"]
    finally:
        process.kill()
        process.communicate()


class Driven:
    """The engine, and the sum of what it reported."""

    def __init__(self, target: str, **settings: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.engine.process"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.trials: dict[str, Counter[str]] = {}
        self.latencies = 0
        self.last: dict[str, Any] = {}
        self.tell(target=target, connections=4, **settings)

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.last = json.loads(line) if line else {"event": "end"}
        for trial, counts in self.last.get("trials", {}).items():
            self.trials.setdefault(trial, Counter()).update(counts)
        cells = unpacked(self.last.get("cells", ""), 5)
        self.latencies += sum(number for _, kind, _, _, number in cells if kind == LATENCY)
        return self.last

    def until(self, trial: str, name: str, count: int) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while self.trials.get(trial, Counter())[name] < count:
            assert self.hear()["event"] != "end"
            assert time.monotonic() < deadline_s, f"{name} is {self.trials}"

    def finish(self) -> int:
        self.tell(stop=True)
        while self.hear()["event"] != "end":
            pass
        return self.process.wait(DEADLINE_S)


@contextmanager
def driving(target: str, **settings: Any) -> Iterator[Driven]:
    driven = Driven(target, **settings)
    try:
        yield driven
    finally:
        driven.process.kill()
        driven.process.communicate()


def accounted(counts: Counter[str]) -> int:
    return sum(counts[outcome] for outcome in OUTCOMES)


def test_every_request_of_every_trial_is_accounted_for_and_the_rate_is_what_was_told() -> None:
    with (
        server() as (_, port),
        driving(f"http://127.0.0.1:{port}/healthz", arrivals="constant") as engine,
    ):
        assert engine.hear() == engine.last | {"event": "ready", "connected": 4}
        engine.tell(rate=200, trial=None)
        engine.until("-1", "scheduled", 40)
        engine.tell(rate=400, trial=0)
        engine.until("0", "scheduled", 300)
        engine.tell(rate=100, trial=1)
        engine.until("1", "scheduled", 50)
        assert engine.finish() == 0
        for trial, rate in (("0", 400), ("1", 100)):
            counts = engine.trials[trial]
            assert counts["scheduled"] == pytest.approx(rate * counts["ns"] / 1e9, abs=2)
            assert counts["answered"] == counts["sent"] == counts["scheduled"]
        assert engine.latencies == sum(c["answered"] for c in engine.trials.values())
        assert engine.last["event"] == "end"


def test_an_order_holds_as_long_as_its_lease_and_no_longer() -> None:
    with server() as (_, port), driving(f"http://127.0.0.1:{port}/healthz") as engine:
        engine.hear()
        engine.tell(rate=200, trial=0, lease_s=0.3)
        engine.until("0", "answered", 20)
        counts: dict[str, int] = {"scheduled": 1}
        while counts["scheduled"]:  # the trial goes on, and nothing is due in it
            counts = engine.hear()["trials"]["0"]
        assert counts["ns"] > 0
        engine.tell(rate=200, trial=1, lease_s=DEADLINE_S)
        engine.until("1", "answered", 20)


def test_what_was_due_while_the_engine_stood_still_is_not_sent_at_once_but_told() -> None:
    with server() as (_, port), driving(f"http://127.0.0.1:{port}/healthz") as engine:
        engine.hear()
        engine.tell(rate=200, trial=0)
        engine.until("0", "answered", 20)
        engine.process.send_signal(signal.SIGSTOP)
        time.sleep(2 * STALL_NS / 1e9)
        engine.process.send_signal(signal.SIGCONT)
        engine.until("0", "stalled_ns", STALL_NS)
        counts = engine.trials["0"]
        moving_s = (counts["ns"] - counts["stalled_ns"]) / 1e9
        assert counts["scheduled"] < 200 * moving_s + 100


def test_failures_and_bytes_are_told_by_class(tmp_path: Path) -> None:
    mix = tmp_path / "mix.toml"
    mix.write_text(
        '[[request]]\npath = "/healthz"\nname = "health"\n'
        '[[request]]\npath = "/nothing"\nname = "missing"\n'
    )
    with (
        server() as (_, port),
        driving(f"http://127.0.0.1:{port}/", mix=str(mix)) as engine,
    ):
        assert engine.hear()["classes"] == [["GET", "health"], ["GET", "missing"]]
        failures, size = Counter[tuple[int, int]](), 0
        engine.tell(rate=200, trial=0)
        while not (failures and size):
            said = engine.hear()
            failures.update({(which, outcome): n for which, outcome, n in said["failures"]})
            size += said["bytes"][0]
            assert said["bytes"][1] == 0
        counts = engine.trials["0"]
    assert failures == {(1, OUTCOMES.index("wrong")): counts["wrong"]}
    assert size == counts["answered"] * len("ok\n")


def test_a_server_that_dies_and_comes_back_costs_what_was_asked_meanwhile() -> None:
    with server() as (first, port), driving(
        f"http://127.0.0.1:{port}/healthz", timeout_s=0.5
    ) as engine:  # fmt: skip
        engine.hear()
        engine.tell(rate=200, trial=0)
        engine.until("0", "answered", 20)
        first.kill()
        first.wait()
        engine.until("0", "never_sent", 20)
        with server(port):
            engine.tell(rate=200, trial=1)
            engine.until("1", "answered", 50)
            engine.tell(rate=0, trial=None)
            assert engine.finish() == 0
    for counts in engine.trials.values():
        assert accounted(counts) == counts["scheduled"]


def test_a_swarm_leaves_nothing_to_the_garbage_collector() -> None:
    """It is off in an engine, which has no end."""
    with fault_server() as server, Path(os.devnull).open("w") as nowhere:
        url = f"http://127.0.0.1:{server.port}/t/fresh"
        settings = Settings(url, connections=4, arrivals="constant")
        orders, pen = os.pipe()
        engine = Engine(settings, settings.config(), orders, nowhere)
        os.write(pen, b'{"rate": 1000, "trial": 0}\n')

        def stop_after_enough() -> None:
            deadline_s = time.monotonic() + DEADLINE_S
            while engine.counted_count < 400 and time.monotonic() < deadline_s:
                time.sleep(0.01)
            os.write(pen, b'{"stop": true}\n')

        stop = threading.Thread(target=stop_after_enough)
        stop.start()
        gc.collect()
        gc.disable()
        try:
            engine.run()
            assert gc.collect() < 50
        finally:
            gc.enable()
        stop.join()
        os.close(pen)
    assert engine.counted_count >= 400


def test_a_reply_whose_head_is_known_takes_the_short_way() -> None:
    with server() as (_, port), Path(os.devnull).open("w") as nowhere:
        settings = Settings(f"http://127.0.0.1:{port}/healthz", connections=4, arrivals="constant")
        orders, pen = os.pipe()
        engine = Engine(settings, settings.config(), orders, nowhere)
        long_ways: list[bytes] = []
        received = engine.connections.received

        def counted(connection: Connection, data: bytes) -> None:
            long_ways.append(data)
            received(connection, data)

        engine.connections.received = counted  # type: ignore[method-assign]
        os.write(pen, b'{"rate": 200, "trial": 0}\n')
        stop = threading.Timer(0.7, os.write, (pen, b'{"stop": true}\n'))
        stop.start()
        engine.run()
        stop.join()
        os.close(pen)
        os.close(orders)
    assert engine.counted_count > 50
    assert len(long_ways) <= 4 * 3  # each connection's first, and once a second a new Date


def test_it_ends_when_nobody_holds_its_standard_input_any_more() -> None:
    with server() as (_, port), driving(f"http://127.0.0.1:{port}/healthz") as engine:
        engine.hear()
        engine.tell(rate=100, trial=0)
        engine.until("0", "answered", 10)
        assert engine.process.stdin is not None
        engine.process.stdin.close()
        assert engine.process.wait(DEADLINE_S) == 0
        engine.process.stdin = None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://127.0.0.1:9/", "nothing listens"),
        ("http://192.0.2.1:80/", "--allow-remote"),
        ("https://127.0.0.1/", "only http://"),
    ],
)
def test_what_cannot_be_loaded_is_one_message_and_status_2(target: str, words: str) -> None:
    with driving(target) as engine:
        assert words in engine.hear()["message"]
        assert engine.last["event"] == "error"
        assert engine.process.wait(DEADLINE_S) == 2


def test_the_counts_of_a_report_are_the_outcomes_and_a_few_more() -> None:
    assert set(OUTCOMES) < set(COUNTS)
