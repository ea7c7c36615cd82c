"""A server that is not ours, as a child process that looks like one of ours.

Between the driver and the server stands `adapter.py`, which speaks the JSON line
for it.  So whoever holds a `Child` needs not know which kind it is, but for two
things: there is no admin port, and the server may be several processes.  Its
accounts are those of the announced `pid` and its descendants (`tree.py`).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sedabench import scratch
from sedabench.errors import UserError, one_line
from sedabench.machine.process import STOP_S, Child, ChildError
from sedabench.targets.external.adapter import GRACE_S, MARK
from sedabench.targets.external.definition import (
    USUAL_CONNECTIONS,
    ExternalSpec,
    find_program,
    substitute,
    user_name,
)

HOST = "127.0.0.1"
ADAPTER = Path(__file__).with_name("adapter.py")

LAST_LINES = 5
"""Of what a server wrote: the reason may stand before a hint, or within a traceback."""
LONGEST_LINE = 200
_READ_BYTES = 1 << 16
"""From the end: a server that logs each question whether it is ready writes less meanwhile."""


class ExternalServer(Child):
    """One run of an `ExternalSpec`, in a temporary directory of its own.

    `next_message` returns its announcement when it is ready: the keys that our
    own servers have, with "admin_port" None.  After the block its whole tree and
    its directory are gone.
    """

    alone_s = GRACE_S + 1

    def __init__(
        self,
        spec: ExternalSpec,
        docroot: Path,
        cores: Collection[int],
        connections: int,
        service: str,
        python: str,
    ) -> None:
        # Others than the owner may enter: some servers change their user.
        self._folder = ExitStack()
        folder = self._folder.enter_context(scratch.folder())
        folder.chmod(0o755)
        values = {
            "port": free_port(),
            "docroot": docroot.resolve(),
            "dir": folder,
            "cores": len(cores or os.sched_getaffinity(0)),
            "connections": connections,
            "here": spec.source.parent,
            "python": python,
            "user": user_name(),
        }
        self._question = f"GET {spec.ready.path} "
        command = [substitute(word, values) for word in spec.command]
        job: dict[str, Any] = {
            "command": [find_program(command[0]) or command[0], *command[1:]],
            "dir": str(folder),
            "ready": {"path": spec.ready.path, "status": spec.ready.status},
            "stop_signal": int(spec.stop_signal),
            "announce": {
                "architecture": spec.architecture,
                "service": service,
                "host": HOST,
                "port": values["port"],
                "admin_port": None,
            },
        }
        environment = {name: substitute(text, values) for name, text in spec.environment.items()}
        try:
            for name, contents in spec.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(substitute(contents, values), encoding="utf-8")
            super().__init__(
                spec.label,
                [sys.executable, "-P", str(ADAPTER), json.dumps(job)],
                cores=cores,
                environment={**os.environ, **environment},
            )
        except OSError as error:
            self._folder.close()
            raise UserError(f"{spec.label}: its files cannot be written: {error}") from None
        except ChildError:
            self._folder.close()
            raise

    def stop(self, grace_s: float = STOP_S) -> int:
        """Make all of it end; `grace_s` is for the adapter, which kills a slow server itself."""
        try:
            return super().stop(max(grace_s, STOP_S))
        finally:
            self._folder.close()

    def _last_words(self) -> str:
        """What the adapter found, then the server's last lines, joined into one."""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _READ_BYTES))
        text = self._stderr.read().decode(errors="replace")
        lines = [line for line in map(one_line, text.splitlines()) if line]
        found = [line.removeprefix(MARK).strip() for line in lines if line.startswith(MARK)]
        output = [line[:LONGEST_LINE] for line in lines if not line.startswith(MARK)]
        # An access log repeats our own question; what else there is says more.
        telling = [line for line in output if self._question not in line] or output[-1:]
        shown = " / ".join(telling[-LAST_LINES:])
        if found and found[-1]:
            return f": {found[-1]}" + (f"; its last output: {shown}" if shown else "")
        return f": {shown}" if shown else ""


def free_port() -> int:
    """A port of the loopback that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def start_external(
    spec: ExternalSpec,
    docroot: Path,
    cores: Collection[int] = (),
    *,
    connections: int = USUAL_CONNECTIONS,
    service: str | None = None,
    python: str = sys.executable,
) -> ExternalServer:
    """Start it, pinned on `cores`; its first message says where it listens.

    `connections` is how many the trial will open, for a server that has to
    be told.  `service` is what the announcement names, by default the first
    that it offers.  `python` is what `{python}` means.

    Raises:
        UserError: its program is not installed.
        ChildError: the process cannot be made.
    """
    if reason := spec.missing(python):
        raise UserError(reason)
    return ExternalServer(spec, docroot, cores, connections, service or spec.services[0], python)
