"""Which servers a run compares: `--server` as text, as a value, as a command.

threaded                           an architecture, with the experiment's settings for it
threaded --writers 16              an architecture with options of its own
pool16=threaded --writers 16       the same, under a label of one's own
mine.py:PerCore --processes 4      an architecture of one's own, in a file or a module
nginx                              a third-party server (`targets.external`), where it can serve
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from sedabench.errors import SettingError, UserError, unknown
from sedabench.machine.facts import Interpreter
from sedabench.targets.external.definition import ExternalSpec
from sedabench.targets.ours import architectures

_LABEL = re.compile(r"\s*([^\s=\-][^\s=]*)\s*=\s*(.*)", re.DOTALL)
_RESERVED = ("--service", "--host", "--port", "--admin-port", "--packets", "--packet-bytes")


@dataclass(frozen=True)
class ServerSpec:
    """A server to compare; `label` names it in tables, figures and `trials.csv`."""

    label: str
    architecture: str
    """As `servers` takes it; a file of one's own from the current folder, never from the root."""
    options: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Label and options, for legends: "threaded (--writers 120)"."""
        options = shlex.join(self.options)
        return f"{self.label} ({options})" if options and options not in self.label else self.label

    def command(self, interpreter: Interpreter, service: str, options: Sequence[str]) -> list[str]:
        """The command line of the server, on ports that the kernel chooses.

        `options` are the experiment's; the server's own come last, so they win.
        """
        return [
            interpreter.path, "-P", "-m", "servers", self.architecture, "--service", service,
            "--host", "127.0.0.1", "--port", "0", "--admin-port", "0", *options, *self.options,
        ]  # fmt: skip


AnyServer: TypeAlias = ServerSpec | ExternalSpec


def parse_spec(
    text: str,
    defaults: Mapping[str, tuple[str, ...]],
    external: Mapping[str, ExternalSpec] = MappingProxyType({}),
) -> AnyServer:
    """Read one `--server`; `defaults` are an experiment's options by architecture.

    Raises:
        SettingError: no such server, or an option that the experiment sets itself.
    """
    match = _LABEL.fullmatch(text)
    label, body = (match[1], match[2]) if match else (None, text)
    try:
        words = shlex.split(body)
    except ValueError as error:
        raise SettingError(
            "servers", f"{text!r} cannot be read: {error}; check its quotes"
        ) from None
    if label is not None and not label.isprintable():
        raise SettingError("servers", f"{text!r}: a label takes no characters that cannot be seen")
    if not words:
        raise SettingError("servers", f"{text!r} names no architecture; write eventloop, perhaps")
    architecture, *options = words
    if architecture in external:
        if options or label:
            raise SettingError(
                "servers",
                f"{text!r}: {architecture} takes neither options nor another name; "
                "write a definition of your own",
            )
        return external[architecture]
    known = {**architectures(), **external}
    if ":" in architecture:
        architecture = words[0] = _own(architecture)
        label = label or " ".join([architecture.rpartition(":")[2], *options])
    elif architecture not in known:
        raise unknown("server", architecture, known)
    for word in options:
        if word.split("=")[0] in _RESERVED:
            raise SettingError(
                "servers", f"{text!r}: {word} is set by the experiment; leave it out"
            )
    if not options:
        return ServerSpec(label or architecture, architecture, defaults.get(architecture, ()))
    return ServerSpec(label or " ".join(words), architecture, tuple(options))


def _own(name: str) -> str:
    """`file.py:Class` or `module:Class`, the file as it is found from the current folder.

    What else can be wrong with it the server says when it is tried.
    """
    where, _, attribute = name.rpartition(":")
    if not where or not attribute:
        raise SettingError("servers", f"{name!r} names no class; write path/to/file.py:ClassName")
    if not (where.endswith(".py") or os.sep in where):
        return name
    path = Path(where).expanduser()
    if not path.is_file():
        raise SettingError("servers", f"{name!r}: there is no file {where}; check the path")
    return f"{os.path.relpath(path)}:{attribute}"


def parse_specs(
    texts: Sequence[str],
    defaults: Mapping[str, tuple[str, ...]],
    external: Mapping[str, ExternalSpec] = MappingProxyType({}),
) -> tuple[AnyServer, ...]:
    """Read every `--server`; labels must differ.

    Raises:
        UserError: as `parse_spec`, or two servers have one label.
    """
    specs = tuple(parse_spec(text, defaults, external) for text in texts)
    labels = [spec.label for spec in specs]
    for label, text in zip(labels, texts, strict=True):
        if labels.count(label) > 1:
            unnamed = _LABEL.sub(r"\2", text).strip().replace("'", "'\"'\"'")
            quoted = f"'NAME={unnamed}'"
            raise UserError(
                f"two servers are called {label!r}; give one a name of its own: {quoted}"
            )
    return specs
