"""Temporary folders that outlive nobody: what a killed process leaves, the next one removes.

A folder is locked (flock) by the process that made it for as long as that lives;
the kernel drops the lock however it ends, `kill -9` included.  So a folder with
our name whose lock is free belongs to nobody, and one of a run that goes on is
not touched.  The lock is on the folder itself: no file of ours lies in it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "sedabench-scratch-"
_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder for the length of the block, in the folder for temporary files."""
    sweep()
    path, lock = _locked()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def sweep() -> None:
    """Remove the folders that killed processes of this user have left."""
    try:
        found = list(Path(tempfile.gettempdir()).iterdir())
    except OSError:
        return
    for path in found:
        if not _NAME.fullmatch(path.name):
            continue
        try:
            lock = _lock(path)
        except OSError:  # in use, or not a folder
            continue
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _locked() -> tuple[Path, int]:
    """A new folder and its lock.  Between the two somebody may sweep it away: then another."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        try:
            lock = _lock(path)
        except (FileNotFoundError, BlockingIOError):
            continue
        except OSError:  # no locks in this file system: then nobody sweeps there either
            return path, os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        if path.is_dir():
            return path, lock
        os.close(lock)


def _lock(path: Path) -> int:
    """A descriptor that holds the lock, and is not inherited.  Raises OSError."""
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
