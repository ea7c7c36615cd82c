"""Waiting for all stages whose events come from the kernel, with one epoll over them."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from servers.seda.runner import AnyStage

POLL_BATCH = 16
"""Sources reported by one system call."""


class Waiter:
    """Waits for all sources that have a descriptor."""

    def __init__(self, stages: Sequence[AnyStage]) -> None:
        self.ended = False
        self._epoll = select.epoll()
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._end, select.EPOLLIN)
        self._stages: dict[int, AnyStage] = {}
        self._tell = [stage.source for stage in stages if hasattr(stage.source, "idle_ns")]
        for stage in stages:
            fileno = getattr(stage.source, "fileno", None)
            if fileno is not None:
                self._stages[fileno()] = stage
                self._epoll.register(fileno(), select.EPOLLIN)

    def wait(self, timeout_s: float | None) -> list[AnyStage]:
        """The stages that have events."""
        before_ns = time.monotonic_ns()
        found = self._epoll.poll(timeout_s, POLL_BATCH)
        idle_ns = time.monotonic_ns() - before_ns
        for source in self._tell:
            source.idle_ns += idle_ns
        stages = self._stages
        if len(found) == 1 and found[0][0] in stages:
            return [stages[found[0][0]]]
        ready = []
        for descriptor, _ in found:
            if descriptor == self._end:
                os.eventfd_read(self._end)
            elif descriptor in stages:
                ready.append(stages[descriptor])
        return ready

    def wake(self) -> None:
        """Wake whoever is waiting."""
        if self._end >= 0:
            os.eventfd_write(self._end, 1)

    def end(self) -> None:
        self.ended = True
        self.wake()

    def close(self) -> None:
        """To be called when nobody is waiting any more; may be called twice."""
        self._epoll.close()
        end, self._end = self._end, -1
        if end >= 0:
            os.close(end)
