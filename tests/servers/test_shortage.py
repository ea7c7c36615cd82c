"""What is said when the system gives no more of something."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from servers import shortage
from servers.shortage import is_shortage, limit_reached

NO_THREAD = RuntimeError("can't start new thread")


def limits(monkeypatch: pytest.MonkeyPatch, **found: int) -> None:
    """These limits, and no others."""
    by_kind = {getattr(resource, name): limit for name, limit in found.items()}
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (by_kind.get(kind, unlimited), unlimited)
    )


def test_no_thread_is_told_by_the_limit_that_was_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shortage, "_control_group_limit", lambda: 0)
    limits(monkeypatch, RLIMIT_NPROC=77)
    assert limit_reached(NO_THREAD) == (
        "the limit on processes and threads is 77; raise it (ulimit -u)"
    )
    limits(monkeypatch, RLIMIT_NPROC=77, RLIMIT_AS=1 << 20)
    assert "address space is 1 MB" in limit_reached(NO_THREAD)
    limits(monkeypatch, RLIMIT_NPROC=77, RLIMIT_AS=1 << 40)
    assert "processes and threads" in limit_reached(NO_THREAD)
    assert "address space" in limit_reached(NO_THREAD, stack_bytes=1 << 40)


def test_root_is_exempt_from_the_limit_on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    limits(monkeypatch, RLIMIT_NPROC=77)
    monkeypatch.setattr(shortage, "_control_group_limit", lambda: 500)
    assert "threads of the control group is 500" in limit_reached(NO_THREAD)
    monkeypatch.setattr(shortage, "_control_group_limit", lambda: 0)
    assert "77" not in limit_reached(NO_THREAD)


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max"), (errno.ENOMEM, "memory")],
)
def test_what_a_system_call_lacked_is_told(code: int, says: str) -> None:
    error = OSError(code, os.strerror(code))
    assert is_shortage(error)
    assert says in limit_reached(error)


def test_a_fault_is_no_shortage() -> None:
    assert is_shortage(NO_THREAD)
    assert is_shortage(MemoryError())
    assert not is_shortage(RuntimeError("something else"))
    assert not is_shortage(OSError(errno.EINVAL, ""))
