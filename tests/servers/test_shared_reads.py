"""Who misses the same page at once shares one read; large bodies live while they are sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from servers.service import Request
from servers.services.shared_reads import LargeBodies, LargeBody, SharedReads
from servers.services.web import Web
from servers.services.web_session import WebRequest
from tests.servers.web import get, run, web

DEADLINE_S = 30.0
LARGE = bytes(range(256)) * 400
THREADS = 5


class Disk:
    """Reads that last until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.reads = 0

    def read(self) -> None:
        self.reads += 1
        self.begun.release()
        assert self.let_go.wait(DEADLINE_S)


def all_at_once(work: Callable[[], object], disk: Disk) -> list[Future[object]]:
    """What becomes of `work` in several threads, of which one has begun its read before."""
    with ThreadPoolExecutor(THREADS) as pool:
        first = pool.submit(work)
        assert disk.begun.acquire(timeout=DEADLINE_S)
        others = [pool.submit(work) for _ in range(THREADS - 1)]
        disk.let_go.set()
    return [first, *others]


def nothing(key: str) -> None:
    return None


def test_those_who_miss_a_page_while_it_is_read_get_that_one() -> None:
    disk = Disk()
    kept: dict[str, object] = {}
    reads: SharedReads[object] = SharedReads()

    def read(key: str) -> object:
        disk.read()
        kept[key] = object()
        return kept[key]

    found = all_at_once(lambda: reads.get("a", kept.get, read), disk)
    assert {id(future.result()) for future in found} == {id(kept["a"])}
    assert disk.reads == 1


def test_a_read_that_fails_fails_for_its_own_request_alone() -> None:
    disk = Disk()
    reads: SharedReads[str] = SharedReads()

    def read(key: str) -> str:
        number = disk.reads
        disk.read()
        if not number:
            raise OSError(5, "as arranged")
        return "read"

    first, *others = all_at_once(lambda: reads.get("a", nothing, read), disk)
    with pytest.raises(OSError, match="as arranged"):
        first.result()
    assert [future.result() for future in others] == ["read"] * (THREADS - 1)
    assert reads.get("a", nothing, read) == "read"  # nothing is left of it


def test_a_large_body_is_found_as_long_as_a_part_of_it_is_in_use() -> None:
    bodies = LargeBodies()
    body = LargeBody(1000)
    assert len(body) == 1000
    bodies.note("a", body)
    rest = memoryview(memoryview(body)[10:])[10:]
    del body
    again = bodies.find("a")
    assert again is not None
    del again, rest
    assert bodies.find("a") is None


# Both, in the service


def reach_read_file(service: Web) -> WebRequest:
    """A request for the large file that has missed the cache."""
    (request,) = service.session().receive(memoryview(get("/large")))
    assert isinstance(request, WebRequest)
    while request.step is not service.read_file:
        request.step = request.step(request)
    return request


def body_of(request: Request) -> object:
    """The object whose memory the reply's last buffer is."""
    body = request.reply[-1]
    return body.obj if isinstance(body, memoryview) else body


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path


def test_a_request_that_missed_before_the_read_was_over_reads_no_more(root: Path) -> None:
    service = web(docroot=str(root))
    requests = [reach_read_file(service) for _ in range(10)]
    assert all(run(service, request).endswith(LARGE) for request in requests)
    assert service.stats()["disk"]["reads"] == 1
    assert len({id(body_of(request)) for request in requests}) == 1


def test_a_page_larger_than_the_cache_is_read_once_for_all_who_have_not_sent_it_yet(
    root: Path,
) -> None:
    service = web(docroot=str(root), cache_bytes=1000)
    first = reach_read_file(service)
    assert run(service, first).endswith(LARGE)
    unsent = memoryview(first.reply[-1])[-5:]  # the request has gone, this waits in an outbox
    del first
    for _ in range(3):
        request = reach_read_file(service)
        assert run(service, request).endswith(LARGE)
        assert body_of(request) is unsent.obj
    assert service.stats()["disk"]["reads"] == 1
    del unsent, request
    assert run(service, reach_read_file(service)).endswith(LARGE)
    assert service.stats()["disk"]["reads"] == 2
    assert service.stats()["cache"]["entries"] == 0


def test_a_large_file_that_is_shorter_than_was_told_is_sent_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def longer(size_bytes: int) -> LargeBody:
        made.append(size_bytes)
        return LargeBody(size_bytes + 100)

    monkeypatch.setattr("servers.services.web_files.LargeBody", longer)
    service = web(docroot=str(root), cache_bytes=1000)
    assert run(service, reach_read_file(service)).endswith(b"\r\n\r\n" + LARGE)
    assert made == [len(LARGE)]


def test_without_a_cache_every_request_costs_a_read(root: Path) -> None:
    service = web(docroot=str(root), cache_bytes=0)
    requests = [reach_read_file(service) for _ in range(3)]
    assert all(run(service, request).endswith(LARGE) for request in requests)
    assert service.stats()["disk"]["reads"] == 3
