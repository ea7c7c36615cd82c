"""A static HTTP server on asyncio and httptools, as most people would write it: a peer.

    python asyncio_static.py DOCROOT PORT

Files stay in memory after their first request, up to `CACHE_BYTES`, with their
headers before them; a file beyond that is read anew, on the loop.  It looks at
the headers, at the path and at whether the connection stays, and its replies
have the headers that nginx sends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import sys
import time
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote_to_bytes

import httptools

CACHE_BYTES = 64_000_000
BACKLOG = 65_535

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
NOT_ALLOWED = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Site:
    """The pages below a root, each with all of its headers but the date."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._pages: dict[bytes, bytes] = {}
        self._cached_bytes = 0
        self._second = -1
        self._status = b""

    def reply(self, url: bytes) -> bytes:
        path = url.partition(b"?")[0]
        page = self._pages.get(path)
        if page is None:
            page = self._load(path)
            if page is None:
                return NOT_FOUND
        second = int(time.time())
        if second != self._second:
            self._second = second
            date = formatdate(second, usegmt=True)
            self._status = f"HTTP/1.1 200 OK\r\nDate: {date}\r\n".encode()
        return self._status + page

    def _load(self, path: bytes) -> bytes | None:
        try:
            file = (self._root / unquote_to_bytes(path).decode().lstrip("/")).resolve()
            if not file.is_relative_to(self._root):
                return None
            body, changed = file.read_bytes(), file.stat()
        except (OSError, ValueError):
            return None
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        head = (
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Last-Modified: {formatdate(changed.st_mtime, usegmt=True)}\r\n"
            f'ETag: "{len(body):x}-{changed.st_mtime_ns:x}"\r\n\r\n'
        )
        page = head.encode() + body
        if self._cached_bytes + len(page) <= CACHE_BYTES:
            self._cached_bytes += len(page)
            self._pages[path] = page
        return page


class Connection(asyncio.Protocol):
    def __init__(self, site: Site) -> None:
        self._site = site
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(BAD_REQUEST)
            self._transport.close()

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        is_get = self._parser.get_method() == b"GET"
        self._transport.write(self._site.reply(self._url) if is_get else NOT_ALLOWED)
        if not self._parser.should_keep_alive():
            self._transport.close()

    # What a client does not read waits in the transport; it is asked for nothing more till then.
    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()


async def main(root: Path, port: int) -> None:
    site = Site(root)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(site), "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
