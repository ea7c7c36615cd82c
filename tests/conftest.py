"""Property tests draw the same examples on every run of CI, new ones on every other.

A commit must not fail for an example that has nothing to do with it; new examples are for the
developer who can look at what they find.

And what a test starts is killed when pytest is: a test that is killed cleans nothing up.
"""

import os
import subprocess
from functools import wraps
from typing import Any

from hypothesis import settings

from loadgen.lifeline import die_with

_start = subprocess.Popen.__init__


@wraps(_start)
def _start_to_die_with_us(self: Any, *args: Any, preexec_fn: Any = None, **how: Any) -> None:
    parent = os.getpid()

    def prepare() -> None:
        die_with(parent)
        if preexec_fn is not None:
            preexec_fn()

    _start(self, *args, preexec_fn=prepare, **how)


subprocess.Popen.__init__ = _start_to_die_with_us  # type: ignore[method-assign]

settings.register_profile("repeatable", derandomize=True)
if os.environ.get("SEDABENCH_TESTS") == "repeatable":
    settings.load_profile("repeatable")
