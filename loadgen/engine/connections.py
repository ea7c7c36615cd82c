"""Connections that note how long each reply was: Locust shows bytes, too.

A reply that takes the short way is noted in the engine's own loop.
"""

from __future__ import annotations

from array import array

from loadgen.http.connections import Connection, Connections
from loadgen.http.reply import END, Reply
from loadgen.http.run import HttpConfig


class SizedConnections(Connections):
    """`size`: of each request's reply, from the end of its head, `END` included."""

    def __init__(
        self, config: HttpConfig, done: array[int], outcome: bytearray, size: array[int]
    ) -> None:
        super().__init__(config, done, outcome)
        self._size = size

    def _known(self, connection: Connection, data: bytes) -> bool:
        request, known = connection.request, connection.known
        taken = super()._known(connection, data)
        if taken and known is not None:
            self._size[request] = known[data[: data.find(END) + len(END)]][0]
        return taken

    def _finish(self, connection: Connection, reply: Reply) -> None:
        self._size[connection.request] = reply.body_bytes + len(END)
        super()._finish(connection, reply)
