"""`EngineUser`, one a worker: the open-loop engine in a process of its own, seen through Locust.

The worker's side of a swarm.  `Bridge` (one a Locust process) starts the engine
when the first `EngineUser` does, gives it the share that the master's conductor
sends, and twice a second

- folds what the engine counted into Locust's statistics, as if Locust had made
  the requests: its page, CSV and percentiles know no difference;
- reports the same to the conductor, and that this worker is alive.

A share is a lease, kept by the engine itself: one that was told nothing for
`LEASE_S` sends nothing any more, because the others have been given its part,
and its Locust process may be what stands still.

A request that failed counts as one and has no response time, so that Locust's
percentiles are of what was answered, as the engine's own are.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections import Counter, defaultdict
from importlib import metadata
from typing import Any

import gevent
import locust
from locust import User, constant, task
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import StatsEntry, StatsError

from loadgen.engine.account import LATENCY
from loadgen.engine.histogram import ms_of, unpacked
from loadgen.errors import LoadError
from loadgen.http.records import OUTCOMES
from loadgen.swarm import options as locust_options

log = logging.getLogger("sedabench")

PROTOCOL = 2
"""Of the messages between conductor and workers; raised when an old one would misread them."""

REPORT_S = 0.5

LEASE_S = 2.5

MASTER_LOST_S = 10.0
"""A master says something every `REPORT_S`, when there is nothing to do too.  Locust waits for a
minute."""

ENGINE_LOST_S = 2.0
"""An engine reports every half a second; one that does not stands still."""

REPORT, SHARE = "sedabench_report", "sedabench_share"

STOP_S = 2.0
"""How long an engine may take to end; what it had to do was done before."""


def version() -> str:
    """What conductor and worker must agree on."""
    engine = f"sedabench {metadata.version('sedabench')} (protocol {PROTOCOL})"
    return f"{engine}, locust {'.'.join(locust.__version__.split('.')[:2])}"


def machine() -> dict[str, Any]:
    """Whose figures these are, for the run's manifest."""
    return {
        "host": platform.node(),
        "kernel": f"{platform.system()} {platform.release()}",
        "cores_usable": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_average": list(os.getloadavg()),
        "version": version(),
    }


class EngineProcess:
    """A running `loadgen.engine.process`.  Reports are handed to `on_message` as they come."""

    def __init__(self, settings: dict[str, Any], on_message: Any) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadgen.engine.process"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._order = settings
        self.tell(settings)
        self._reader = gevent.spawn(self._read, on_message)

    def tell(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it is gone; its reader has said so

    def _read(self, on_message: Any) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            on_message(json.loads(line))
        status = self._process.wait()
        if status not in (0, 2):
            on_message({"event": "error", "message": f"the engine ended with status {status}"})

    def stop(self) -> None:
        """Let it report and end; kill it if it does not."""
        self.tell({"stop": True})
        try:
            self._reader.join(timeout=STOP_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()


class Bridge:
    """The engine of this process.  Made once, by the locustfile, before any user is."""

    of: Bridge | None = None

    def __init__(self, environment: Environment, allow_remote: bool) -> None:
        self.environment = environment
        self.allow_remote = allow_remote
        self.engine: EngineProcess | None = None
        self.ready = False
        self.error = ""
        self.ended = ""
        self._connected = 0
        self._classes: list[tuple[str, str]] = []
        self._heard_s = 0.0
        """From the conductor; 0: never yet."""
        self._least_delay_s = float("inf")
        """Of its messages, and the difference of the two clocks."""
        self._engine_said_s = 0.0
        self._news: list[dict[str, Any]] = []
        runner = environment.runner
        assert runner is not None
        runner.register_message(SHARE, self._on_share)
        environment.events.test_stop.add_listener(lambda **_: self.stop())  # type: ignore[no-untyped-call]

    def begin_reporting(self) -> None:
        """Once somebody listens: without a master that is the conductor of this process."""
        gevent.spawn(self._keep_reporting)

    def start(self) -> None:
        """Start the engine, unless it runs: a worker needs one, however many users it has."""
        if self.engine is not None:
            return
        self.ready, self.error = False, ""
        try:
            self.engine = EngineProcess(self._settings(), self._on_message)
        except LoadError as error:
            self._fail(str(error))

    def _settings(self) -> dict[str, Any]:
        options = self.environment.parsed_options
        assert options is not None
        index = getattr(self.environment.runner, "worker_index", 0)
        return {
            "target": locust_options.target(options),
            "mix": options.mix or None,
            "connections": int(options.connections),
            "timeout_s": float(options.timeout),
            "slo_s": float(options.slo) / 1e3,
            "arrivals": options.arrivals,
            "seed": int(options.seed) + max(0, index),
            "spin": bool(options.spin),
            "allow_remote": self.allow_remote,
        }

    def stop(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            engine.stop()
        self.ready, self.error = False, ""
        self._report()

    def _fail(self, message: str) -> None:
        self.error = message
        self.ready = False
        if isinstance(self.environment.runner, WorkerRunner):  # else the conductor says it
            log.error("error: %s", message)

    # From the conductor

    def _on_share(self, environment: Environment, msg: Any, **_: Any) -> None:
        if msg.data.get("refused"):
            self._end(msg.data["refused"])
            return
        self._heard_s = now_s = time.monotonic()
        delay_s = now_s - msg.data["now_s"]
        self._least_delay_s = min(self._least_delay_s, delay_s)
        lease_s = LEASE_S - (delay_s - self._least_delay_s)
        if self.engine is not None and self.ready and lease_s > 0:  # else it lay in a queue
            order = {"rate": float(msg.data["rate"]), "trial": msg.data["trial"]}
            self.engine.tell(order | {"lease_s": lease_s})

    def _end(self, why: str) -> None:
        """This worker can do no more: say so, stop, and have exit status 2."""
        self.ended = why
        print(f"error: {why}", file=sys.stderr, flush=True)
        self.environment.process_exit_code = 2
        runner = self.environment.runner
        assert runner is not None
        gevent.spawn(runner.quit)

    # From the engine

    def _on_message(self, message: dict[str, Any]) -> None:
        self._engine_said_s = time.monotonic()
        if message["event"] == "ready":
            self._classes = [(method, name) for method, name in message["classes"]]
            self._connected = message["connected"]
            self.ready = True
        elif message["event"] == "error":
            self._fail(message["message"])
            self.engine = None
        else:
            message["cells"] = unpacked(message["cells"], 5)
            fold(self.environment, self._classes, message)
            self._news.append(message | {"at_s": message["at_ns"] / 1e9})

    def _keep_reporting(self) -> None:
        while not self.ended:
            if self._heard_s and time.monotonic() - self._heard_s > MASTER_LOST_S:
                self._end(f"the master was lost: not a word from it for {MASTER_LOST_S:g} s")
            self._report()
            gevent.sleep(REPORT_S)

    def _report(self) -> None:
        news, self._news = self._news, []
        runner = self.environment.runner
        assert runner is not None
        runner.send_message(
            REPORT,
            {
                "id": getattr(runner, "client_id", "local"),
                "version": version(),
                "machine": machine(),
                "now_s": time.monotonic(),
                "ready": self.ready and time.monotonic() - self._engine_said_s < ENGINE_LOST_S,
                "error": self.error,
                "connected": self._connected,
                "classes": self._classes,
                "news": news,
            },
        )


def fold(environment: Environment, classes: list[tuple[str, str]], report: dict[str, Any]) -> None:
    """Add an engine's report to Locust's statistics."""
    times: defaultdict[int, Counter[float]] = defaultdict(Counter)
    failures: Counter[int] = Counter()
    for _, kind, which, bucket, number in report["cells"]:
        if kind == LATENCY:
            times[which][ms_of(bucket)] += number
    for which, outcome, number in report["failures"]:
        failures[which] += number
        method, name = classes[which]
        says = SAYS[OUTCOMES[outcome]]
        key = StatsError.create_key(method, name, says)
        error = environment.stats.errors.setdefault(key, StatsError(method, name, says))
        error.occurred()
        error.occurrences += number - 1
    behind_s = time.time() - time.monotonic()
    at_s = report["at_ns"] / 1e9 + behind_s
    last_s = report["last_done_ns"] / 1e9 + behind_s if report["last_done_ns"] else at_s
    for which in sorted({*times, *failures}):
        method, name = classes[which]
        entry: Any = StatsEntry(environment.stats, name, method)  # whose types say int
        entry.start_time, entry.last_request_timestamp = at_s - report["elapsed_s"], last_s
        _fill(entry, times[which], failures[which], report["bytes"][which], int(at_s))
        environment.stats.entries[(entry.name, entry.method)].extend(entry)
        environment.stats.total.extend(entry)


SAYS = {
    "rejected": "rejected (503)",
    "wrong": "wrong reply",
    "timeout": "timeout",
    "connection": "connection lost",
    "never_sent": "never sent: no connection was free in time",
}


def _fill(entry: Any, times_ms: Counter[float], failed: int, size: int, second: int) -> None:
    """As it would be, had Locust made the requests.  Those that failed have no time."""
    answered = sum(times_ms.values())
    entry.num_requests = answered + failed
    entry.num_none_requests = entry.num_failures = failed
    entry.total_content_length = size
    entry.response_times = dict(times_ms)
    entry.num_reqs_per_sec = {second: answered + failed}
    entry.num_fail_per_sec = {second: failed} if failed else {}
    if times_ms:
        entry.total_response_time = sum(ms * number for ms, number in times_ms.items())
        entry.min_response_time, entry.max_response_time = min(times_ms), max(times_ms)


def may_be_remote(environment: Environment) -> bool:
    """What this process was given; the master's option is not for it to follow."""
    if Bridge.of is not None:
        return Bridge.of.allow_remote
    return bool(getattr(environment.parsed_options, "allow_remote", False))


class EngineUser(User):
    """This worker's engine.  One a worker is enough; more of them change nothing."""

    abstract = True
    wait_time = constant(1)

    def on_start(self) -> None:
        if Bridge.of is None:
            raise LoadError("EngineUser needs this project's locustfile")
        Bridge.of.start()

    @task
    def stay(self) -> None:
        """The engine works by itself."""
