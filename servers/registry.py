"""Finding a class by a registered name, or by its file or module.

    eventloop                        in a registry, "module:class" by name
    examples/own_service.py:Upper    a class in a file
    my_package.servers:PerCore       a class in a module that can be imported

A file is loaded once, under a name that no module can have, so that a file called
queue.py shadows nothing.  It can import its neighbours as if it were run as a
script, but they shadow nothing either: its folder is appended to `sys.path`, and so is
the current folder for a module.
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
    """For a class without `Options` of its own."""


def find(kind: str, base: type[Base], name: str, registry: Mapping[str, str]) -> type[Base]:
    """The class that `name` means: a subclass of `base`; messages call it a `kind`.

    What it does not define has a default: `name` is that of the class, `summary` the first
    line of its docstring, and `Options` is empty.

    Raises:
        UsageError: it does not exist, cannot be loaded, or is not a `base`.
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
        raise UsageError(f"{name} is not a subclass of {home}, as {_a(kind)} must be")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise UsageError(f"{name} is incomplete: {_a(kind)} must define {lacking}")
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
    """Its fields become command line options: `servers.options`."""
    if not isinstance(options, type) or not dataclasses.is_dataclass(options):
        raise UsageError(f"Options of {name} must be a class marked @dataclass(frozen=True)")
    for field in dataclasses.fields(options):
        if "text" not in field.metadata:
            raise UsageError(
                f"{field.name!r} in Options of {name} is not an option; declare it as "
                f'{field.name} = option(DEFAULT, "help text"), from servers.options'
            )


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


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
    except (Exception, SystemExit) as error:  # it is user code: it may raise anything
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
        raise UsageError(f"{path} is not a Python file; its name should end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _why_not(where: str, error: Exception | SystemExit) -> str:
    """In one line: what was raised, and in which file and line."""
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
    """Is it Python's own code, where the mistake is unlikely to be?"""
    return filename.startswith(("<frozen", sysconfig.get_path("stdlib") + os.sep))
