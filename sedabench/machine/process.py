"""Start, pin, watch and stop the two processes of a trial.

The rules of this file:

- No orphans.  A child is killed by the kernel when the driver dies, whatever
  kills the driver (`PR_SET_PDEATHSIG`), what it started itself by a `Guard`,
  and both by `Child.stop` in every other case.  A child leads a session of its
  own, so a Ctrl-C in the terminal reaches the driver only, which then decides
  in which order things end.
- No wait without a deadline.
- No thread in the driver: a driver that sleeps in `poll` costs the
  measurement nothing.  Hence a pipe read by hand instead of `communicate`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from loadgen.lifeline import die_with
from sedabench.errors import one_line

_INTERRUPTIONS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}

_PLACE = re.compile(r'  File "(.+)", line (\d+), in ')

STOP_S = 5.0
"""How long a child may take over SIGTERM before it gets SIGKILL."""


class ChildError(Exception):
    """A child ended, or did not do what it should have done in time.  One line."""


def before_exec(cores: Collection[int], parent: int) -> Callable[[], None]:
    """What the child does between fork and exec: die with its parent, stay on its cores."""

    def prepare() -> None:
        die_with(parent)
        if cores:
            os.sched_setaffinity(0, cores)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTIONS)

    return prepare


def finish(
    command: Sequence[str], *, cores: Collection[int] = (), **how: Any
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run` of something short: it dies with us, too, if we are killed meanwhile."""
    return subprocess.run(command, preexec_fn=before_exec(cores, os.getpid()), **how)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Around a fork: an interruption comes after it, not within.

    A KeyboardInterrupt inside one of Python's own handlers of fork() would be
    printed and forgotten.  The child has to unblock the signals: `before_exec`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cpu_clock(pid: int) -> int:
    """The clock of a whole process's CPU time: clock_getcpuclockid(3), which Python lacks.

    /proc/PID/stat says the same in ticks of 10 ms, 1 % of a window of a second.
    """
    return (~pid << 3) | 2


class Guard:
    """A shell that waits for us to die, and then kills a process group.

    The kernel's signal reaches a child, but nobody whom that has started: a
    server's worker processes, say.  A shell starts in a millisecond, and this
    one sleeps in `read`, which fails when nobody holds the pipe any more.
    """

    # In the background, so that it is nobody's child: ours are the two of a trial.
    _SCRIPT = 'exec 3<&0; { read -r _ <&3 || { sleep "$2"; kill -s KILL -- "-$1"; }; } &'

    def __init__(self, group: int, grace_s: float) -> None:
        with subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT, "guard", str(group), f"{grace_s:g}"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as shell:  # fmt: skip
            assert shell.stdin is not None
            self._pipe = os.dup(shell.stdin.fileno())

    def release(self) -> None:
        """The group is gone."""
        try:
            os.write(self._pipe, b"\n")
        except BrokenPipeError:  # somebody has killed the guard
            pass
        os.close(self._pipe)


class Child:
    """A process that speaks JSON lines on its standard output.

    Standard error goes to an unnamed file, so a talkative child never blocks,
    and its last line is there when a reason is needed.

    Use it as a context manager: the process is gone after the block.
    """

    alone_s = 0.0
    """How long what it started may take to end when the driver has died."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        cores: Collection[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        process: subprocess.Popen[bytes] | None = None
        guard: Guard | None = None
        try:
            with uninterrupted():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=self._stderr,
                    env=None if environment is None else dict(environment),
                    start_new_session=True,
                    preexec_fn=before_exec(cores, os.getpid()),
                )
                guard = Guard(process.pid, self.alone_s)
        except (OSError, subprocess.SubprocessError, KeyboardInterrupt) as error:
            if process is not None:  # an interruption came meanwhile, or there is no guard
                process.kill()
                process.communicate()
            if guard is not None:
                guard.release()
            self._stderr.close()
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ChildError(f"{name} cannot be started: {error}") from None
        self._process, self._guard = process, guard
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._pending = bytearray()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # An orderly end is worth waiting for; when something already went wrong, it is not.
        self.stop(grace_s=STOP_S if kind is None else 0.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def next_message(self, deadline_ns: int, what: str) -> dict[str, Any]:
        """The next JSON line; `ChildError` when it ends, talks nonsense, or is late.

        `deadline_ns` is on the clock of `time.monotonic_ns`; `what` completes
        the sentence "it did not ...".
        """
        while (end := self._pending.find(b"\n")) < 0:
            if self._ended:
                raise ChildError(self._death())
            wait_ms = (deadline_ns - time.monotonic_ns()) / 1e6
            if wait_ms <= 0:
                raise ChildError(f"{self.name} did not {what} in time{self._last_words()}")
            if self._poll.poll(wait_ms):
                chunk = os.read(self._stdout.fileno(), 1 << 20)
                self._pending += chunk
                self._ended = not chunk
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            text = one_line(line.decode(errors="replace"))[:80]
            raise ChildError(f"{self.name} wrote a line that is no JSON object: {text!r}")
        return message

    def wait_readable(self, deadline_ns: int) -> bool:
        """Wait until there is something to read; False when the deadline came first."""
        if b"\n" in self._pending or self._ended:
            return True
        wait_ms = max(0.0, (deadline_ns - time.monotonic_ns()) / 1e6)
        return bool(self._poll.poll(wait_ms))

    def stop(self, grace_s: float = STOP_S) -> int:
        """Make it end: SIGTERM, then after `grace_s` SIGKILL to its whole group."""
        if self._stdout.closed:
            return self._process.wait()
        try:
            if grace_s > 0 and self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(grace_s)
                except subprocess.TimeoutExpired:
                    pass
        finally:  # also when a second Ctrl-C comes during the wait
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            self._process.wait()
            self._guard.release()
            self._stdout.close()
            self._stderr.close()
        return self._process.returncode

    def _death(self) -> str:
        """How it ended, in words, for the reason of an invalid trial."""
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return f"{self.name} closed its output{self._last_words()}"
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            how = f"ended with exit status {status}"
        return f"{self.name} {how}{self._last_words()}"

    def _last_words(self) -> str:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 4096))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        if not lines:
            return ""
        # Of a traceback the last line says what, and the last place where.
        where = next((at for line in reversed(lines) if (at := _PLACE.match(line))), None)
        place = f" ({os.path.basename(where[1])} line {where[2]})" if where else ""  # noqa: PTH119
        return f": {one_line(lines[-1]).removeprefix('error: ')[:300]}{place}"
