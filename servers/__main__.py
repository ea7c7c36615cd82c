"""`python -m servers ARCHITECTURE --service NAME`: one process, one server.

Either can be a class of your own, named as path/to/file.py:ClassName (`servers.registry`).
Prints one JSON line when it is ready and nothing afterwards, and exits with status 0
after SIGTERM, SIGINT or SIGHUP, at any time and any number of them.  A user's mistake is
reported in one line, with exit status 2.
"""

from __future__ import annotations

from servers import signals

if __name__ == "__main__":  # first: the imports below take a tenth of a second
    signals.exit_on_signal()

import argparse
import contextlib
import gc
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from servers.admin import Admin
from servers.architecture import ARCHITECTURES, Architecture
from servers.listener import ServerOptions, bind
from servers.options import UsageError, add_options, take_options
from servers.output import command, visible
from servers.registry import find
from servers.service import Service
from servers.services import SERVICES
from servers.shortage import is_shortage, limit_reached

PROG = os.environ.get("SEDABENCH_PROG", "python -m servers")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve; return the exit status."""
    try:
        return serve(*parse(sys.argv[1:] if arguments is None else arguments))
    except UsageError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except (OSError, MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        print(f"error: cannot start: {limit_reached(error, threading.stack_size())}",
              file=sys.stderr)  # fmt: skip
        return 2


def parse(
    arguments: Sequence[str],
) -> tuple[type[Architecture], type[Service], ServerOptions, Any, Any, bool]:
    """Find the two classes first: which options exist depends on them."""
    names = _Parser(prog=PROG, add_help=False, allow_abbrev=False)
    names.add_argument("architecture", nargs="?")
    names.add_argument("--service", default="burst")
    found, _ = names.parse_known_args(arguments)
    wants_help = {"-h", "--help"} & set(arguments)
    known = found.architecture in ARCHITECTURES or ":" in str(found.architecture)
    if found.architecture is None or (wants_help and not known):
        if not wants_help:
            raise UsageError(f"name an architecture: {', '.join(ARCHITECTURES)}")
        _print_overview()
        raise SystemExit(0)
    architecture = _architecture(found.architecture)
    service = _service(found.service)

    parser = _Parser(
        prog=f"{PROG} {found.architecture}", allow_abbrev=False,
        description=f"{architecture.name}: {architecture.summary}. "
        f"Service {service.name}: {service.summary}.",
        epilog=f"example: {PROG} {found.architecture} --service {found.service} "
        "--port 8080 --admin-port 8081",
    )  # fmt: skip
    parser.add_argument("architecture", help=argparse.SUPPRESS)
    parser.add_argument(
        "--service", default="burst", metavar="NAME",
        help=f"the service to run: {', '.join(SERVICES)}, or path/to/file.py:ClassName "
        "(default: burst)",
    )  # fmt: skip
    parser.add_argument(
        "--describe", action="store_true",
        help="print what `/stats` would report, without serving, and exit",
    )  # fmt: skip
    add_options(parser, f"architecture {architecture.name}", architecture.Options)
    add_options(parser, f"service {service.name}", service.Options)
    add_options(parser, "every server", ServerOptions)
    values = parser.parse_args(arguments)
    if values.describe:
        values.port, values.admin_port = 0, None
    return (
        architecture,
        service,
        take_options(values, ServerOptions),
        take_options(values, architecture.Options),
        take_options(values, service.Options),
        values.describe,
    )


def _architecture(name: str) -> type[Architecture]:
    return find("architecture", Architecture, name, ARCHITECTURES)  # type: ignore[type-abstract]


def _service(name: str) -> type[Service]:
    return find("service", Service, name, SERVICES)  # type: ignore[type-abstract]


def _print_overview() -> None:
    print(f"usage: {PROG} ARCHITECTURE [--service NAME] [options]\n\narchitectures:")
    for name in ARCHITECTURES:
        print(f"  {name:10} {_architecture(name).summary}")
    print("\nservices:")
    for name in SERVICES:
        print(f"  {name:10} {_service(name).summary}")
    print("\nYour own: path/to/file.py:ClassName in place of either name.")
    print(f"options: {PROG} ARCHITECTURE --service NAME --help")
    print(f"example: {PROG} eventloop --service burst --port 8080 --admin-port 8081")


def serve(
    architecture_class: type[Architecture],
    service_class: type[Service],
    server: ServerOptions,
    architecture_options: Any,
    service_options: Any,
    describe: bool = False,
) -> int:
    """Bind, announce, serve until a signal, clean up."""
    service = service_class(service_options)
    _check_entries(service)
    with bind(server.host, server.port, server.backlog, server.receive_buffer) as listener:
        architecture = architecture_class(service, listener, server, architecture_options)
        if describe:
            print(json.dumps(architecture.stats()))
            return 0
        admin = None
        if server.admin_port is not None:
            admin = Admin(server.host, server.admin_port, architecture.stats, server.admin_name)
        host, port = listener.getsockname()[:2]
        service.about = {"service": service.name, "architecture": architecture.name} | (
            {"statistics": f"http://{url_host(host)}:{admin.port}/stats"} if admin else {}
        )
        service.start()
        signals.stop_on_signal(architecture.stop)
        if admin:
            admin.start()
        try:
            architecture.prepare()  # the last step that can fail
        except BaseException:
            service.stop()
            raise
        announcement = {
            "architecture": architecture.name,
            "service": service.name,
            "host": host,
            "port": port,
            "admin_port": admin.port if admin else None,
            "pid": os.getpid(),
        }
        # Our parent may be gone, or may not read; serve anyway.
        with contextlib.suppress(OSError):
            os.write(sys.stdout.fileno(), json.dumps(announcement).encode() + b"\n")
        # What exists now lives as long as the process: the garbage collector can skip it.
        gc.freeze()
        architecture.run()
        if admin:
            admin.stop()
        service.stop()
    return 0


def _check_entries(service: Service) -> None:
    """Without this, a method that is not a step would work under some architectures only."""
    steps = list(service.steps().values())
    for entry in (service.first, *service.entries):
        if entry not in steps:
            name = getattr(entry, "__name__", repr(entry))
            raise UsageError(
                f"{type(service).__name__}: requests enter at {name!r}, which is not a step; "
                "mark it with @step"
            )


def url_host(host: str) -> str:
    """An address as it is written in a URL."""
    return f"[{host}]" if ":" in host else host


def run() -> NoReturn:
    """The process, from its first line to its exit."""
    try:
        command(main)
    except SystemExit as end:
        signals.exit_process(end.code if isinstance(end.code, int) else 0)


if __name__ == "__main__":
    run()
