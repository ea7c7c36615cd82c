"""From the target of a request to the bytes of a file, never outside the document root.

`parse_target` is a pure function from bytes to a clean path.  `DocumentRoot.read` opens
that path and then asks the kernel which file it got.  It checks the file that it has
opened, so it does not matter which links the path went through, or whether one of them
was changed at that moment.

`Disk` is the modelled disk: it delays reads so that an experiment does not
depend on what the kernel happens to have cached.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import random
import re
import stat
import sys
import threading
import time
from io import FileIO
from pathlib import Path

from servers.authority import host_of
from servers.options import UsageError
from servers.service import Buffer
from servers.services.shared_reads import LargeBodies, LargeBody
from servers.services.web_page import Page

INDEX = "index.html"

_KINDS = mimetypes.MimeTypes(filenames=())
"""Python's built-in table: the same on every machine, whatever is in /etc/mime.types."""

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})?")
_ORIGIN = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


def parse_target(target: bytes) -> tuple[str, str]:
    """The decoded path, without `.`, `..` and empty segments, and the query as it was sent.

    Begins with a slash, and ends with one only if it is nothing else; a target
    that ends with one means the index in that directory.  Dots cannot climb
    above the root (RFC 3986, section 5.2.4).  A percent-encoded slash is a slash.

    Raises ValueError if the target is not a path, names an invalid host, is badly
    encoded, is not UTF-8, or contains a NUL.
    """
    if origin := _ORIGIN.match(target):  # the form for proxies, which every server must accept
        if host_of(origin[1]) is None:
            raise ValueError("not a host")
        target = target[origin.end() :]
        if not target.startswith(b"/"):  # RFC 9112, section 3.2.1: an empty path is "/"
            target = b"/" + target
    raw, _, query = target.partition(b"#")[0].partition(b"?")
    if not raw.startswith(b"/"):
        raise ValueError("not a path")
    path = _PERCENT.sub(_decoded, raw).decode("utf-8") if b"%" in raw else raw.decode("ascii")
    if "\0" in path:
        raise ValueError("NUL in the path")
    if path.endswith(("/", "/.", "/..")) and path.strip("/"):
        path += "/" + INDEX
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments), query.decode("latin-1")


def _decoded(escape: re.Match[bytes]) -> bytes:
    if escape[1] is None:
        raise ValueError("a percent sign without its two digits")
    return bytes.fromhex(escape[1].decode())


class DocumentRoot:
    """The files below one directory.  Raises UsageError if it does not exist.

    A file larger than `large_bytes` is read such that `in_use` finds it again.
    """

    def __init__(self, directory: str, large_bytes: int = sys.maxsize) -> None:
        if not Path(directory).is_dir():
            raise UsageError(
                f"--docroot: {directory!r} is not a directory; "
                f"python -m servers.services.docroot {directory} makes one"
            )
        self.path = os.path.realpath(directory)
        self._inside = self.path.rstrip("/") + "/"
        self._large_bytes = large_bytes
        self._large = LargeBodies()

    def in_use(self, path: str) -> Page | None:
        """The large file at `path`, if a connection still has some of it to send."""
        body = self._large.find(path)
        return None if body is None else _page(path, memoryview(body), body.etag, body.modified_s)

    def read(self, path: str) -> Page:
        """The file at `path` (from `parse_target`), or the index of the directory there.

        Raises OSError: ENOENT also for files outside and for what is not a regular
        file, so that neither can be distinguished from a file that does not exist.
        """
        try:
            return self._read(path)
        except IsADirectoryError:
            return self._read(f"{path.rstrip('/')}/{INDEX}")

    def _read(self, path: str) -> Page:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(self.path + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 (not a path)
            found = os.fstat(descriptor)
            real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 (ten times faster)
            if stat.S_ISDIR(found.st_mode) and (real + "/").startswith(self._inside):
                raise IsADirectoryError(errno.EISDIR, "a directory", path)
            if not stat.S_ISREG(found.st_mode) or not real.startswith(self._inside):
                raise FileNotFoundError(errno.ENOENT, "not a file of the document root", path)
            if found.st_size <= self._large_bytes:
                contents = file.readall()
                return _page(path, contents, _etag(found, len(contents)), int(found.st_mtime))
            body = LargeBody(found.st_size)
            read_bytes = _read_into(file, body)
        del body[read_bytes:]  # it has been truncated meanwhile
        body.etag = _etag(found, read_bytes)
        body.modified_s = int(found.st_mtime)
        self._large.note(path, body)
        return _page(path, memoryview(body), body.etag, body.modified_s)


def _read_into(file: FileIO, body: LargeBody) -> int:
    """Fill `body`; return the number of bytes read."""
    read_bytes = 0
    with memoryview(body) as view:
        while more := file.readinto(view[read_bytes:]):
            read_bytes += more
    return read_bytes


def _etag(found: os.stat_result, size_bytes: int) -> bytes:
    return b'"%x-%x"' % (found.st_mtime_ns, size_bytes)


def _page(path: str, body: Buffer, etag: bytes, modified_s: int) -> Page:
    kind, encoding = _KINDS.guess_type(path)
    if kind is None or encoding:
        kind = "application/octet-stream"
    elif kind.startswith("text/"):
        kind += "; charset=utf-8"
    return Page(body, kind, etag=etag, modified_s=modified_s)


class Disk:
    """A modelled disk: reads take exponentially distributed times, `slots` concurrently.

    An M/M/c queue if reads arrive at random.  The times, and which reads fail, are drawn
    from a seed; which request gets which of them depends on the order of arrival.
    """

    def __init__(self, mean_ms: float, slots: int, fault_share: float, seed: int) -> None:
        self._mean_ms = mean_ms
        self._fault_share = fault_share
        self._random = random.Random(seed)
        self._slots = threading.BoundedSemaphore(slots)

    def read(self) -> None:
        """Wait for a slot and for one read.  Raises OSError, EIO, if the read is to fail."""
        if self._mean_ms:
            with self._slots:
                time.sleep(self._random.expovariate(1e3 / self._mean_ms))
        if self._fault_share and self._random.random() < self._fault_share:
            raise OSError(errno.EIO, "the modelled disk has failed")
