"""What a TOML file says of a server, read into an `ExternalSpec`; docs/external-servers.md.

Every complaint about such a file is made here, in one line, before anything
starts.  Placeholders are replaced one by one and exactly: a configuration file
of nginx is full of braces that are its own.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from sedabench.errors import UserError, one_line, unknown
from sedabench.machine.facts import nearby
from sedabench.machine.process import finish
from sedabench.targets.ours import architectures

BUILT_IN = Path(__file__).with_name("servers.toml")

SERVICES = ("static", "dynamic", "mixed", "burst")
"""What a server may offer: the workloads of the experiments."""

PLACEHOLDERS = ("port", "docroot", "dir", "cores", "connections", "here", "python", "user")
KEYS = (
    "title", "command", "ready", "services", "package", "version", "environment", "stop_signal",
    "files",
)  # fmt: skip

USUAL_CONNECTIONS = 256
"""What `{connections}` is when nobody says."""

_LABEL = re.compile(r"[^\s=\-][^\s=]*")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_LOOKS_LIKE_ONE = re.compile(r"\{([a-z_]+)\}")
_IN_A_FILE = re.compile(r"(?<!\$)" + _LOOKS_LIKE_ONE.pattern)
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian puts servers, and no ordinary user's PATH looks."""


@dataclass(frozen=True)
class Ready:
    """Ready is a server that accepts connections and, with a path, answers GET with `status`."""

    path: str | None = None
    status: int = 200


@dataclass(frozen=True)
class ExternalSpec:
    """A server to compare that is not ours; `label` names it in tables, figures and `trials.csv`.

    Command, environment and files still have their placeholders.
    """

    label: str
    title: str
    command: tuple[str, ...]
    source: Path
    """The file that defines it; `{here}` is its folder."""
    services: tuple[str, ...] = ("static",)
    ready: Ready = Ready()
    package: str | None = None
    version_command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    stop_signal: int = signal.SIGTERM
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Path within `{dir}` -> contents."""

    architecture: ClassVar[str] = "external"
    options: ClassVar[tuple[str, ...]] = ()

    def missing(self, python: str = sys.executable) -> str | None:
        """Why it cannot be started here, with what to do about it; None when it can."""
        program = self._early(self.command[0], python)
        if find_program(program) is not None:
            return None
        cure = f"install the Debian package {self.package}" if self.package else "install it first"
        return f"{self.label}: there is no program {program!r} here; {cure}"

    def version(self, python: str = sys.executable) -> str | None:
        """The first line that the version command writes, for the manifest; None without one."""
        if not self.version_command:
            return None
        program, *rest = (self._early(word, python) for word in self.version_command)
        try:
            done = finish(
                [find_program(program) or program, *rest],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=10, check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        return one_line(lines[0])[:200] if lines else None

    def facts(self, python: str = sys.executable) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "title": self.title,
            "command": list(self.command),
            "version": self.version(python),
            "definition": nearby(str(self.source)),
            "files": dict(self.files),
        }

    def _early(self, word: str, python: str) -> str:
        """A word of a command before there is a port: programs are at fixed places."""
        return substitute(word, {"python": python, "here": str(self.source.parent)})


def substitute(text: str, values: Mapping[str, object]) -> str:
    """Replace `{port}` and its like where `values` has them; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda found: str(values.get(found[1], found[0])), text)


def find_program(name: str) -> str | None:
    """The absolute path of a program, also where only root's PATH looks."""
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_FOLDERS)
    return None if found is None else str(Path(found).absolute())


def user_name() -> str:
    """Whose processes ours are; the number when the user has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def load_external(paths: Iterable[Path] = ()) -> dict[str, ExternalSpec]:
    """The servers that come with the project and those of the given files, by label.

    A person's definition takes the place of one of ours of the same name.

    Raises:
        UserError: a file cannot be read, or says something that cannot be.
    """
    theirs: dict[str, ExternalSpec] = {}
    for path in paths:
        for label, spec in _read(path).items():
            if label in theirs:
                raise UserError(
                    f"{path} and {theirs[label].source} both define [server.{label}]; rename one"
                )
            theirs[label] = spec
    return _read(BUILT_IN) | theirs


def available(
    specs: Mapping[str, ExternalSpec], service: str | None = None
) -> dict[str, ExternalSpec]:
    """Those whose program is installed, and that offer `service`."""
    return {
        label: spec
        for label, spec in specs.items()
        if (service is None or service in spec.services) and spec.missing() is None
    }


def joining(
    specs: Mapping[str, ExternalSpec], service: str, ours: Collection[str] | None = None
) -> tuple[ExternalSpec, ...]:
    """Those that are compared when nobody names servers: all that offer `service`.

    A person's are wanted, so one that is not installed stays, to be complained
    about.  Those of the project join when they are installed and, where `ours` is
    given, among these.
    """
    return tuple(
        spec
        for label, spec in specs.items()
        if service in spec.services
        and (
            spec.source != BUILT_IN or ((ours is None or label in ours) and spec.missing() is None)
        )
    )


# -- reading ------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, ExternalSpec]:
    path = path.absolute()
    shown = nearby(str(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{shown} is no TOML: {error}") from None
    _only(document, ("server",), shown)
    servers = document.get("server")
    if not isinstance(servers, dict) or not servers:
        raise UserError(f"{shown} defines no server; it needs a table [server.NAME]")
    return {label: _spec(label, table, path, shown) for label, table in servers.items()}


def _spec(label: str, table: Any, path: Path, shown: str) -> ExternalSpec:
    where = f"{shown}: [server.{label}]"
    if not isinstance(table, dict):
        raise UserError(f"{shown}: server.{label} is no table; write [server.NAME] and its keys")
    if not _LABEL.fullmatch(label):
        raise UserError(f"{where}: a name has no space, no '=' and no '-' in front")
    if not label.isprintable():
        raise UserError(f"{shown}: {label!r}: a name takes no characters that cannot be seen")
    if label in architectures():
        raise UserError(f"{where}: {label!r} is an architecture of this project; rename it")
    _only(table, KEYS, where)
    if "command" not in table:
        raise UserError(f'{where} has no command; it needs one: command = ["program", "{{port}}"]')
    command = _words(table, "command", where)
    if not command:
        raise UserError(f"{where}: command is empty")
    version = _words(table, "version", where) if "version" in table else ()
    _placeholders_known((*command, *version), where)
    services = _words(table, "services", where) if "services" in table else ("static",)
    for service in services:
        if service not in SERVICES:
            raise UserError(f"{where}: {unknown('service', service, SERVICES)}")
    if not services:
        raise UserError(f"{where}: services is empty; known: {', '.join(SERVICES)}")
    environment = table.get("environment", {})
    if not isinstance(environment, dict) or not all(map(_is_text, environment.values())):
        raise UserError(f"{where}: environment is a table of NAME = 'text'")
    _placeholders_known(environment.values(), where)
    return ExternalSpec(
        label=label,
        title=_text(table, "title", where) or label,
        command=command,
        source=path,
        services=services,
        ready=_ready(table.get("ready", "tcp"), where),
        package=_text(table, "package", where),
        version_command=version,
        environment=environment,
        stop_signal=_signal(_text(table, "stop_signal", where) or "SIGTERM", where),
        files=_files(table.get("files", {}), path.parent, where),
    )


def _ready(value: Any, where: str) -> Ready:
    if value == "tcp":
        return Ready()
    if isinstance(value, str):
        method, _, path = value.partition(" ")
        value = {"path": path.strip()} if method == "GET" else None
    if isinstance(value, dict):
        _only(value, ("path", "status"), f"{where}: ready")
        target, status = value.get("path"), value.get("status", 200)
        is_path = isinstance(target, str) and re.fullmatch(r"/[!-~]*", target)
        if is_path and type(status) is int and 100 <= status <= 599:
            return Ready(target, status)
    raise UserError(f'{where}: ready is "tcp", "GET /path" or {{ path = "/path", status = 200 }}')


def _files(value: Any, folder: Path, where: str) -> dict[str, str]:
    """`files`: the text itself, or `{ from = "path" }`, a path beside the TOML file."""
    if not isinstance(value, dict):
        raise UserError(f'{where}: files is a table of "name" = "contents"')
    files = {}
    for name, contents in value.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.parts:
            raise UserError(f"{where}: files: {name!r} is not a path within {{dir}}")
        if isinstance(contents, dict):
            _only(contents, ("from",), f"{where}: files: {name}")
            origin = folder / str(contents.get("from", ""))
            try:
                contents = origin.read_text(encoding="utf-8")
            except (OSError, ValueError):
                raise UserError(f"{where}: files: {origin} cannot be read") from None
        if not isinstance(contents, str):
            raise UserError(f'{where}: files: {name!r} is a text or {{ from = "path" }}')
        _placeholders_spelt(contents, f"{where}: files: {name}")
        files[name] = contents
    return files


def _signal(name: str, where: str) -> int:
    known = [number.name for number in signal.Signals]
    if name not in known:
        raise UserError(f"{where}: {unknown('signal', name, known)}")
    return signal.Signals[name]


def _placeholders_known(texts: Iterable[str], where: str) -> None:
    for text in texts:
        for name in _LOOKS_LIKE_ONE.findall(text):
            if name not in PLACEHOLDERS:
                raise UserError(f"{where}: {unknown('placeholder', name, PLACEHOLDERS)}")


def _placeholders_spelt(text: str, where: str) -> None:
    """A file is full of braces of its own; only what is nearly a placeholder is taken for one."""
    for name in _IN_A_FILE.findall(text):
        if name not in PLACEHOLDERS and any(_nearly(name, known) for known in PLACEHOLDERS):
            raise UserError(f"{where}: {unknown('placeholder', name, PLACEHOLDERS)}")


def _nearly(name: str, known: str) -> bool:
    """Two letters exchanged, or one too many or too few; one wrong only in a long name."""
    return sorted(name) == sorted(known) or SequenceMatcher(None, name, known).ratio() > 0.8


def _only(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UserError(f"{where}: {unknown('key', key, keys)}")


def _words(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table[key]
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise UserError(f'{where}: {key} is a list of words: {key} = ["one", "two"]')
    return tuple(value)


def _text(table: Mapping[str, Any], key: str, where: str) -> str | None:
    value = table.get(key)
    if value is not None and not _is_text(value):
        raise UserError(f"{where}: {key} is a text that is not empty")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value
