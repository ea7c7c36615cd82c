"""What is kept of a trial beside its row: `trials/NNN.json`, read.

A figure or a sentence that needs more than a row (a timeline, a distribution)
asks here.  A record that is not there is None, for a run may be shared without
its records; one that cannot be understood is damage, and is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sedabench.errors import DamagedRunError, one_line
from sedabench.results.folder import Run


def raw_trial(run: Run, trial: int) -> dict[str, Any] | None:
    """The record of a trial; None when the folder has none: `Run.raw`."""
    return run.raw(trial)


@contextmanager
def damage_is_named(run: Run, what: str) -> Iterator[None]:
    """What a folder's odd content raises inside becomes one line that names `what` it spoils.

    Raises:
        DamagedRunError: in place of KeyError, TypeError, AttributeError, ValueError, IndexError.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise DamagedRunError(
            f"{run.path} is damaged: {what} ({one_line(repr(error))}); "
            "restore manifest.json, trials.csv and trials/"
        ) from error
