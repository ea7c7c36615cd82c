"""Keys and values to the settings of an experiment: what the command, notebooks and suites share.

A key is a field of the experiment's frozen dataclass (`Figure1`, `Overload`,
`Peers`).  Its annotation says what it may be; `check` of the experiment says
whether this machine can do it.  `servers` are texts here, as behind --server.
An experiment that can be run from settings has a line in `KINDS`.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from sedabench.errors import UserError, unknown
from sedabench.experiments import Runnable, figure1, find, overload, peers
from sedabench.experiments import base as common
from sedabench.experiments.base import Bench
from sedabench.experiments.site import Site
from sedabench.targets import servers as servers_under_test
from sedabench.targets.external import load_external
from sedabench.targets.servers import AnyServer
from sedabench.trials.trial import Workload

COMMON_KEYS = ("quick", "servers", "definitions")
"""What an experiment takes beside the other fields of its settings."""

MOST_REPEATS = 10_000
"""Beyond it a plan is a slip of the keyboard, and would not fit into memory."""

Servers = Callable[[Any, Sequence[str] | None, Sequence[Path]], tuple[AnyServer, ...] | None]


@dataclass(frozen=True)
class Kind:
    """An experiment that can be run from keys and values."""

    config: Any
    """The dataclass of its settings, with the class methods `full` and `quick`."""
    servers: Servers
    """`(settings without them, texts or None, definitions)` -> servers, None for the default."""
    workload: Callable[[Any, Bench], Workload]
    """Any workload of a run with these settings, to try servers with."""
    definitions: bool = True
    """Whether servers that are not ours can be compared."""


def configure(
    experiment: str,
    settings: Mapping[str, Any],
    *,
    quick: bool = False,
    servers: Iterable[str] | None = None,
    definitions: Iterable[str | os.PathLike[str]] = (),
    also_known: Iterable[str] = (),
) -> Any:
    """The settings of an experiment, as its `run` wants them.

    `settings` are fields without `servers`; `also_known` are keys that the caller
    takes for itself, for the hint when a key is unknown.

    Raises:
        UserError: no such experiment, key or server, or a value of the wrong type.
    """
    kind = kind_of(experiment)
    known = types_of(experiment)
    changes = {}
    for key, value in settings.items():
        if key not in known:
            names = {*known, *COMMON_KEYS, *also_known}
            raise unknown(f"setting of {experiment}", key, names)
        changes[key] = converted(key, value, known[key])
    if not isinstance(quick, bool):
        raise UserError(f"quick must be true or false, not {quick!r}")
    texts = None if servers is None else converted("servers", servers, "tuple[str, ...]")
    if texts == ():
        raise UserError("servers is empty; leave it out for the servers that are the default")
    paths = [Path(path) for path in converted("definitions", definitions, "tuple[str, ...]")]
    if paths and not kind.definitions:
        raise UserError(f"{experiment} takes no definitions: only our servers speak its protocol")
    make = kind.config.quick if quick else kind.config.full
    asked = kind.servers(make(**changes), texts, paths)
    config = make(**changes) if asked is None else make(**changes, servers=asked)
    if config.seed < 0:
        raise UserError("--seed must be at least 0")
    if config.repeats > MOST_REPEATS:
        raise UserError(f"--repeats must be at most {MOST_REPEATS}")
    return config


def kind_of(experiment: str) -> Kind:
    """Raises UserError: there is no such experiment, or it is not run this way."""
    if experiment in KINDS:
        return KINDS[experiment]
    if experiment == "swarm":
        raise UserError("a swarm is run by a command of its own; see sedabench swarm --help")
    raise unknown("experiment", experiment, KINDS)


def runnable(experiment: str) -> Runnable:
    """The module that runs it.  Raises UserError as `kind_of`."""
    kind_of(experiment)
    return cast(Runnable, find(experiment))


def types_of(experiment: str) -> dict[str, str]:
    """The settings of an experiment, without `servers`: key -> annotation."""
    kind = kind_of(experiment)
    return {f.name: str(f.type) for f in fields(kind.config) if f.name != "servers"}


def try_servers(experiment: str, config: Any) -> None:
    """Start and stop each server of a run once; make the files that it will serve.

    Raises:
        UserError: one does not start, or `python` is no interpreter.
    """
    bench = Bench.of(config.python)
    common.try_servers(config.servers, KINDS[experiment].workload(config, bench), bench)


# -- values -------------------------------------------------------------------------------


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)  # numpy's too


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not math.isfinite(number := float(value)):
        raise ValueError
    return number


def _text(value: Any) -> str:
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise ValueError
    return text


def _list_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def convert(values: Any) -> tuple[Any, ...]:
        if isinstance(values, str | bytes | Mapping):
            raise TypeError
        return tuple(map(one, values))

    return convert


def _levels_of(one: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Ascending, as the command has them: the order of trials is drawn from this one."""
    convert = _list_of(one)
    return lambda values: tuple(sorted(convert(values)))


_TYPES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "int": ("a whole number", _whole),
    "float": ("a finite number", _number),
    "str": ("a text", _text),
    "str | None": ("a text", lambda value: None if value is None else _text(value)),
    "tuple[str, ...]": ("a list of texts", _list_of(_text)),
    "tuple[int, ...]": ("a list of whole numbers", _levels_of(_whole)),
    "tuple[float, ...]": ("a list of finite numbers", _levels_of(_number)),
}
"""Annotation -> how a person calls it, and what makes it of a value or fails."""


def converted(key: str, value: Any, annotation: str) -> Any:
    """`value` as a field of that annotation holds it.

    Raises:
        UserError: it is of another type.
    """
    meaning, convert = _TYPES[annotation]
    try:
        return convert(value)
    except (TypeError, ValueError, OverflowError):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UserError(f"{key} must be {meaning}, not {shown}") from None


FLAGS = {
    "--server": "servers", "--definitions": "definitions", "--connections": "connections",
    "--load": "loads", "--workload": "workload", "--slo": "slo_ms", "--timeout": "timeout_s",
    "--repeats": "repeats", "--duration": "duration_s", "--warmup": "warmup_s",
    "--seed": "seed", "--python": "python", "--packets": "packets",
    "--packet-bytes": "packet_bytes", "--out": "out",
}  # fmt: skip
"""An option of `sedabench run` -> the key that says the same."""
_FLAG = re.compile("(" + "|".join(FLAGS) + r")(?![\w-])")


@contextmanager
def in_keys(where: str = "") -> Iterator[None]:
    """Errors raised inside name keys where the command would name options, after `where`."""
    try:
        yield
    except UserError as error:
        text = _FLAG.sub(lambda found: FLAGS[found[1]], str(error))
        raise type(error)(where + text) from error.__cause__


# -- experiments --------------------------------------------------------------------------


def _of_figure1(
    _config: figure1.Figure1, texts: Sequence[str] | None, _definitions: Sequence[Path]
) -> tuple[AnyServer, ...] | None:
    if texts is None:
        return None
    return servers_under_test.parse_specs(texts, figure1.DEFAULT_OPTIONS)


def _of_overload(
    config: overload.Overload, texts: Sequence[str] | None, definitions: Sequence[Path]
) -> tuple[AnyServer, ...] | None:
    external = load_external(definitions)
    if texts is None:
        return overload.with_theirs(config, external) if definitions else None
    return servers_under_test.parse_specs(texts, overload.default_options(config), external)


def _of_peers(
    _config: peers.Peers, texts: Sequence[str] | None, definitions: Sequence[Path]
) -> tuple[AnyServer, ...] | None:
    external = load_external(definitions)
    if texts is None:
        return peers.everything(external) if definitions else None
    return servers_under_test.parse_specs(texts, {}, external)


_ANY_SPEED = {"compute_loops_per_us": 1.0}
"""To try a server with, no calibration is needed."""


def _overload_workload(config: overload.Overload, bench: Bench) -> Workload:
    site = Site.prepare(config.workload, bench, _ANY_SPEED)
    return config.workload_of(site, overload.plan_of(config)[0], 0.0)


def _peers_workload(config: peers.Peers, bench: Bench) -> Workload:
    return config.workload_of(Site.prepare(peers.WORKLOAD, bench, _ANY_SPEED), 1)


KINDS: dict[str, Kind] = {
    "figure1": Kind(
        figure1.Figure1, _of_figure1, lambda config, _: config.workload(1), definitions=False
    ),
    "overload": Kind(overload.Overload, _of_overload, _overload_workload),
    "peers": Kind(peers.Peers, _of_peers, _peers_workload),
}
"""name -> how it is run from keys and values."""
