"""The threads of one stage: started, added while it runs, ended when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from servers.seda.runner import AnyStage


class ThreadPool:
    """At least `min_threads` threads; further ones end when idle for `keep_idle_s`."""

    def __init__(self, stage: AnyStage, min_threads: int) -> None:
        self.stage = stage
        self.min_threads = min_threads
        self.keep_idle_s: float | None = None
        self.on_thread_exit: Callable[[int], None] | None = None
        """Called with the number of remaining threads when an idle one has ended."""
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._made = 0
        self.started = False

    def __len__(self) -> int:
        return len(self._threads)

    def add(self) -> None:
        """Start one more thread.  Raises RuntimeError or MemoryError if that is impossible."""
        with self._lock:
            self._made += 1
            thread = threading.Thread(
                target=self._work, name=f"{self.stage.name}-{self._made}", daemon=True
            )
            self._threads.add(thread)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            with self._lock:
                self._threads.discard(thread)
            raise

    def start(self) -> None:
        self.started = True
        for _ in range(self.min_threads):
            self.add()

    def join(self, deadline_s: float) -> bool:
        for thread in list(self._threads):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        return not self._threads

    def _work(self) -> None:
        """The life of one thread of the pool."""
        stage = self.stage
        tally = stage.tally()
        turn = stage.turn
        while (handled := turn(tally, self.keep_idle_s)) is not None:
            if not handled and self._leave():
                break
        stage.give_back(tally)
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _leave(self) -> bool:
        """May this idle thread end?"""
        with self._lock:
            if len(self._threads) <= self.min_threads:
                return False
            self._threads.discard(threading.current_thread())
            left = len(self._threads)
        if self.on_thread_exit is not None:
            self.on_thread_exit(left)
        return True
