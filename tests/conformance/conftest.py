"""Fixtures: every test that takes `variant` or `server` runs against every architecture."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from tests.conformance.server import VARIANTS, Server

PACKETS = 3
PACKET_BYTES = 100


@pytest.fixture(scope="session", autouse=True)
def _descriptors() -> None:
    """The tests open connections by the thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="module", params=VARIANTS, ids=" ".join)
def variant(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """An architecture and its options."""
    parameters: tuple[str, ...] = request.param
    return parameters


@pytest.fixture(scope="module")
def server(variant: tuple[str, ...]) -> Iterator[Server]:
    """One server for all the tests of a module that do it no harm; small bursts."""
    with Server(
        *variant, "--packets", str(PACKETS), "--packet-bytes", str(PACKET_BYTES)
    ) as running:
        yield running
