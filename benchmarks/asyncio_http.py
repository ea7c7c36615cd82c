"""A small HTTP server on asyncio and httptools: what most people would write; a peer for `web`.

`python -m benchmarks.asyncio_http FILE` serves that one file from memory under
its name, on a free port of 127.0.0.1, which it prints.  It does what a server
must: it looks at the headers, at the path and at whether the connection stays,
and its reply has the headers that `web` and nginx send too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from email.utils import formatdate
from pathlib import Path

import httptools


class Protocol(asyncio.Protocol):
    pages: dict[bytes, bytes] = {}  # noqa: RUF012
    second = -1
    date = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._url = b""

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._headers = []
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        page = self.pages.get(self._url.partition(b"?")[0])
        if page is None or self._parser.get_method() != b"GET":
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            second = int(time.time())
            if second != Protocol.second:
                Protocol.second = second
                Protocol.date = formatdate(second, usegmt=True).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nDate: " + Protocol.date + page)
        if not self._parser.should_keep_alive():
            self._transport.close()


async def main(path: str) -> None:
    file = Path(path)
    body = file.read_bytes()
    modified = formatdate(file.stat().st_mtime, usegmt=True)
    head = (
        f"\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        f'ETag: "{len(body):x}-{file.stat().st_mtime_ns:x}"\r\nLast-Modified: {modified}\r\n\r\n'
    )
    Protocol.pages[b"/" + file.name.encode()] = head.encode() + body
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
