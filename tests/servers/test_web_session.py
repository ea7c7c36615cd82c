"""HTTP/1.1 on the way in: framing, limits, errors, and how a connection ends."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servers.services.web_session import WebSession
from tests.servers.web import Client, ask, get, replies, web

SERVICE = web(max_header=200, max_body=50)
"""Small limits: the service keeps nothing of a connection, so the tests may share it."""

OK = get("/healthz")


def post(*headers: str, body: bytes = b"") -> bytes:
    return get("/healthz", *headers, method="POST") + body


def statuses(data: bytes) -> list[int]:
    return [reply.status for reply in replies(Client(SERVICE).send(data))]


def test_a_hundred_pipelined_requests_are_answered_in_order() -> None:
    stream = b"".join(get(f"/compute?us={number}") for number in range(100))
    answers = replies(Client(SERVICE).send(stream))
    assert [int(answer.body.split(b",")[0].split()[1]) for answer in answers] == list(range(100))


# Limits and errors

TOO_LONG_LINE = b"GET /" + b"x" * 300
CHUNKED = "Transfer-Encoding: chunked"

ENDINGS = {
    b"garbage\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00": 400,
    b"HTTP/1.1 200 OK\r\n\r\n": 400,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 505,
    b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"GET / HTTP/1.1\nHost: x\n\n": 400,
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n": 400,
    b"GET / HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n": 400,
    b"GET /\r\n\r\n": 505,
    b"GET / HTTP/2.0\r\nHost: x\r\n\r\n": 505,
    b"GET / HTTP/3.0\r\nHost: x\r\n\r\n": 505,
    b"GET / HTTP/1.2\r\nHost: x\r\n\r\n": 505,
    b"GET / HTTP/01.1\r\nHost: x\r\n\r\n": 400,
    b"GET / RTSP/1.1\r\nHost: x\r\n\r\n": 400,
    b"SOURCE / ICE/1.0\r\nHost: x\r\n\r\n": 400,
    b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"GET /  HTTP/1.1\r\nHost: x\r\n\r\n": 400,
    b"GET / HTTP/1.0\r\nHost: a@b\r\n\r\n": 400,
    b"POST /healthz HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    TOO_LONG_LINE: 414,
    TOO_LONG_LINE + b" HTTP/1.1\r\nHost: x\r\n\r\n": 414,
    get("/", "A: " + "x" * 200): 431,
    get("/", *(f"A{number}: x" for number in range(50))): 431,
    get("/", "A:" + " " * 200 + "x"): 431,
    get("/", "A: " + "x" * 200)[:-2]: 431,
    post("Content-Length: 51"): 413,
    post("Content-Length: 99999999999999999999"): 400,
    post("Content-Length: -1"): 400,
    post("Content-Length: 1", "Content-Length: 1"): 400,
    post("Content-Length: 1", CHUNKED): 400,
    post("Transfer-Encoding: gzip"): 501,
    post("Transfer-Encoding: gzip, chunked"): 501,
    post("Transfer-Encoding: gzip", CHUNKED): 501,
    post(CHUNKED, "Transfer-Encoding: identity"): 501,
    post("Transfer-Encoding: chunked;q=1"): 501,
    post("Transfer-Encoding: xchunked"): 501,
    get("/healthz", "Transfer-Encoding: gzip"): 501,
    post("Transfer-Encoding:"): 400,
    post("Transfer-Encoding: chunked, chunked"): 400,
    post("Transfer-Encoding: chunked,"): 400,
    post(CHUNKED + "\t"): 400,
    post("Transfer-Encoding: \x0bchunked"): 400,
    post("Transfer-Encoding: gzip", "Content-Length: 1"): 400,
    post("Content-Length:"): 400,
    post("Content-Length: 1,1"): 400,
    post("Content-Length : 1"): 400,
    post(CHUNKED, body=b"1 \r\nx\r\n0\r\n\r\n"): 400,
    post(CHUNKED, body=b"1\nx\r\n0\r\n\r\n"): 400,
    post(CHUNKED, body=b"0\r\nContent-Length: 5\r\n\r\n"): 400,
    post(CHUNKED, body=b"40\r\n" + b"x" * 64): 413,
    post(CHUNKED, body=b"1\r\nx\r\n" * 10): 413,
    post(CHUNKED, body=b"1;" + b"x" * 60): 413,
    post(CHUNKED, body=b"0\r\nTrailer: " + b"x" * 60): 413,
    post(CHUNKED, body=b"nonsense\r\n"): 400,
    post("Content-Length: 5", "Expect: 100-continue"): 405,
    post("Content-Length: 5", "Expect: x,\t100-Continue"): 405,
    post("Connection: close"): 405,
    get("a:80", method="CONNECT"): 405,
    post("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5", body=b"hello"): 405,
    get("/healthz", "Connection: close"): 200,
    get("/healthz", "Connection: x, Close"): 200,
    get("/healthz", "Connection: x,\tClose\t"): 200,
    get("/healthz", "Connection: x", "Connection: close"): 200,
    get("/healthz", version="1.0"): 200,
    b"GET /healthz HTTP/1.0\r\n\r\n": 200,
}
"""What a connection's last request may look like, and what it is told."""


@pytest.mark.parametrize(("data", "status"), ENDINGS.items())
def test_after_the_last_reply_nothing_is_heard_any_more(data: bytes, status: int) -> None:
    client = Client(SERVICE)
    *before, last = replies(client.send(OK + data))
    assert [reply.status for reply in before] == [200]
    assert last.status == status
    assert last.headers["Connection"] == "close"
    assert client.closed
    assert client.session.idle
    assert pending(client) == (0, 0)
    assert client.send(OK) == b""


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


STAYING = {
    OK: 200,
    get("/healthz", "Connection: keep-alive"): 200,
    get("/healthz", "hOST2: y", "Range: bytes=0-1"): 200,
    get("/healthz", "Connection: Upgrade", "Upgrade: websocket"): 200,
    get("/healthz", "Connection: closed, x close"): 200,
    get("http://elsewhere:81/healthz"): 200,
    get("http://a@b/healthz"): 400,
    get("http:///healthz"): 400,
    get("http://[::1/healthz"): 400,
    get("*"): 400,
    b"POST /healthz HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n"
    b"Expect: 100-continue\r\n\r\nab": 405,
    b"\r\n\r\n\n" + OK: 200,
    post(): 405,
    post("Content-Length: 0"): 405,
    post("Content-Length: 50", body=b"\r\n\r\n" * 12 + b"ab"): 405,
    get("/healthz", "Content-Length: 4", method="GET") + b"\r\n\r\n": 200,
    post(CHUNKED, body=chunked(b"\r\n\r\n", b"GET / HTTP/1.1\r\n")): 405,
    post(CHUNKED, body=b"0\r\nHost: two\r\nExpect: x\r\n\r\n"): 405,
    post("Expect: 100-continue"): 405,
    get("*", method="OPTIONS"): 405,
    get("/missing"): 404,
}
"""Requests after which a connection stays."""


@pytest.mark.parametrize(("data", "status"), STAYING.items())
def test_the_next_request_is_answered_as_well(data: bytes, status: int) -> None:
    client = Client(SERVICE)
    assert [reply.status for reply in replies(client.send(data + OK))] == [status, 200]
    assert not client.closed
    assert client.session.idle


def test_a_head_may_be_as_long_as_the_limit_and_no_longer() -> None:
    def padded(size: int) -> bytes:
        return get("/healthz", "A: " + "x" * (size - len(get("/healthz", "A: "))))

    assert len(padded(200)) == 200
    assert statuses(padded(200) + padded(200)) == [200, 200]
    assert statuses(padded(201) + padded(200)) == [431]


@given(
    st.lists(st.sampled_from(list(STAYING)), max_size=4),
    st.sampled_from([b"", *ENDINGS]),
    st.data(),
)
@settings(max_examples=400, deadline=None)
def test_how_the_bytes_were_cut_cannot_be_seen(
    before: list[bytes], ending: bytes, data: st.DataObject
) -> None:
    stream = b"".join(before) + ending + OK
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    whole, cut = Client(SERVICE), Client(SERVICE)
    assert same(cut.send(*chunks)) == same(whole.send(stream))
    assert [r.last for r in cut.requests] == [r.last for r in whole.requests]
    assert (cut.session.idle, pending(cut)) == (whole.session.idle, pending(whole))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_byte_at_a_time_is_the_same_as_all_at_once(ending: bytes) -> None:
    stream = b"".join(STAYING) + ending
    assert same(Client(SERVICE).send(*(bytes([byte]) for byte in stream))) == same(
        Client(SERVICE).send(stream)
    )


@given(st.binary(max_size=300), st.integers(0, 300))
@example(b"GET", 0)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_answered_or_waited_for(noise: bytes, cut: int) -> None:
    whole, halves = Client(SERVICE), Client(SERVICE)
    answer = whole.send(*([noise] if noise else []))
    assert same(answer) == same(halves.send(*filter(None, (noise[:cut], noise[cut:]))))
    assert whole.session.idle == halves.session.idle
    for reply in replies(answer):
        assert reply.status < 500 or reply.status == 505


def same(stream: bytes) -> list[object]:
    """Replies without their dates, which may differ by a second."""
    return [
        (reply.status, reply.body, {k: v for k, v in reply.headers.items() if k != "Date"})
        for reply in replies(stream)
    ]


# HTTP/1.0


def test_http_1_0_stays_if_it_asks_to() -> None:
    client = Client(SERVICE)
    request = b"GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
    for reply in replies(client.send(request * 2)):
        assert (reply.status, reply.headers["Connection"]) == (200, "keep-alive")
    assert not client.closed


def test_a_closing_head_request_has_no_body_even_in_an_error() -> None:
    for path, status in (("/healthz", 200), ("/missing", 404)):
        data = get(path, "Connection: close", method="HEAD")
        assert ask(SERVICE, data, "HEAD").status == status
    assert ask(SERVICE, b"HEAD / HTTP/1.1\r\n\r\n", "HEAD").status == 400


# What the architectures ask


def test_a_session_is_idle_between_requests() -> None:
    session = Client(SERVICE).session
    assert session.idle
    for byte in OK[:-1]:
        assert not session.receive(memoryview(bytes([byte])))
        assert not session.idle
    assert len(session.receive(memoryview(OK[-1:]))) == 1
    assert session.idle


def test_empty_lines_between_requests_are_nothing() -> None:
    client = Client(SERVICE)
    client.send(OK, b"\r", b"\n")
    assert client.session.idle
    assert pending(client) == (0, 0)


def test_more_than_one_empty_line_counts_as_a_head_that_was_begun() -> None:
    client = Client(SERVICE)
    client.send(OK, b"\r\n", b"\r")
    assert client.session.idle  # though nothing is lost if the connection closes now
    assert pending(client) == (2, 0)
    client.send(b"\n" * 1000)
    assert pending(client) == (2, 0)
    assert statuses(b"\r\n" * 1000 + OK) == [200]
    client.send(OK)
    assert pending(client) == (0, 0)


def test_a_session_tells_how_much_of_a_body_has_come() -> None:
    for head, body in (
        (post("Content-Length: 9"), b"123456789"),
        (post(CHUNKED), b"1\r\nx\r\n0\r\nA: b\r\n\r\n"),
    ):
        client = Client(SERVICE)
        client.send(head)
        for came, byte in enumerate(body):
            assert pending(client) == (0, 1)
            assert client.session.body_bytes == came
            client.send(bytes([byte]))
        assert pending(client) == (0, 0)


def test_a_head_request_whose_body_is_wrong_or_late_is_refused_without_a_body() -> None:
    client = Client(SERVICE)
    reply = client.send(get("/", CHUNKED, method="HEAD"), b"nonsense\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "host",
    ["", " ", "\t", "a@b", "a/b", "a b", "a\\b", "a?b", "a#b", "<a>", "a%zz", "a%2", "\xe9", "a..b",
     ":80", "a:b", "a:80:80", "a:65536", "::1", "[::1", "[::1]x", "[]", "[:]", "[x]"],
)  # fmt: skip
def test_a_host_that_cannot_be_one_is_400(host: str) -> None:
    for version in ("1.0", "1.1"):
        data = f"GET /healthz HTTP/{version}\r\nHost: {host}\r\n\r\n".encode("latin-1")
        client = Client(SERVICE)
        (reply,) = replies(client.send(data + OK))
        assert (reply.status, client.closed) == (400, True)


@pytest.mark.parametrize(
    "host", ["a", "A-b.c_d", "a:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:80", "a%20b", "\ta \t"]
)
def test_a_host_that_can_be_one_is_served(host: str) -> None:
    assert statuses(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode() + OK) == [200, 200]


def pending(client: Client) -> tuple[int, int]:
    return client.session.head_pending, client.session.body_pending


def test_of_what_was_begun_either_the_head_is_pending_or_the_body() -> None:
    client = Client(SERVICE)
    seen = []
    for piece in (
        OK, OK + b"G", b"ET /healthz HT", b"TP/1.1\r\nHost: x\r\n\r\n",
        post("Content-Length: 5"), b"abcd", b"e", b"P",
    ):  # fmt: skip
        client.send(piece)
        seen.append(pending(client))
    assert seen == [(0, 0), (3, 0), (3, 0), (0, 0), (0, 4), (0, 4), (0, 0), (5, 0)]


def test_who_does_not_finish_a_request_is_told_so() -> None:
    client = Client(SERVICE)
    client.send(OK, b"GET / HTTP/1.1\r\nHo")
    assert pending(client) == (2, 0)
    request = client.session.give_up()
    assert request is not None
    assert request.last
    step = request.step
    while step is not None:
        step = step(request)
    (reply,) = replies(b"".join(request.reply))
    assert (reply.status, reply.headers["Connection"]) == (408, "close")
    assert client.session.idle
    assert pending(client) == (0, 0)
    assert client.send(b"st: x\r\n\r\n" + OK) == b""


def test_a_session_is_freed_without_the_garbage_collector() -> None:
    class Watched(WebSession):
        __slots__ = ("__weakref__",)

    gc.disable()
    try:
        session = Watched(SERVICE, SERVICE.options)
        assert len(session.receive(memoryview(OK))) == 1
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()
