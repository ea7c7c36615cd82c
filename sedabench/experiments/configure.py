"""Keys and values to the settings of an experiment: what the command, notebooks and suites share.

A key is a field of the experiment's `Settings`, which says what it may be;
`check` of the experiment says whether this machine can do it.  `servers` are
texts here, as behind --server.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sedabench.errors import SettingError, unknown
from sedabench.experiments.base import Experiment
from sedabench.experiments.settings import converted
from sedabench.targets.servers import parse_specs

COMMON_KEYS = ("quick", "servers", "definitions")
"""What an experiment takes beside the other fields of its settings."""


def configure(
    experiment: Experiment,
    settings: Mapping[str, Any],
    *,
    quick: bool = False,
    servers: Iterable[str] | None = None,
    definitions: Iterable[str | os.PathLike[str]] = (),
    also_known: Iterable[str] = (),
) -> Any:
    """The settings of an experiment, as it is carried out with them.

    `settings` are fields without `servers`; `also_known` are keys that the caller
    takes for itself, for the hint when a key is unknown.

    Raises:
        UserError: no such key or server, or a value that cannot be.
    """
    known = keys_of(experiment)
    for key in settings:
        if key not in known:
            names = {*known, *COMMON_KEYS, *also_known}
            raise unknown(f"setting of {experiment.name}", key, names)
    if not isinstance(quick, bool):
        raise SettingError("quick", f"must be true or false, not {quick!r}")
    texts = None if servers is None else converted("servers", servers, tuple[str, ...])
    if texts == ():
        raise SettingError("servers", "is empty; leave it out for the servers that are the default")
    paths = [Path(path) for path in converted("definitions", definitions, tuple[str, ...])]
    if paths and not experiment.definitions:
        raise SettingError(
            "definitions", f"is nothing for {experiment.name}: it compares servers of ours only"
        )
    made = experiment.Settings.of(settings, quick=quick)
    external = experiment.external(paths)
    if texts is None:
        return made.but(servers=experiment.usual_servers(made, external, quick=quick))
    return made.but(servers=parse_specs(texts, experiment.usual_options(made), external))


def keys_of(experiment: Experiment) -> list[str]:
    """The settings of an experiment, without `servers`."""
    return [key for key in experiment.Settings.model_fields if key != "servers"]
