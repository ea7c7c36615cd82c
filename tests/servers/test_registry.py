"""An architecture or a service of one's own is named where it lies, and mistakes are one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.architecture import ARCHITECTURES, Architecture
from servers.options import UsageError
from servers.registry import find
from servers.service import Service
from servers.services import SERVICES

OWN = '''
from dataclasses import dataclass

from servers.architecture import Architecture
from servers.options import option

@dataclass(frozen=True)
class IdleOptions:
    naps: int = option(1, "naps")

class Idle(Architecture):
    """Does nothing at all.

    And that well.
    """
    Options = IdleOptions
    def run(self): pass

class Plain(Idle):
    name, summary = "plain", "nothing, plainly"

class Half(Architecture): pass
number = 1

@dataclass(frozen=True)
class WithoutOption:
    naps: int = 1

class Bare(Idle):
    Options = WithoutOption

class Loose(Idle):
    class Options:
        naps = 1
'''


@pytest.fixture(autouse=True)
def _unchanged_search_path() -> Iterator[None]:
    before = sys.path.copy()
    yield
    sys.path[:] = before


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "queue.py"  # like a standard module, which must not matter
    path.write_text(OWN)
    return path


def architecture(name: str) -> type[Architecture]:
    return find("architecture", Architecture, name, ARCHITECTURES)  # type: ignore[type-abstract]


def test_a_class_in_a_file_is_found_by_both_their_names(own: Path) -> None:
    found = architecture(f"{own}:Plain")
    assert (found.name, found.summary, found.Options.__name__) == (
        "plain", "nothing, plainly", "IdleOptions",
    )  # fmt: skip


def test_what_it_does_not_say_of_itself_is_read_off_the_class(own: Path) -> None:
    found = architecture(f"{own}:Idle")
    assert (found.name, found.summary) == ("Idle", "Does nothing at all")


def test_a_file_is_found_from_the_current_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    assert architecture("queue.py:Idle").name == "Idle"
    assert architecture("./queue.py:Idle") is architecture("queue.py:Idle"), "loaded once"
    import queue

    assert hasattr(queue, "Queue"), "the standard module is still the standard one"


def test_a_class_in_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "idle.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    assert architecture("own_package.idle:Idle").name == "Idle"


def test_a_file_may_import_its_neighbours(own: Path) -> None:
    (own.parent / "neighbour_of_queue.py").write_text("from servers.services.burst import Burst")
    with_neighbour = own.parent / "with_neighbour.py"
    with_neighbour.write_text("from neighbour_of_queue import Burst")
    found = find("service", Service, f"{with_neighbour}:Burst", SERVICES)  # type: ignore[type-abstract]
    assert found.name == "burst"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fibers", "there are: threaded, eventloop, seda; or name one of your own"),
        ("{own}", "or name one of your own: path/to/file.py:ClassName"),
        ("nowhere.py:Idle", "there is no file nowhere.py in"),
        ("no/where:Idle", "there is no file no/where in"),
        ("{folder}:Idle", "there is no file"),
        ("{own}:Idol", "has no 'Idol'; architecture there: Idle, Plain, Bare, Loose"),
        (
            "{own}:Bare",
            "'naps' in Options of {own}:Bare is not an option; declare it as naps = option(",
        ),
        ("{own}:Loose", "Options of {own}:Loose must be a class marked @dataclass"),
        ("{own}:number", "is not a subclass of servers.architecture.Architecture, as an"),
        ("{own}:Half", "is incomplete: an architecture must define run"),
        ("no_such_module:Idle", "there is no module 'no_such_module'"),
        ("json:Idle", "json has no 'Idle'; there is no architecture in it"),
        (":Idle", "cannot be loaded"),
        ("{folder}/broken.py:Idle", "ZeroDivisionError: division by zero"),
        ("{folder}/broken.py:Idle", "broken.py line 2)"),
        ("{folder}/wrong.py:Idle", "cannot be loaded: SyntaxError"),
        ("{folder}/exits.py:Idle", "cannot be loaded: SystemExit: 3 ({folder}/exits.py line 2)"),
        ("{folder}/asks.py:Idle", "{folder}/asks.py line 3)"),
        ("{folder}/lacking.py:Idle", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("{folder}/notes.txt:Idle", "is not a Python file"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(own: Path, name: str, says: str) -> None:
    (own.parent / "broken.py").write_text("\n1 / 0\n")
    (own.parent / "wrong.py").write_text("def (\n")
    (own.parent / "exits.py").write_text("import sys\nsys.exit(3)\n")
    asks = "import argparse\nparser = argparse.ArgumentParser()\nparser.parse_args(['x'])\n"
    (own.parent / "asks.py").write_text(asks)
    (own.parent / "lacking.py").write_text("import no_such_module\n")
    (own.parent / "notes.txt").write_text("not Python")
    with pytest.raises(UsageError) as caught:
        architecture(name.format(own=own, folder=own.parent))
    assert says.format(own=own, folder=own.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
