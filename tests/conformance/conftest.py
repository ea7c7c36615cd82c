"""Fixtures: every test that takes `variant` or `server` runs against every architecture.

Against one of your own, with its options if it has any:

    pytest tests/conformance --architecture 'path/to/file.py:Class --threads 4'
"""

from __future__ import annotations

import resource
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.server import VARIANTS, Server

PACKETS = 3
PACKET_BYTES = 100


@pytest.fixture(scope="session", autouse=True)
def _descriptors() -> None:
    """The tests open connections by the thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--architecture", action="append", metavar="'NAME [OPTIONS]'",
        help="test this one, as `sedabench serve` takes it, in place of all; repeat it",
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`variant`: an architecture and its options."""
    if "variant" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--architecture", default=None) or ()
        variants = [_found(shlex.split(text)) for text in asked] or VARIANTS
        metafunc.parametrize("variant", variants, ids=" ".join, scope="module")


def _found(variant: list[str]) -> tuple[str, ...]:
    """With the file's path whole: the servers of the tests start in another folder."""
    if not variant:
        raise pytest.UsageError("--architecture: say which, as NAME or path/to/file.py:Class")
    path, colon, name = variant[0].rpartition(":")
    first = f"{Path(path).resolve()}:{name}" if colon else variant[0]
    return (first, *variant[1:])


@pytest.fixture(scope="module")
def server(variant: tuple[str, ...]) -> Iterator[Server]:
    """One server for all the tests of a module that do it no harm; small bursts."""
    with Server(
        *variant, "--packets", str(PACKETS), "--packet-bytes", str(PACKET_BYTES)
    ) as running:
        yield running
