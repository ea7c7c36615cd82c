"""Finding a class by what a person calls it: a name of ours, or where their own is.

    eventloop                        in a registry, "module:class" by name
    examples/own_service.py:Upper    a class in a file
    my_package.servers:PerCore       a class in a module that can be imported

A file is loaded once, under a name that no module can have, so one called
queue.py stands in nobody's way.  What it imports beside itself is found as if
it were run, but never before anything else: its folder goes to the end of
`sys.path`, and so does the current one for a module.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from servers.options import UsageError

Base = TypeVar("Base")


@dataclass(frozen=True)
class NoOptions:
    """Of a class that names no `Options` of its own."""


def find(kind: str, base: type[Base], name: str, registry: Mapping[str, str]) -> type[Base]:
    """The class that `name` means: a `base`, which people call a `kind`.

    Where it says nothing, its `name` is that of the class, its `summary` the first
    line of the docstring, and it has no `Options`.

    Raises:
        UsageError: there is none, it cannot be loaded, or it is something else.
    """
    if name not in registry and ":" not in name:
        raise UsageError(
            f"there is no {kind} {name!r}; there are: {', '.join(registry)}; "
            "or name one of your own: path/to/file.py:ClassName"
        )
    where, _, attribute = registry.get(name, name).rpartition(":")
    module = _load(where)
    found = getattr(module, attribute, None)
    if found is None:
        raise UsageError(f"{where} has no {attribute!r}; {_offers(module, kind, base)}")
    if not isinstance(found, type) or not issubclass(found, base):
        home = f"{base.__module__}.{base.__name__}"
        raise UsageError(f"{name} is no {kind}: it must be a class made from {home}")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise UsageError(f"{name} is no whole {kind}: it lacks {lacking}")
    about = (found.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    for attribute, default in (
        ("name", found.__name__), ("summary", about), ("Options", NoOptions),
    ):  # fmt: skip
        if not getattr(found, attribute, None):
            setattr(found, attribute, default)
    if name not in registry:
        _check_options(name, getattr(found, "Options", None))
    return found


def _check_options(name: str, options: Any) -> None:
    """Fields become options of the command line: `servers.options`."""
    if not isinstance(options, type) or not dataclasses.is_dataclass(options):
        raise UsageError(f"Options of {name} must be a class marked @dataclass(frozen=True)")
    for field in dataclasses.fields(options):
        if "text" not in field.metadata:
            raise UsageError(
                f"{field.name!r} in Options of {name} is no option: make it with "
                f'{field.name} = option(DEFAULT, "what it is"), of servers.options'
            )


def _offers(module: ModuleType, kind: str, base: type[Any]) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)
    ]
    return f"{kind} there: {', '.join(own)}" if own else f"there is no {kind} in it"


def _load(where: str) -> ModuleType:
    """The module `where`, or the file, if it looks like one."""
    is_file = where.endswith(".py") or os.sep in where
    path = Path(where).expanduser().absolute()
    if is_file and not path.is_file():
        raise UsageError(f"there is no file {where} in {Path.cwd()}; check the path")
    _search_too(path.parent if is_file else Path.cwd())
    try:
        return _load_file(path) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not is_file and error.name is not None and f"{where}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {where!r}; a file is named as path/to/file.py:ClassName"
            ) from None
        raise UsageError(_why_not(where, error)) from None
    except (Exception, SystemExit) as error:  # it is somebody's own code: whatever it raises
        raise UsageError(_why_not(where, error)) from None


def _search_too(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _load_file(path: Path) -> ModuleType:
    name = f"file {path}".replace(".", "_")  # a dot would make its parent a package
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file; its name should end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _why_not(where: str, error: Exception | SystemExit) -> str:
    """In one line: what was raised, and in which line of whose file."""
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, SyntaxError):
        at, text = f"{error.filename} line {error.lineno}", error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        last = next((f for f in reversed(frames) if not _is_library(f.filename)), frames[-1])
        at, text = f"{last.filename} line {last.lineno}", str(error)
    return f"{where} cannot be loaded: {type(error).__name__}: {text} ({at})"


def _is_library(filename: str) -> bool:
    """Python's own code, where nobody looks for their mistake."""
    return filename.startswith(("<frozen", sysconfig.get_path("stdlib") + os.sep))
