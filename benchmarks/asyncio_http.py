"""A small HTTP server on asyncio and httptools: what most people would write; a peer for `web`.

`python -m benchmarks.asyncio_http FILE` serves that one file from memory, at
any path, on a free port of 127.0.0.1, which it prints.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import httptools


class Protocol(asyncio.Protocol):
    reply = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_message_complete(self) -> None:
        self._transport.write(self.reply)


async def main(path: str) -> None:
    body = Path(path).read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
    Protocol.reply = head.encode() + body
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
