"""The program that stands between the driver and a server that speaks no JSON.

    python adapter.py JOB        JOB is the JSON of `sedabench.targets.external.server.Job`

It starts the server, waits until it is ready, and then says so on standard
output as our own servers do: one line with host, port and pid.  What the server
itself writes, on either output, goes to our standard error, whose last lines the
driver quotes; what we have to say goes there too, each line after `MARK`.  From
then on it sleeps.  It ends as the server ends.

It is also why nothing stays behind.  A server may fork workers, and those may
leave their group or lose their parent; as their subreaper (prctl(2)) this
process is the parent of whatever else has none, so its descendants are the whole
tree.  On SIGTERM, which the kernel also sends when the driver dies, the server
gets its stop signal, and after `GRACE_S` what is left of the tree gets SIGKILL.

It imports the standard library and psutil, and nothing of this project: it is
run by its path, wherever the driver was started.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

import psutil

GRACE_S = 2.0
"""How long the server may take over its stop signal; less than the driver's patience with us."""
MARK = "adapter:"
"""Begins a line of ours in the server's output; the last one counts, an empty one takes it back."""
PAUSE_S = 0.01
"""Between two attempts to connect, before it is ready."""
ASKED_AGAIN_S = 0.1
"""Between two questions that it answers, though not as it should: it may log each of them."""
SETTLE_S = 0.1
"""It is ready when it answers and has had as many threads for so long: a server of many
processes answers when it has forked the first, and would go on forking in the measurement."""
SETTLED_S = 5.0
"""The longest that this is waited for: some servers make and end threads all the time."""
FOREVER_S = 3600.0
PROBE_S = 1.0
"""How long a server may take over the answer that says it is ready."""
MOST_DESCRIPTORS = 1 << 20
"""Some programs walk through all that they might have."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_HEARD = _STOPS | {signal.SIGCHLD}
_libc = ctypes.CDLL(None, use_errno=True)

Job = dict[str, Any]


class NeverReadyError(Exception):
    """It says that the client is wrong (4xx), which time does not cure."""


def main(job: Job) -> int:
    """Run the server until it ends or we are told to stop; return our exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # The server may open /dev/stderr for itself: then two write to one file.
    fcntl.fcntl(2, fcntl.F_SETFL, fcntl.fcntl(2, fcntl.F_GETFL) | os.O_APPEND)
    _raise_descriptor_limit()
    server = _start(job)
    try:
        return _follow(server, job)
    finally:
        _kill_tree(server)


def _follow(server: subprocess.Popen[bytes], job: Job) -> int:
    questions = _become_ready(job)
    pause_s: float | None = PAUSE_S  # None: it is ready
    while True:
        heard = signal.sigtimedwait(_HEARD, FOREVER_S if pause_s is None else pause_s)
        if heard is not None and heard.si_signo in _STOPS:
            return _stop(server, job["stop_signal"])
        _reap(server)
        if server.returncode is not None:
            if pause_s is not None and server.returncode == 0 and _descendants():
                return _complain("went to the background; let it stay in the foreground")
            return _as(server.returncode)
        if pause_s is not None:
            try:
                pause_s = next(questions, None)
            except NeverReadyError as error:
                return _complain(str(error))
            if pause_s is None:
                print(json.dumps({**job["announce"], "pid": server.pid}), flush=True)


def _become_ready(job: Job) -> Iterator[float]:
    """Ends when the server is ready; yields how long to wait before the next look, in s."""
    host, port = job["announce"]["host"], job["announce"]["port"]
    path, expected = job["ready"]["path"], job["ready"]["status"]
    said = None
    while (answer := ask(host, port, path)) != expected:
        if answer is None:
            yield PAUSE_S
            continue
        if 400 <= answer < 500:
            raise NeverReadyError(f"answered {answer} to GET {path}")
        if answer != said:
            said = answer
            _complain(f"answers {answer} to GET {path}")
        yield ASKED_AGAIN_S
    if said is not None:
        _complain("")
    before, deadline = -1, time.monotonic() + SETTLED_S
    while (threads := _thread_count()) != before and time.monotonic() < deadline:
        before = threads
        yield SETTLE_S


def ask(host: str, port: int, path: str | None) -> int | None:
    """The status of the answer to GET; without a path that of a connection, 200; None: none."""
    try:
        if path is None:
            socket.create_connection((host, port), PROBE_S).close()
            return 200
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_S)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before
                connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return None


def _start(job: Job) -> subprocess.Popen[bytes]:
    def prepare() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, job["stop_signal"], 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)

    try:
        return subprocess.Popen(
            job["command"], stdin=subprocess.DEVNULL, stdout=2, stderr=2, cwd=job["dir"],
            preexec_fn=prepare,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(_complain(f"cannot be started: {error}"))


def _reap(server: subprocess.Popen[bytes]) -> None:
    """Collect who ended: the server, and orphans of it that are ours now."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == server.pid:
            server.returncode = os.waitstatus_to_exitcode(status)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _thread_count() -> int:
    count = 0
    for process in _descendants():
        try:
            count += process.num_threads()
        except psutil.Error:  # it ended meanwhile
            continue
    return count


def _stop(server: subprocess.Popen[bytes], number: int) -> int:
    if server.returncode is None:
        os.kill(server.pid, number)
    deadline = time.monotonic() + GRACE_S
    while _descendants() and time.monotonic() < deadline:
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)
        _reap(server)
    _kill_tree(server)
    ended_as_asked = server.returncode in (0, -number)
    return 0 if ended_as_asked or server.returncode is None else _as(server.returncode)


def _kill_tree(server: subprocess.Popen[bytes]) -> None:
    """SIGKILL to what is left, until nothing is: who forks meanwhile is met in the next round."""
    while left := _descendants():
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        _reap(server)


def _as(returncode: int) -> int:
    """Our exit status when the server ended by itself: its own."""
    if returncode >= 0:
        return returncode
    return _complain(f"was killed by {signal.Signals(-returncode).name}")


def _complain(text: str) -> int:
    print(f"\n{MARK} {text}", file=sys.stderr, flush=True)  # the server may be within a line
    return 1


def _raise_descriptor_limit() -> None:
    """A connection is a descriptor; our own servers raise the limit in the same way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run() -> NoReturn:
    sys.exit(main(json.loads(sys.argv[1])))


if __name__ == "__main__":
    run()
