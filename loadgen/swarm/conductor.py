"""The master's side of a swarm: who works, and at which share of the rate.

Ten times a second the conductor looks at the shape's clock and at the workers
that are there, and tells each worker its share: the rate times the shape's
factor, divided by the number of workers whose engine runs.  One that joins is
counted from its first report on; one that has not reported for `LOST_S` is not,
and the others get its part.  Its own lease (`engine_user.LEASE_S`) has ended
before, so that together they never send more than was asked for.

Locust's own notion of a missing worker comes too late for that: its heartbeat
takes five seconds to tell.  Its requests/s count from when users were spawned,
seconds before engines have anything to do; the conductor sets that right too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner

from loadgen.errors import LoadError
from loadgen.swarm.engine_user import REPORT, REPORT_S, SHARE, EngineUser, version
from loadgen.swarm.record import Record
from loadgen.swarm.shapes import PlanShape

log = logging.getLogger("sedabench")

LOST_S = 3.0

TURN_S = 0.1

ALL_THERE_S = 15.0
"""How long the run waits for the engines of all workers before it begins with those it has."""

WRITE_S = 1.0
"""From one version of the record to the next; what a master that is killed takes with it."""

WRITING = 0.05
"""Of the time at most: the record of a long run is large."""


@dataclass
class Member:
    """A worker, as far as its reports tell."""

    id: str
    seen_s: float = 0.0
    ready: bool = False
    error: str = ""
    ahead_s: float = float("inf")
    """What to add to its clock to have ours: the least that was seen."""
    in_flight: int = 0
    rate: float = 0.0
    told: tuple[float, int | None] | None = None
    told_s: float = 0.0
    lost: bool = False
    """It left, or was not heard of for too long."""
    missed: bool = False
    """It sent nothing while there was load, and the record says so."""


class Conductor:
    """Made by the locustfile on the master, or where there is neither master nor worker."""

    def __init__(self, environment: Environment, parameters: dict[str, Any]) -> None:
        self.environment = environment
        self.record = Record(parameters)
        self.path = Path(parameters["record"]) if parameters["record"] else None
        self.members: dict[str, Member] = {}
        self._refused: set[str] = set()
        self._begun_s = time.monotonic()
        self._asked_s = 0.0
        self._ended_s = 0.0
        self._load_begun_s = 0.0
        """By the wall clock, as Locust counts; 0: not yet."""
        self._trial: int | None = None
        self._write_at_s = 0.0
        self._fresh = False
        """Something was reported that is not in the file yet."""
        runner = environment.runner
        assert runner is not None
        self._write("running")
        runner.register_message(REPORT, self._on_report)
        environment.events.test_start.add_listener(lambda **_: self._reset())  # type: ignore[no-untyped-call]
        environment.events.quit.add_listener(lambda **_: self._write("complete"))  # type: ignore[no-untyped-call]
        gevent.spawn(self._conduct)

    def _reset(self) -> None:
        """A new run begins, perhaps not the first of this process."""
        if self._fresh:
            self._write("complete")
        options, now_s = vars(self.environment.parsed_options), time.monotonic()
        parameters = {name: options.get(name, old) for name, old in self.record.parameters.items()}
        self.record = Record(parameters, self.record.run + 1, now_s)
        self._begun_s = self._asked_s = now_s
        self._ended_s, self._load_begun_s, self._trial = 0.0, 0.0, None
        for member in self.members.values():
            self._note(member.id)
            member.told = None
            member.error = ""
            member.missed = False

    # From the workers

    def _on_report(self, environment: Environment, msg: Any, **_: Any) -> None:
        data, now_s = msg.data, time.monotonic()
        name = msg.node_id
        if data["version"] != version():
            self._refuse(name, data["version"])
            return
        member = self.members.setdefault(name, Member(name))
        member.lost = False
        if member.missed and data["ready"]:
            member.missed = False
            self.record.warn(f"worker {name} is back", self._trial)
        elif not data["ready"] and (member.ready or (data["error"] and not member.error)):
            self._miss(member, data["error"] or "its engine stands still")
        member.seen_s, member.error = now_s, data["error"]
        member.ready = data["ready"]
        member.ahead_s = min(member.ahead_s, now_s - data["now_s"])
        self.record.workers.setdefault(name, {}).update(
            data["machine"], connected=data["connected"]
        )
        if data["classes"]:
            self.record.classes = [(method, of) for method, of in data["classes"]]
        for report in data["news"]:
            self._fresh = True
            member.in_flight, member.rate = report["in_flight"], report["rate"]
            self.record.add(name, report, report["at_s"] + member.ahead_s - self._begun_s)

    def _miss(self, member: Member, why: str) -> None:
        """A worker sends no more; while there is load, that is to be known."""
        member.told = None
        runner = self.environment.runner
        assert runner is not None
        if member.missed or self._ended_s or runner.state not in ("spawning", "running"):
            return
        member.missed = True
        text = f"worker {member.id}: {why}"
        if len(self.members) > 1:
            text += "; the others have its share"
            log.warning(text)
        self.record.warn(text, self._trial)

    def _note(self, name: str) -> None:
        self.record.workers.setdefault(name, {"connected": 0})

    def _refuse(self, name: str, theirs: str) -> None:
        text = f"this worker is {theirs}, its master {version()}: install the same version on both"
        self._send(name, {"refused": text})
        if name not in self._refused:
            self._refused.add(name)
            log.error("error: worker %s refused: it is %s, and this is %s", name, theirs, version())

    # To the workers

    def _conduct(self) -> None:
        while True:
            try:
                self._turn(time.monotonic())
            except LoadError as error:
                self._give_up(str(error))
            gevent.sleep(TURN_S)

    def _turn(self, now_s: float) -> None:
        runner = self.environment.runner
        assert runner is not None
        live = self._live(now_s)
        running = runner.state in ("spawning", "running")
        for member in self.members.values():  # nothing to do, but a master that is there
            if member not in live and not member.lost and now_s - member.told_s > REPORT_S:
                member.told_s = now_s
                self._send(member.id, {"rate": 0.0, "trial": None, "now_s": now_s})
        if not any(map(_is_engine, self.environment.user_classes)):
            return
        rate, trial = self._wanted(now_s, live) if running else (0.0, None)
        self._trial = trial
        if rate and live:
            self._load_begun_s = self._load_begun_s or time.time()
        if self._load_begun_s and all(map(_is_engine, self.environment.user_classes)):
            self.environment.stats.total.start_time = self._load_begun_s
        for member in live:
            wanted = (rate / len(live), trial)
            if member.told != wanted or now_s - member.told_s > REPORT_S:
                member.told, member.told_s = wanted, now_s
                self._send(member.id, {"rate": wanted[0], "trial": trial, "now_s": now_s})
        if running and not live:
            failed = [member for member in self.members.values() if member.error]
            if failed and len(failed) == len(self.members):
                raise LoadError(failed[0].error)
        if self._fresh and now_s >= self._write_at_s:
            self._write("running" if running else "complete")

    def _live(self, now_s: float) -> list[Member]:
        runner = self.environment.runner
        found = []
        for member in self.members.values():
            if isinstance(runner, MasterRunner) and member.id not in runner.clients:
                if not member.lost:
                    member.lost = True
                    self._miss(member, "it left")
            elif now_s - member.seen_s > LOST_S:
                if not member.lost:
                    member.lost = True
                    self._miss(member, "it was lost")
            elif member.ready:
                found.append(member)
        return found

    def _wanted(self, now_s: float, live: list[Member]) -> tuple[float, int | None]:
        """Requests per second of all workers together, and the trial they are for."""
        rate = float(self.environment.parsed_options.rate)  # type: ignore[union-attr]
        shape = self.environment.shape_class
        if not isinstance(shape, PlanShape):
            self.record.asked(0, 1.0, "steady", now_s - self._begun_s)
            return rate, 0
        shape.engines = True
        if not shape.begun:
            workers = getattr(self.environment.runner, "worker_count", 1)
            all_there = len(live) >= workers and live
            if not all_there and not (live and now_s - self._asked_s > ALL_THERE_S):
                return 0.0, None
            shape.begin()
            self._begun_s = self.record.begun_s = now_s
        step = shape.step
        if step is None:
            self._ended_s = self._ended_s or now_s
            waited_s = now_s - self._ended_s
            quiet = all(member.rate == 0 and not member.in_flight for member in live)
            shape.drained = (quiet and waited_s > 2 * REPORT_S) or (
                waited_s > float(self.record.parameters["timeout"]) + 3
            )
            return 0.0, None
        shape.drained = False
        if step.trial is not None:
            self.record.asked(step.trial, step.factor, step.phase, now_s - self._begun_s)
        return rate * step.factor, step.trial

    def _send(self, name: str, data: dict[str, Any]) -> None:
        runner = self.environment.runner
        assert runner is not None
        runner.send_message(SHARE, data, client_id=name)

    def _give_up(self, message: str) -> None:
        """This run cannot be; with a web page another may."""
        log.error("error: %s", message)
        self.record.error = message
        self._write("failed")
        runner = self.environment.runner
        assert runner is not None
        if self.environment.web_ui is not None:
            runner.stop()
        else:
            self.environment.process_exit_code = 2
            runner.quit()

    def _write(self, status: str) -> None:
        begun_s, self._fresh = time.monotonic(), False
        if self.path is not None:
            path, self.path = self.path, None
            try:
                self.record.write(path, "failed" if self.record.error else status)
            except OSError as error:  # not tried again
                raise LoadError(f"--record {path} cannot be written: {error.strerror}") from None
            self.path = path
        took_s = time.monotonic() - begun_s
        self._write_at_s = begun_s + max(WRITE_S, took_s / WRITING)


def _is_engine(user: type) -> bool:
    return issubclass(user, EngineUser)
