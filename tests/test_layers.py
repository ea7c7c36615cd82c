"""Who may import whom: what the contracts of pyproject.toml (`make check`) cannot say."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import grimp
import pytest

PACKAGES = ("sedabench", "loadgen", "servers")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Of all imports, those within functions and those for types alone included."""
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    """The contract compares siblings; here a package's `__init__` is a module like any other."""
    assert list(cycles(graph)) == []


def test_a_cycle_of_modules_is_found() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "b")):
        graph.add_import(importer=importer, imported=imported)
    assert list(cycles(graph)) == [["b", "c"]]


def test_the_servers_need_the_standard_library_and_httptools_alone(
    graph: grimp.ImportGraph,
) -> None:
    imported = {
        other.split(".")[0]
        for name in graph.modules
        if name.split(".")[0] == "servers"
        for other in graph.find_modules_directly_imported_by(name)
    }
    assert imported - sys.stdlib_module_names - {"servers"} == {"httptools"}


def cycles(graph: grimp.ImportGraph) -> Iterator[list[str]]:
    """Modules that import each other, by whatever way: each such group once."""
    seen: set[str] = set()
    for name in sorted(graph.modules):
        group = {other for other in graph.find_downstream_modules(name)
                 if other in graph.find_upstream_modules(name)}  # fmt: skip
        if group and name not in seen:
            seen |= group
            yield sorted({name, *group})
