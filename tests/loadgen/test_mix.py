from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from loadgen.demand.docroot import parse_docroot
from loadgen.demand.mixes import (
    MIXED_CACHE_BYTES,
    MIXED_DIRECTORIES,
    MOST_TEMPLATES,
    RESERVED,
    Mix,
    Template,
    load_mix,
    single,
)
from loadgen.errors import LoadError
from servers.services.docroot import generate, popularity
from servers.services.page_cache import PageCache
from servers.services.web_page import Page

MANIFEST: dict[str, Any] = {
    "format": 1,
    "complete": True,
    "seed": 1,
    "directories": 39,
    "path": "dir{directory:05d}/class{size_class}_{number}",
    "zipf_exponent": 1.0,
    "class_shares": [0.35, 0.5, 0.14, 0.01],
    "file_shares": [0.039, 0.059, 0.088, 0.177, 0.353, 0.118, 0.071, 0.05, 0.045],
    "sizes_bytes": [
        [int(step_bytes * (number + 1)) for number in range(9)]
        for step_bytes in (102.4, 1024, 10_240, 102_400)
    ],
}


def serving(**changes: Any) -> Callable[[str], bytes]:
    """A server that has a document root."""

    def fetch(path: str) -> bytes:
        assert path == "/docroot.json"
        return json.dumps(MANIFEST | changes).encode()

    return fetch


def no_server(path: str) -> bytes:
    raise AssertionError(f"asked for {path}")


def shares_by_name(mix: Mix) -> dict[str, float]:
    shares: dict[str, float] = defaultdict(float)
    for template in mix.templates:
        shares[template.name] += template.weight
    return dict(shares)


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "mix.toml"
        path.write_text(text)
        return str(path)

    return write


# Choosing


@pytest.mark.parametrize("seed", range(5))
def test_templates_come_up_as_their_weights_say(seed: int) -> None:
    weights = np.array([1, 2, 3, 0.5, 40])
    mix = Mix("m", tuple(Template("n", "GET", "/", weight) for weight in weights))
    chosen = mix.choose(100_000, seed)
    assert chosen.dtype == np.uint16
    counts = np.bincount(chosen, minlength=5)
    assert stats.chisquare(counts, weights / weights.sum() * 100_000).pvalue > 1e-3


def test_which_template_comes_up_does_not_depend_on_the_one_before() -> None:
    mix = Mix("m", tuple(Template("n", "GET", "/", weight) for weight in (1, 2, 3)))
    chosen = mix.choose(60_000, 1).astype(int)
    pairs = np.bincount(chosen[:-1] * 3 + chosen[1:], minlength=9).reshape(3, 3)
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_files_of_specweb99_come_up_as_often_as_it_says() -> None:
    mix = load_mix("specweb99", serving())
    counts = np.bincount(mix.choose(1_000_000, 1), minlength=len(mix.templates))
    expected = np.array([template.weight for template in mix.templates]) * 1_000_000
    assert stats.chisquare(counts, expected).pvalue > 1e-3


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.floats(min_value=0, exclude_min=True, allow_infinity=False), min_size=1, max_size=9
    ),
    st.integers(0, 300),
)
def test_any_weights_choose_templates_that_there_are(weights: list[float], count: int) -> None:
    mix = Mix("m", tuple(Template("n", "GET", "/", weight) for weight in weights))
    chosen = mix.choose(count, 1)
    assert chosen.shape == (count,)
    assert count == 0 or chosen.max() < len(weights)
    assert (chosen == mix.choose(count, 1)).all()


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(LoadError, match="seed"):
        single("/").choose(1, -1)


# The mixes that come with a name


def test_specweb99_asks_for_every_file_of_the_root_as_often_as_its_maker_says(
    tmp_path: Path,
) -> None:
    generate(tmp_path, 1, seed=1)
    mix = load_mix("specweb99", lambda path: (tmp_path / path[1:]).read_bytes())
    assert {(t.path[1:], round(t.weight, 12)) for t in mix.templates} == {
        (path, round(share, 12)) for path, share in popularity(1)
    }
    for template in mix.templates:
        assert template.reply_bytes == (tmp_path / template.path[1:]).stat().st_size


def test_the_files_of_a_class_share_a_name() -> None:
    shares = shares_by_name(load_mix("specweb99", serving()))
    assert shares == pytest.approx({"class0": 0.35, "class1": 0.5, "class2": 0.14, "class3": 0.01})


def test_dynamic_computes_and_needs_no_document_root() -> None:
    mix = load_mix("dynamic", no_server)
    assert [(t.name, t.method, t.path) for t in mix.templates] == [
        ("compute", "GET", "/compute?us=300")
    ]


def test_mixed_has_the_shares_that_it_says() -> None:
    shares = shares_by_name(load_mix("mixed", serving()))
    assert shares == pytest.approx({"cached": 0.7, "miss": 0.2, "compute": 0.1})


@pytest.mark.parametrize(("directories", "most"), [(MIXED_DIRECTORIES, 0.05), (39, 0.025)])
def test_cached_is_cached_and_misses_miss_in_the_cache_that_mixed_asks_for(
    directories: int, most: float
) -> None:
    mix = load_mix("mixed", serving(directories=directories))
    cache: PageCache[Page] = PageCache(MIXED_CACHE_BYTES)
    pages = {
        t.path: Page(
            bytes(t.reply_bytes),
            "application/octet-stream",
            etag=b'"%x-%x"' % (990_352_800 * 10**9, t.reply_bytes),
            modified_s=990_352_800,
        )
        for t in mix.templates
        if t.reply_bytes
    }
    asked: dict[str, int] = defaultdict(int)
    missed: dict[str, int] = defaultdict(int)
    for index in mix.choose(100_000, 1)[1000:].tolist():
        template = mix.templates[index]
        if template.name != "compute":
            asked[template.name] += 1
            if cache.get(template.path) is None:
                missed[template.name] += 1
                cache.put(template.path, pages[template.path])
    assert missed["cached"] / asked["cached"] < 0.001
    assert 1 - missed["miss"] / asked["miss"] < most


def test_mixed_refuses_a_document_root_that_the_cache_would_hold() -> None:
    with pytest.raises(LoadError, match="has 19 directories, and below 20"):
        load_mix("mixed", serving(directories=19))
    with pytest.raises(LoadError, match="too few files a directory"):
        load_mix("mixed", serving(class_shares=[1], sizes_bytes=[MANIFEST["sizes_bytes"][0]]))


@pytest.mark.parametrize("mix", ["specweb99", "mixed"])
def test_a_document_root_of_too_many_files_is_refused(mix: str) -> None:
    with pytest.raises(LoadError, match="36000000000 files, more than 65535"):
        load_mix(mix, serving(directories=10**9))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "format 2 is not 1"),
        ({"complete": False}, "not complete"),
        *(({"directories": n}, "is not a count") for n in (0, -1, 1.5, "1", True, None)),
        ({"sizes_bytes": [[1]]}, "not a size for every share"),
        ({"sizes_bytes": [], "class_shares": []}, "not a size for every share"),
        ({"sizes_bytes": 5}, "not iterable"),
        ({"file_shares": [0] * 9}, "0 is not a share"),
        ({"zipf_exponent": math.nan}, "nan is not a share"),
        ({"zipf_exponent": 10**400}, "too large"),
        ({"zipf_exponent": 5000}, "weight 0.0"),
        ({"path": "dir{directory}/{number}"}, "does not name directory, number, size_class"),
        ({"path": "{directory:099999999d}{size_class}{number}"}, "does not name"),
        ({"path": 5}, "string"),
        ({"path": "{directory}{size_class}{number} HTTP/1.1\r\nX: "}, "percent-encoded"),
    ],
)
def test_a_description_that_is_none_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(LoadError, match=why) as caught:
        load_mix("specweb99", serving(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b"1", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_description_is_refused(answer: bytes) -> None:
    with pytest.raises(LoadError, match=r"/docroot\.json of the server does not describe"):
        parse_docroot(answer)


def test_what_the_fetch_says_goes_through() -> None:
    def fails(_: str) -> bytes:
        raise LoadError("404")

    with pytest.raises(LoadError, match="404"):
        load_mix("specweb99", fails)


# What is sent


class Parsed:
    """What a parser of another make finds in the bytes."""

    def __init__(self, wire: bytes) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(wire)
        self.method = parser.get_method()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def test_a_request_is_as_short_as_it_can_be() -> None:
    assert single("/a?b=1").wire("h:80") == [b"GET /a?b=1 HTTP/1.1\r\nHost: h:80\r\n\r\n"]


def test_the_last_request_of_a_connection_says_so() -> None:
    (wire,) = single("/").wire("[::1]:80", close=True)
    assert wire == b"GET / HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n"


@settings(max_examples=30, deadline=None)
@given(
    path=st.from_regex(r"/[!-\"$-~]{0,9}", fullmatch=True),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
    headers=st.lists(
        st.tuples(
            st.from_regex(r"X-[!#$%&'*+.^_`|~0-9A-Za-z-]{0,9}", fullmatch=True),
            st.from_regex(r"[\t -~]{0,9}", fullmatch=True),
        ),
        max_size=3,
    ),
    body=st.binary(max_size=50),
    close=st.booleans(),
)
def test_what_is_accepted_is_one_whole_request_and_says_what_was_meant(
    path: str, method: str, headers: list[tuple[str, str]], body: bytes, close: bool
) -> None:
    parsed = Parsed(Template("n", method, path, 1, tuple(headers), body).wire("h:1", close))
    assert parsed.complete
    assert (parsed.method, parsed.url, parsed.body) == (method.encode(), path.encode(), body)
    assert ((b"Connection", b"close") in parsed.headers) is close
    found = [(name.decode(), value.decode().strip()) for name, value in parsed.headers]
    assert found[0] == ("Host", "h:1")
    assert found[1 : 1 + len(headers)] == [(name, value.strip()) for name, value in headers]


def test_a_body_has_its_length_and_a_post_without_one_says_0() -> None:
    assert b"Content-Length: 3\r\n\r\nabc" in Template("n", "GET", "/", 1, (), b"abc").wire(
        "h", False
    )
    assert b"Content-Length: 0\r\n\r\n" in Template("n", "POST", "/", 1).wire("h", False)
    assert b"Content-Length" not in Template("n", "DELETE", "/", 1).wire("h", False)


def test_a_template_may_name_another_host() -> None:
    parsed = Parsed(Template("n", "GET", "/", 1, (("host", "other"),)).wire("h", False))
    assert parsed.headers == [(b"host", b"other")]


@pytest.mark.parametrize("host", ["", "a b", "h\r\nX: 1", "hé"])
def test_a_host_that_cannot_be_is_refused(host: str) -> None:
    with pytest.raises(LoadError, match="is no host"):
        single("/").wire(host)


@pytest.mark.parametrize(
    "path",
    ["", "a", "http://h/", "/a b", "/a\r\nX: 1", "/a\n", "/\0", "/\x7f", "/é", "/a#b", "*"],
)
def test_a_path_that_cannot_be_sent_is_refused(path: str) -> None:
    with pytest.raises(LoadError, match="must begin with /") as caught:
        single(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, MOST_TEMPLATES + 1])
def test_a_mix_has_1_to_65535_templates(count: int) -> None:
    with pytest.raises(LoadError, match="not 1 to 65535"):
        Mix("m", (Template("n", "GET", "/", 1),) * count)


# A mix of one's own


def test_a_file_says_all_about_its_requests(toml: Callable[[str], str]) -> None:
    name = toml(
        """
        [[request]]
        path = "/a"
        [[request]]
        path = "/b?c"
        weight = 2.5
        name = "b"
        method = "POST"
        headers = {Accept = "text/html", X-Y = ""}
        body = "né"
        status = 201
        bytes = 0
        """
    )
    mix = load_mix(name, no_server)
    assert mix == Mix(
        name,
        (
            Template("/a", "GET", "/a", 1),
            Template(
                *("b", "POST", "/b?c", 2.5, (("Accept", "text/html"), ("X-Y", "")), b"n\xc3\xa9"),
                status=201,
                reply_bytes=0,
            ),
        ),
    )


def request(line: str) -> str:
    return f'[[request]]\npath = "/ok"\n[[request]]\npath = "/a"\n{line}'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 0 requests"),
        ("request = 5", r"begins with \[\[request\]\]"),
        ("request = [1]", r"begins with \[\[request\]\]"),
        ("[request]\npath = '/'", r"begins with \[\[request\]\]"),
        ("[[requests]]\npath = '/'", "unknown key 'requests'; did you mean 'request'"),
        ("path = ?", "is not TOML: .*line 1"),
        ("a = " + "[" * 5000, "is not TOML"),
        ("[[request]]\nweight = 1", "request 1: it has no path"),
        ("[[request]]\npath = 'a'", "request 1: path 'a' must begin with /"),
        (request("wieght = 2"), "request 2: unknown key 'wieght'; did you mean 'weight'"),
        (request("zzz = 2"), "request 2: unknown key 'zzz'; known: body, bytes"),
        (request("weight = '2'"), "request 2: weight must be a number, not '2'"),
        (request("weight = true"), "request 2: weight must be a number, not True"),
        *(
            (request(f"weight = {weight}"), "request 2: weight .* must be above 0 and finite")
            for weight in ("0", "-1", "nan", "inf", "1" + "0" * 400)
        ),
        (request("method = 5"), "method must be text"),
        *(
            (request(f"method = '{method}'"), "must be one in capitals")
            for method in ("get", "", "A B", "CONNECT")
        ),
        (request("name = ' '"), "name ' ' must be printable"),
        (request('name = "a\\nb"'), "must be printable"),
        (request("status = 200.0"), "status must be a whole number"),
        *((request(f"status = {status}"), "from 200 to 599") for status in (100, 199, 600, 503)),
        (request("bytes = -1"), "bytes -1 must not be negative"),
        (request(f"bytes = {2**63}"), "must not be negative, nor over"),
        (request("bytes = 1\nmethod = 'HEAD'"), "a reply to HEAD with status 200 has no body"),
        (request("bytes = 1\nstatus = 304"), "has no body"),
        (request("headers = 'A: b'"), "headers must be a table"),
        (request("headers = {A = 1}"), "header A must be text"),
        (request("headers = {'A b' = 'c'}"), "header 'A b' is not a name"),
        (request("headers = {'' = 'c'}"), "header '' is not a name"),
        (request('headers = {A = "b\\r\\nC: d"}'), "header A: .* must be one line"),
        (request('headers = {"A\\r\\nC" = "d"}'), "is not a name"),
        (request("body = 5"), "body must be text"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_the_request(
    toml: Callable[[str], str], text: str, why: str
) -> None:
    with pytest.raises(LoadError, match=why) as caught:
        load_mix(toml(text), no_server)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", RESERVED)
def test_what_frames_a_message_is_not_for_a_template(name: str) -> None:
    with pytest.raises(LoadError, match="for the load generator to set"):
        Template("n", "GET", "/", 1, ((name.title(), "x"),))


@pytest.mark.parametrize(
    ("mix", "why"),
    [
        ("specweb", "unknown mix 'specweb'; did you mean 'specweb99'"),
        ("zzz", "unknown mix 'zzz'; known: dynamic, mixed, specweb99"),
        ("", "cannot read mix"),
        ("absent/mix.toml", "there is no such file"),
        ("absent.toml", "there is no such file"),
        ("/", "cannot read mix /: Is a directory"),
        ("a\0b", "no name of a file"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_mix_that_is_not_there_is_refused(mix: str, why: str) -> None:
    with pytest.raises(LoadError, match=why):
        load_mix(mix, no_server)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match="not text in UTF-8"):
        load_mix(str(path), no_server)
