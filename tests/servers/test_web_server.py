"""The service `web` behind real sockets: one short visit to every architecture."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.architecture import ARCHITECTURES
from tests.conformance.server import DEADLINE_S, Server, read_exactly, read_to_end
from tests.servers.web import get, replies

LARGE = bytes(range(256)) * 12_000


@pytest.fixture(scope="module", params=ARCHITECTURES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    root: Path = tmp_path_factory.mktemp("root")
    (root / "small").write_bytes(b"small")
    (root / "large").write_bytes(LARGE)
    with Server(
        request.param, "--service", "web", "--docroot", str(root), "--compute-loops-per-us", "5"
    ) as running:
        yield running


def test_a_client_is_served_on_one_connection(server: Server) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=DEADLINE_S)
    for path, status, body in (
        ("/small", 200, b"small"),
        ("/large", 200, LARGE),
        ("/large", 200, LARGE),
        ("/missing", 404, b"404 Not Found\n"),
        ("/compute?us=100", 200, b'{"us": 100, "loops": 500}\n'),
        ("/healthz", 200, b"ok\n"),
    ):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, body)
    connection.request("HEAD", "/large")
    answer = connection.getresponse()
    assert (answer.getheader("Content-Length"), answer.read()) == (str(len(LARGE)), b"")
    connection.close()
    stats = server.wait_for(lambda stats: stats["replies"] >= 7)
    assert stats["service_stats"]["cache"]["entries"] == 2
    assert stats["service_stats"]["computed_us"] == 100
    assert json.dumps(stats["service_stats"]["refused"]) == '{"404": 1}'


def test_replies_to_pipelined_requests_keep_their_order(server: Server) -> None:
    paths = ["/small", "/large", "/missing", "/compute?us=20", "/healthz"] * 4
    with server.connect() as sock:
        sock.sendall(b"".join(get(path) for path in paths) + get("/small", "Connection: close"))
        found = replies(read_to_end(sock))
    assert [reply.status for reply in found] == [200, 200, 404, 200, 200] * 4 + [200]
    assert [len(reply.body) for reply in found[:2]] == [5, len(LARGE)]


def test_what_is_not_http_is_told_so_and_closed(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(b"SSH-2.0-client\r\n")
        (reply,) = replies(read_to_end(sock))
    assert (reply.status, reply.headers["Connection"]) == (400, "close")


def test_a_request_in_pieces_is_served(server: Server) -> None:
    with server.connect() as sock:
        for byte in get("/healthz"):
            sock.sendall(bytes([byte]))
        assert read_exactly(sock, 12) == b"HTTP/1.1 200"
