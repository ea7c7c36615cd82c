"""What is asked for: request templates with weights, and their bytes.

A mix is one of three names or a TOML file:

- `specweb99`: the files of the target's document root, as often as SPECweb99 asks
  for them; the templates of one class of files share a name, `class0` to `class3`.
- `dynamic`: GET /compute?us=300.
- `mixed`: 70 % `cached`, 20 % `miss`, 10 % `compute` (GET /compute?us=1000).

A TOML file has one table a request, of which only `path` is needed:

    [[request]]
    path = "/search?q=seda"     # as it is sent: begins with /, percent-encoded
    weight = 3                  # how often, beside the other weights (default 1)
    name = "search"             # its class in the results (default: its path)
    method = "POST"             # default GET
    headers = {Accept = "text/html"}
    body = "..."                # sent in UTF-8, with its Content-Length
    status = 201                # what the reply must have (default 200)
    bytes = 512                 # how long its body must be (default: not checked)

Requests are as short as HTTP/1.1 allows: the request line, Host, and what the
template adds.  What frames a message and what ends a connection is for the
generator to say, so a template cannot (`RESERVED`).

How `mixed` makes its hits and misses, for any server with a least recently used
cache of a bounded size.  `cached` is four files of 1 to 4 KB of the first
directory, all alike popular.  `miss` is any file of the two small classes of any
other directory, each as likely, from far more of them than the cache holds.
In a cache with room for k files besides the hot ones, k / 0.2 requests pass
before an unused file is dropped (Che, Tung and Wang, "Hierarchical Web Caching
Systems", IEEE JSAC 20(7), 2002): a hot file, asked for by 0.175 of the requests,
is dropped with a chance of exp(-0.875 k), a cold one is there with one of
k / cold files.  So the server needs

    --cache-bytes MIXED_CACHE_BYTES --disk-ms 5 --disk-slots 40

where the service `web` has k = 12, and a document root of at least
`MIXED_DIRECTORIES` (100 MB; of the default 200 MB better): in 200 MB 1.8 % of
`miss` are hits, and one in 30,000 of `cached` is a miss.  The modelled disk is
that of the paper, section 3.2.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.demand.arrivals import generator
from loadgen.demand.docroot import PATH, Docroot, parse_docroot
from loadgen.errors import LoadError
from loadgen.names import hint, unknown

NAMES = ("dynamic", "mixed", "specweb99")

MOST_TEMPLATES = 65_535

DYNAMIC_US = 300

MIXED_SHARES = {"cached": 0.7, "miss": 0.2, "compute": 0.1}

MIXED_COMPUTE_US = 1000

MIXED_HOT_FILES = 4

MIXED_CACHE_BYTES = 110_000
"""The hot files, which take 26 KB of the cache of `web`, and 12 of the cold, 7 KB on average."""

MIXED_DIRECTORIES = 20
"""The fewest: 342 cold files, of which 12 in the cache are 3.5 %."""

RESERVED = ("connection", "content-length", "expect", "te", "transfer-encoding", "upgrade")

STREAM = 2
"""Sets this draw apart from others of the same seed, as `arrivals.STREAM` does."""

_PATH = re.compile(r"/[!-~]*")
_METHOD = re.compile(r"[A-Z]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")
_HOST = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Template:
    """One request, and what its reply must be.  Raises LoadError if it cannot be sent."""

    name: str
    """Its class in the results; templates may share one."""
    method: str
    path: str
    weight: float
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    status: int = 200
    reply_bytes: int | None = None
    """Length of the reply's body; None: not checked."""

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or "#" in self.path:
            raise LoadError(
                f"path {self.path!r} must begin with / and be percent-encoded, without spaces or #"
            )
        if not self.name.strip() or not self.name.isprintable():
            raise LoadError(f"name {self.name!r} must be printable text")
        if not _METHOD.fullmatch(self.method) or self.method == "CONNECT":
            raise LoadError(f"method {self.method!r} must be one in capitals, such as GET")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise LoadError(f"weight {self.weight} must be above 0 and finite")
        for name, value in self.headers:
            _check_header(name, value)
        if not 200 <= self.status <= 599 or self.status == 503:
            raise LoadError(
                f"status {self.status} must be from 200 to 599, and not 503, which means rejected"
            )
        if self.reply_bytes is not None and not 0 <= self.reply_bytes < 2**63:
            raise LoadError(f"bytes {self.reply_bytes} must not be negative, nor over 2^63")
        if self.reply_bytes and (self.method == "HEAD" or self.status in (204, 304)):
            raise LoadError(
                f"bytes {self.reply_bytes}: a reply to {self.method} with status {self.status} "
                f"has no body"
            )

    def wire(self, host: str, close: bool) -> bytes:
        """The bytes of the request; a Host header of its own replaces `host`."""
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        if all(name.lower() != "host" for name, _ in self.headers):
            lines.append(f"Host: {host}")
        lines += (f"{name}: {value}" for name, value in self.headers)
        if close:
            lines.append("Connection: close")
        if self.body or self.method in ("POST", "PUT", "PATCH"):  # RFC 9110, section 8.6
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join((*lines, "\r\n")).encode("ascii") + self.body


def _check_header(name: str, value: str) -> None:
    if name.lower() in RESERVED:
        raise LoadError(f"header {name!r} is for the load generator to set")
    if not _HEADER_NAME.fullmatch(name):
        raise LoadError(f"header {name!r} is not a name: letters, digits and hyphens")
    if not _HEADER_VALUE.fullmatch(value):
        raise LoadError(f"header {name}: {value!r} must be one line of ASCII")


@dataclass(frozen=True)
class Mix:
    """Templates by weight, 1 to 65,535 of them; LoadError if there are not so many."""

    name: str
    templates: tuple[Template, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.templates) <= MOST_TEMPLATES:
            raise LoadError(
                f"mix {self.name} has {len(self.templates)} requests, not 1 to {MOST_TEMPLATES}"
            )

    def wire(self, host: str, close: bool = False) -> list[bytes]:
        """One request for each template; `host` as in the URL, with its port."""
        if not _HOST.fullmatch(host):
            raise LoadError(f"{host!r} is no host")
        return [template.wire(host, close) for template in self.templates]

    def choose(self, count: int, seed: int) -> NDArray[np.uint16]:
        """The number of a template for each of `count` requests, independent, by weight.

        How often each comes up is drawn first, from the multinomial distribution,
        and then their order: together the same as drawing them one by one, in half
        the time (ten million of 1,400 in 0.7 s).
        """
        if seed < 0:
            raise LoadError(f"the seed must not be negative, as {seed} is")
        weights = np.array([template.weight for template in self.templates], dtype=np.float64)
        weights /= weights.max()  # whose sum might be infinite
        random = generator(seed, STREAM)
        counts = random.multinomial(count, weights / weights.sum())
        chosen = np.repeat(np.arange(len(weights), dtype=np.uint16), counts)
        random.shuffle(chosen)
        return chosen


def single(path: str) -> Mix:
    """The same GET again and again, as a URL names it."""
    return Mix(path, (Template(path, "GET", path, 1.0),))


def load_mix(mix: str, fetch: Callable[[str], bytes]) -> Mix:
    """The mix of that name, or of the TOML file of that name.

    `fetch` asks the server under test for the body at a path; what it raises
    goes through.  Raises LoadError if there is no such mix or it cannot be.
    """
    if mix == "dynamic":
        return Mix(mix, (_compute(DYNAMIC_US, 1.0),))
    if mix == "specweb99":
        return Mix(mix, tuple(_specweb99(_docroot(fetch))))
    if mix == "mixed":
        return Mix(mix, tuple(_mixed(_docroot(fetch))))
    return _from_file(mix)


def _compute(us: int, weight: float) -> Template:
    return Template("compute", "GET", f"/compute?us={us}", weight)


def _file(docroot: Docroot, place: tuple[int, int, int], weight: float, name: str) -> Template:
    size_bytes = docroot.sizes_bytes[place[1]][place[2]]
    return Template(name, "GET", docroot.target(*place), weight, reply_bytes=size_bytes)


def _docroot(fetch: Callable[[str], bytes]) -> Docroot:
    docroot = parse_docroot(fetch(PATH))
    if docroot.files > MOST_TEMPLATES:
        raise LoadError(
            f"the server's document root has {docroot.files} files, more than {MOST_TEMPLATES}: "
            f"make it with fewer --bytes"
        )
    return docroot


def _specweb99(docroot: Docroot) -> Iterable[Template]:
    for directory, size_class, number, share in docroot.popularity():
        yield _file(docroot, (directory, size_class, number), share, f"class{size_class}")


def _mixed(docroot: Docroot) -> Iterable[Template]:
    sizes_bytes = docroot.sizes_bytes
    if len(sizes_bytes) < 2 or len(sizes_bytes[1]) < MIXED_HOT_FILES:
        raise LoadError("the server's document root has too few files a directory for mix mixed")
    if docroot.directories < MIXED_DIRECTORIES:
        raise LoadError(
            f"the server's document root has {docroot.directories} directories, and below "
            f"{MIXED_DIRECTORIES} the misses of mix mixed would hit the cache: "
            f"make it with more --bytes"
        )
    for number in range(MIXED_HOT_FILES):
        yield _file(docroot, (0, 1, number), MIXED_SHARES["cached"] / MIXED_HOT_FILES, "cached")
    cold = [
        (directory, size_class, number)
        for directory in range(1, docroot.directories)
        for size_class in (0, 1)
        for number in range(len(sizes_bytes[size_class]))
    ]
    for place in cold:
        yield _file(docroot, place, MIXED_SHARES["miss"] / len(cold), "miss")
    yield _compute(MIXED_COMPUTE_US, MIXED_SHARES["compute"])


_KEYS: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "weight": (int, float),
    "name": (str,),
    "method": (str,),
    "headers": (dict,),
    "body": (str,),
    "status": (int,),
    "bytes": (int,),
}

_SAYS = {str: "text", int: "a whole number", float: "a number", dict: "a table"}


def _from_file(file: str) -> Mix:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        if file.endswith(".toml") or "/" in file:
            raise LoadError(f"cannot read mix {file}: there is no such file") from None
        raise unknown("mix", file, NAMES) from None
    except OSError as error:
        raise LoadError(f"cannot read mix {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadError(f"mix {file} is not text in UTF-8") from None
    except ValueError:
        raise LoadError(f"mix {file!r} is no name of a file") from None
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"mix {file} is not TOML: {error}") from None
    for key in found:
        if key != "request":
            raise LoadError(f"mix {file}: unknown key {key!r}; {hint(key, ['request'])}")
    tables = found.get("request", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise LoadError(f"mix {file}: each request is a table that begins with [[request]]")
    templates = []
    for number, table in enumerate(tables, 1):
        try:
            templates.append(_template(table))
        except LoadError as error:
            raise LoadError(f"mix {file}, request {number}: {error}") from None
    return Mix(file, tuple(templates))


def _template(table: Mapping[str, Any]) -> Template:
    for key, value in table.items():
        if key not in _KEYS:
            raise unknown("key", key, _KEYS)
        if type(value) not in _KEYS[key]:  # isinstance would take true for a number
            raise LoadError(f"{key} must be {_SAYS[_KEYS[key][-1]]}, not {value!r}")
    if "path" not in table:
        raise LoadError("it has no path")
    headers: dict[str, Any] = table.get("headers", {})
    for name, value in headers.items():
        if not isinstance(value, str):
            raise LoadError(f"header {name} must be text, not {value!r}")
    try:
        weight = float(table.get("weight", 1))
    except OverflowError:
        weight = math.inf
    return Template(
        name=table.get("name", table["path"]),
        method=table.get("method", "GET"),
        path=table["path"],
        weight=weight,
        headers=tuple(headers.items()),
        body=table.get("body", "").encode(),
        status=table.get("status", 200),
        reply_bytes=table.get("bytes"),
    )
