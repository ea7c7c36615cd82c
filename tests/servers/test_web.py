"""The service `web`, its requests and replies, with bytes alone."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from servers.options import UsageError
from servers.service import Request
from servers.services.compute import calibrate, spin
from servers.services.web import RETRY_AFTER_S, Web, WebOptions
from servers.services.web_page import JOINED_BYTES
from servers.services.web_session import WebRequest
from tests.servers.web import LOOPS_PER_US, Client, ask, get, replies, run, web

PAGE = b"<p>a page</p>\n"
LARGE = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root")
    (directory / "page.html").write_bytes(PAGE)
    (directory / "large").write_bytes(LARGE)
    (directory / "empty.txt").write_bytes(b"")
    (directory / "with space & ä.txt").write_bytes(b"found")
    (directory / "sub").mkdir()
    (directory / "sub" / "index.html").write_bytes(b"the index")
    (directory / "bare").mkdir()
    return directory


@pytest.fixture
def service(root: Path) -> Web:
    return web(docroot=str(root))


# What is served


def test_a_file_is_served_from_disk_first_and_from_the_cache_then(service: Web) -> None:
    client = Client(service)
    for _ in range(3):
        (reply,) = replies(client.send(get("/page.html")))
        assert (reply.status, reply.body) == (200, PAGE)
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "Connection" not in reply.headers
    assert not client.closed
    stats = service.stats()
    assert (stats["cache"]["misses"], stats["cache"]["hits"]) == (1, 2)
    assert stats["disk"] == {"reads": 1, "bytes": len(PAGE), "errors": 0}


def test_every_request_goes_through_the_steps_of_figure_3(service: Web) -> None:
    def steps(path: str) -> list[str]:
        (request,) = service.session().receive(memoryview(get(path)))
        names, step = [], request.step
        while step is not None:
            names.append(step.__name__)
            step = step(request)
        return names

    assert steps("/page.html") == ["parse", "route", "lookup", "read_file", "respond"]
    assert steps("/page.html") == ["parse", "route", "lookup", "respond"]
    assert steps("/compute?us=1") == ["parse", "route", "compute", "respond"]
    assert steps("/healthz") == ["parse", "route", "respond"]
    assert list(service.steps()) == ["parse", "route", "lookup", "read_file", "compute", "respond"]
    assert [name for name, step in service.steps().items() if step.blocking] == ["read_file"]  # type: ignore[attr-defined]


def test_a_small_reply_is_one_buffer_and_a_large_body_is_not_copied(service: Web) -> None:
    def buffers(path: str) -> tuple[object, ...]:
        client = Client(service)
        client.send(get(path))
        return tuple(client.requests[0].reply)

    assert len(buffers("/page.html")) == 1
    assert len(LARGE) > JOINED_BYTES
    first, second = buffers("/large"), buffers("/large")
    assert first[1] == LARGE
    assert first[1] is second[1]


def test_head_says_what_get_would(service: Web) -> None:
    for path in ("/page.html", "/large", "/empty.txt", "/missing", "/healthz", "/compute?us=1"):
        got = ask(service, get(path))
        reply = ask(service, get(path, method="HEAD"), "HEAD")
        assert (reply.status, reply.headers, reply.body) == (got.status, got.headers, b"")


def test_the_date_is_now(service: Web) -> None:
    before = time.time()
    date = ask(service, get("/healthz")).headers["Date"]
    seconds = time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    assert int(before) <= seconds <= time.time()


def test_the_date_follows_the_clock(service: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(service)
    for now_s in (0, 86_400, 86_399):
        monkeypatch.setattr(time, "time", lambda now_s=now_s: now_s + 0.5)
        (reply,) = replies(client.send(get("/page.html")))
        assert reply.headers["Date"] == time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now_s)
        )
        assert reply.body == PAGE


def test_without_a_document_root_there_are_no_files() -> None:
    service = web()
    assert ask(service, get("/page.html")).status == 404
    assert ask(service, get("/healthz")).body == b"ok\n"


def test_a_missing_document_root_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--docroot: '.*/none' is not a directory"):
        web(docroot=str(tmp_path / "none"))


def test_the_landing_page_tells_what_it_was_told() -> None:
    service = Web(WebOptions(compute_loops_per_us=1))
    service.about = {"architecture": "<seda>", "stats": "http://127.0.0.1:8081/stats"}
    service.start()
    reply = ask(service, get("/"))
    assert reply.headers["Content-Type"].startswith("text/html")
    assert b"&lt;seda&gt;" in reply.body
    assert b'<a href="http://127.0.0.1:8081/stats">' in reply.body
    assert b"<td>web</td>" in ask(web(), get("/")).body


# Which file


@pytest.mark.parametrize(
    "path",
    [
        "/sub", "/sub/", "/sub/index.html", "/sub/.", "/sub/../sub/", "/./sub", "//sub//",
        "/../sub/", "/%73ub", "/sub%2findex.html", "/sub?query", "/sub/#fragment",
        "http://test/sub/", "HTTP://test:80/sub", "http://test/sub?query",
    ],
)  # fmt: skip
def test_many_ways_lead_to_one_file(service: Web, path: str) -> None:
    assert ask(service, get(path)).body == b"the index"


def test_a_path_is_percent_encoded_utf8(service: Web) -> None:
    assert ask(service, get("/with%20space%20&%20%C3%A4.txt")).body == b"found"


@pytest.mark.parametrize(
    "path", ["/%", "/%a", "/%zz", "/%ff", "/%c3", "/a%00b", "*", "ftp://test/page.html"]
)
def test_a_target_that_is_no_path_is_a_bad_request(service: Web, path: str) -> None:
    client = Client(service)
    (reply,) = replies(client.send(get(path)))
    assert reply.status == 400
    assert not client.closed


@pytest.mark.parametrize(
    "path", ["/missing", "/bare", "/bare/", "/page.html/", "/page.html/x", "/" + "x" * 300]
)
def test_what_is_not_there_is_not_found(service: Web, path: str) -> None:
    assert ask(service, get(path)).status == 404


def test_the_document_root_of_a_service_may_have_an_absolute_url_without_a_path() -> None:
    for target in ("http://test", "http://test?query", "http://test:80?a=/b"):
        assert b"sedabench" in ask(web(), get(target)).body


@pytest.fixture
def fortress(tmp_path: Path) -> Web:
    """A root with a secret beside it, and every kind of link."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "index.html").write_bytes(b"secret")
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "real").write_bytes(b"real")
    (inside / "%2e%2e").mkdir()
    (inside / "good").symlink_to("real")
    (inside / "good-absolute").symlink_to(inside / "real")
    (inside / "bad").symlink_to("../secret")
    (inside / "bad-absolute").symlink_to(tmp_path / "secret")
    (inside / "bad-directory").symlink_to("..")
    (inside / "sibling").symlink_to("../root2")
    (inside / "loop").symlink_to("loop")
    (inside / "broken").symlink_to("nothing")
    (tmp_path / "front").symlink_to("root")
    return web(docroot=str(tmp_path / "front"))


@pytest.mark.parametrize(
    "path",
    [
        "/../secret", "/%2e%2e/secret", "/..%2fsecret", "/.%2E/secret", "/%2e%2e%2fsecret",
        "/a/../../secret", "/%252e%252e/secret", "/%252e%252e%252fsecret", "/..%5csecret",
        "/....//secret", "/bad", "/bad-absolute", "/bad-directory/secret", "/bad-directory",
        "/sibling", "/sibling/index.html", "/loop", "/broken", "//secret", "/../root2/index.html",
        "/../root2", "/bad-directory/root2/",
    ],
)  # fmt: skip
def test_no_way_leads_out_of_the_document_root(fortress: Web, path: str) -> None:
    reply = ask(fortress, get(path))
    assert reply.status == 404
    assert b"secret" not in reply.body


@pytest.mark.parametrize("path", ["/real", "/good", "/good-absolute", "/bad-directory/root/real"])
def test_links_that_stay_inside_are_followed(fortress: Web, path: str) -> None:
    assert ask(fortress, get(path)).body == b"real"


def test_what_is_no_regular_file_is_not_there(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        service = web(docroot=str(tmp_path))
        assert [ask(service, get(path)).status for path in ("/fifo", "/socket")] == [404, 404]
    assert service.stats()["disk"]["errors"] == 0


def test_a_file_that_vanishes_between_lookup_and_read_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    service = web(docroot=str(tmp_path))
    (request,) = service.session().receive(memoryview(get("/file")))
    step = request.step
    while step is not service.read_file:
        step = step(request)
    (tmp_path / "file").unlink()
    request.step = step
    assert replies(run(service, request))[0].status == 404


# The disk


def test_a_disk_fault_is_an_error_of_ours_and_is_counted(root: Path) -> None:
    service = web(docroot=str(root), disk_faults=1.0)
    client = Client(service)
    assert [reply.status for reply in replies(client.send(get("/page.html") * 2))] == [500, 500]
    assert not client.closed
    assert service.stats()["disk"]["errors"] == 2
    assert service.stats()["refused"] == {"500": 2}


@pytest.mark.parametrize(("error", "status"), [(13, 403), (1, 403), (5, 500), (24, 500), (2, 404)])
def test_read_errors_are_told_apart(
    service: Web, monkeypatch: pytest.MonkeyPatch, error: int, status: int
) -> None:
    def read(path: str) -> None:
        raise OSError(error, "as arranged")

    monkeypatch.setattr(service._root, "read", read)
    assert ask(service, get("/page.html")).status == status


def test_the_modelled_disk_serves_so_many_reads_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = web(docroot=str(root), disk_ms=7.0, disk_slots=2, cache_bytes=0)
    inside = threading.Semaphore(0)
    go_on = threading.Event()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        inside.release()
        assert go_on.wait(10)

    monkeypatch.setattr(time, "sleep", sleep)
    threads = [threading.Thread(target=ask, args=(service, get("/page.html"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=10)
    assert inside.acquire(timeout=10)
    assert len(slept) == 2
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(slept) == 5
    assert all(0 < seconds < 1 for seconds in slept)


# Conditions


def test_a_known_page_is_not_sent_again(service: Web) -> None:
    full = ask(service, get("/page.html"))
    etag, modified = full.headers["ETag"], full.headers["Last-Modified"]
    for header in (
        f"If-None-Match: {etag}",
        f"If-None-Match: W/{etag}",
        f'If-None-Match: "other", {etag}',
        f'If-None-Match: "other"\r\nIf-None-Match: {etag}',
        "If-None-Match: *",
        f"If-Modified-Since: {modified}",
        "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT",
        f"If-None-Match: {etag}\r\nIf-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
    ):
        for method in ("GET", "HEAD"):
            reply = ask(service, get("/page.html", header, method=method), method)
            assert (reply.status, reply.body) == (304, b"")
            assert (reply.headers["ETag"], reply.headers["Last-Modified"]) == (etag, modified)
            assert "Date" in reply.headers


def test_a_page_that_is_not_known_is_sent(service: Web) -> None:
    modified = ask(service, get("/page.html")).headers["Last-Modified"]
    for header in (
        'If-None-Match: "other"',
        "If-None-Match:",
        f'If-None-Match: "other"\r\nIf-Modified-Since: {modified}',
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 -0000",
        "If-Modified-Since: yesterday",
        "If-Modified-Since: Thu, 99 Jan 1970 00:00:00 GMT",
        "If-Modified-Since: Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
        "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 +99999999999999999999",
        "If-Modified-Since: Sat, 01 Jan 0001 00:00:00 +2300",
    ):
        reply = ask(service, get("/page.html", header))
        assert (reply.status, reply.body) == (200, PAGE)


def test_what_is_no_file_has_no_validators(service: Web) -> None:
    reply = ask(service, get("/healthz", "If-None-Match: *"))
    assert reply.status == 200
    assert "ETag" not in reply.headers


# Methods, work, and requests that are not served


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_told_which_there_are(service: Web, method: str) -> None:
    client = Client(service)
    (reply,) = replies(client.send(get("/page.html", method=method)))
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    assert not client.closed


@pytest.mark.parametrize(("method", "target"), [("OPTIONS", "*"), ("CONNECT", "test:80")])
def test_a_method_whose_target_is_no_path_is_told_which_methods_there_are(
    service: Web, method: str, target: str
) -> None:
    (reply,) = replies(Client(service).send(get(target, method=method)))
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


def test_compute_does_so_many_loops() -> None:
    service = web()
    reply = ask(service, get("/compute?us=40"))
    assert json.loads(reply.body) == {"us": 40, "loops": 40 * LOOPS_PER_US}
    assert reply.headers["Content-Type"] == "application/json"
    assert service.stats()["computed_us"] == 40
    assert service.stats()["compute_loops_per_us"] == LOOPS_PER_US


@pytest.mark.parametrize(
    "query", ["", "?", "?us=", "?us=-1", "?us=x", "?us=1.5", "?us=1000001", "?us=1&us=2",
              "?us=" + "9" * 30, "?us=%b2", "?us=1" + "&a=1" * 9, "?u=1"],
)  # fmt: skip
def test_compute_wants_one_reasonable_number(query: str) -> None:
    assert ask(web(), get(f"/compute{query}")).status == 400


def test_an_uncalibrated_service_measures_at_its_start() -> None:
    service = Web(WebOptions())
    service.start()
    assert service.stats()["compute_loops_per_us"] > 0
    assert calibrate() > 0
    assert spin(100) == spin(100)


def shed(service: Web, data: bytes) -> Request:
    (request,) = service.session().receive(memoryview(data))
    service.reject(request)
    return request


def test_a_shed_request_is_told_when_to_come_back(service: Web) -> None:
    request = shed(service, get("/page.html"))
    (reply,) = replies(b"".join(request.reply))
    assert (reply.status, reply.headers["Retry-After"]) == (503, str(RETRY_AFTER_S))
    assert not request.last
    assert service.stats()["refused"] == {"503": 1}
    assert shed(service, get("/page.html", "Connection: close")).last
    head = b"".join(shed(service, get("/page.html", method="HEAD")).reply)
    assert replies(head, ["HEAD"])[0].status == 503


def test_a_step_that_raises_costs_its_request_only(service: Web) -> None:
    (request,) = service.session().receive(memoryview(get("/page.html")))
    assert isinstance(request, WebRequest)
    service.fail(request, LookupError("as arranged"))
    assert replies(b"".join(request.reply))[0].status == 500
    assert not request.last


def test_targets_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servers.services.web.MAX_CACHED_TARGETS", 10)
    service = web()
    for number in range(25):
        assert ask(service, get(f"/healthz?{number}")).status == 200
        assert len(service._targets) <= 10
    service._targets.clear()
    ask(service, get("/healthz?" + "x" * 300))
    assert not service._targets


def test_many_threads_may_run_the_steps_at_once(root: Path) -> None:
    service = web(docroot=str(root), cache_bytes=4000)
    wrong: list[object] = []

    def converse() -> None:
        client = Client(service)
        for _ in range(60):
            stream = client.send(get("/page.html") + get("/sub/") + get("/missing"))
            if [reply.body for reply in replies(stream)][:2] != [PAGE, b"the index"]:
                wrong.append(stream)

    threads = [threading.Thread(target=converse) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    stats = service.stats()
    assert stats["cache"]["hits"] + stats["cache"]["misses"] == 8 * 60 * 3
    assert stats["refused"] == {"404": 480}
