"""`BurstUser` and `WebUser`: plain Locust users, to be combined with anything of Locust's.

Both are closed loops, one connection a user: the next begins when the last is
answered.  What one process of them can drive is what Locust can, a few
thousand requests a second; `EngineUser` (`swarm/engine_user.py`) is for more.
"""

from __future__ import annotations

import itertools
import logging
import time
from functools import cache

import gevent
from gevent import socket
from locust import FastHttpUser, User, task
from locust.env import Environment

from loadgen.burst.loop import ACK_BYTES
from loadgen.demand.mixes import Mix
from loadgen.errors import LoadError
from loadgen.http.loop import CHOICES
from loadgen.http.probe import open_mix, read_url
from loadgen.net.connecting import error_kind
from loadgen.net.targets import resolve
from loadgen.swarm import options as locust_options
from loadgen.swarm.engine_user import may_be_remote

log = logging.getLogger("sedabench")

PACKET_BYTES, PACKETS = 8192, 1000

AFTER_A_FAILURE_S = 0.1
"""Before a connection is opened again; a server that is gone is not to be hammered."""

TIMEOUT_S = 30.0


class BurstUser(User):
    """One connection: bursts of 1000 packets of 8 KB, each answered by an ACK of 32 bytes.

    Locust shows them as type BURST: the response time is that from the first
    byte of the burst to the ACK, the size what was sent.
    """

    abstract = True
    _sock: socket.socket | None = None

    @task
    def burst(self) -> None:
        begun_s = time.perf_counter()
        sent, failure = 0, None
        try:
            if self._sock is None:
                self._sock = self._connect()
                begun_s = time.perf_counter()
            packet = bytes(PACKET_BYTES)
            for _ in range(PACKETS):
                self._sock.sendall(packet)
                sent += PACKET_BYTES
            self._receive_ack(self._sock)
        except (OSError, LoadError) as error:
            failure = error
            self.on_stop()
        self.environment.events.request.fire(
            request_type="BURST", name="burst", response_length=sent,
            response_time=(time.perf_counter() - begun_s) * 1e3, context=self.context(),
            exception=None if failure is None else LoadError(_why(failure)),
        )  # fmt: skip
        if failure is not None:
            gevent.sleep(AFTER_A_FAILURE_S)

    def on_stop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _connect(self) -> socket.socket:
        where = locust_options.host_port(self.environment.parsed_options)
        target = resolve(where, allow_remote=may_be_remote(self.environment))
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(target.address)
        except OSError:
            sock.close()
            raise
        return sock

    def _receive_ack(self, sock: socket.socket) -> None:
        received = 0
        while received < ACK_BYTES:
            data = sock.recv(ACK_BYTES + 1)
            received += len(data)
            if not data or received > ACK_BYTES:
                raise LoadError("closed" if not data else "unexpected bytes")


def _why(failure: OSError | LoadError) -> str:
    """One text for all failures of a kind, so that Locust counts them together."""
    if isinstance(failure, TimeoutError):
        return "timeout"
    return error_kind(failure.errno) if isinstance(failure, OSError) else str(failure)


@cache
def _mix_of(target: str, mix: str, allow_remote: bool) -> tuple[str, Mix]:
    """The base of all URLs, and the mix; asked once a process."""
    url = read_url(target, allow_remote=allow_remote)
    return f"http://{url.host}", open_mix(url, mix or None)


def _end(environment: Environment, why: str) -> None:
    """No user of this process can do anything: one line, once, and exit status 2."""
    if environment.process_exit_code != 2:
        environment.process_exit_code = 2
        log.error("error: %s", why)
        assert environment.runner is not None
        gevent.spawn(environment.runner.quit)


class WebUser(FastHttpUser):
    """One connection: requests of `--mix` by weight, each checked, without a pause.

    Locust shows them by their class in the mix; 503 is the failure "rejected".
    """

    abstract = True
    host = "http://127.0.0.1"  # until on_start; Locust wants one
    _numbers = itertools.count()

    def on_start(self) -> None:
        options = self.environment.parsed_options
        try:
            self._base, self._mix = _mix_of(
                locust_options.target(options), options.mix, may_be_remote(self.environment)
            )
        except LoadError as error:
            _end(self.environment, str(error))
            raise gevent.GreenletExit from None
        seed = int(options.seed) + next(self._numbers)
        self._chosen = itertools.cycle(self._mix.choose(CHOICES, seed).tolist())

    @task
    def request(self) -> None:
        template = self._mix.templates[next(self._chosen)]
        with self.client.request(
            template.method, self._base + template.path, name=template.name,
            headers=dict(template.headers), data=template.body or None, catch_response=True,
            allow_redirects=False,
        ) as reply:  # fmt: skip
            wanted = template.reply_bytes
            if reply.status_code == 503:
                reply.failure("rejected (503)")
            elif reply.status_code != template.status:
                if reply.status_code:  # 0: FastHttpUser has said what went wrong
                    reply.failure(f"status {reply.status_code}, not {template.status}")
            elif wanted is not None and len(reply.content or b"") != wanted:
                reply.failure(f"wrong length, not {wanted} bytes")
            else:
                reply.success()
