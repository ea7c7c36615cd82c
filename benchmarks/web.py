"""The service `web` under `wrk`: one cached page of 1 KB, one core for the server, one for wrk.

Beside it nginx with one worker, which serves the same page from the kernel's
page cache, and a plain server on asyncio and httptools.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.processes import CLIENT_CORE, SERVER_CORE, served
from benchmarks.tables import show
from sedabench import scratch
from sedabench.machine.process import Guard, before_exec, finish

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

PAGE = "page.html"
LEVELS = (64, 256, 1000)
SEDA = {
    "seda (pools)": "seda --service web",
    "seda (shared)": "seda --service web --run shared",
    "seda (direct)": "seda --service web --run direct",
}
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    sendfile on;
    keepalive_timeout 600;
    keepalive_requests 1000000000;
    open_file_cache max=10;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ text/html html; }}
    server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}; }}
}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=before_exec(SERVER_CORE, os.getpid()), start_new_session=True,
    )  # fmt: skip
    guard = Guard(child.pid, 0.0)
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=10)
        guard.release()


@contextmanager
def nginx(folder: Path) -> Iterator[int]:
    """nginx for the length of the block; its port."""
    port = free_port()
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # the folder is root's then
    config.write_text(user + NGINX.format(folder=folder, port=port))
    with process(["nginx", "-c", str(config)]):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port


@contextmanager
def asyncio_server(folder: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.asyncio_http", str(folder / PAGE)]
    with process(command) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline())


@contextmanager
def ours(options: str, folder: Path) -> Iterator[int]:
    with served(f"{options} --docroot {folder}") as server:
        yield server.port


def wrk(port: int, connections: int, seconds: float) -> float:
    """Requests per second; ends the benchmark if any of them failed."""
    url = f"http://127.0.0.1:{port}/{PAGE}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", url]
    done = finish(command, cores=CLIENT_CORE, capture_output=True, text=True, check=True)
    if trouble := re.search(r"(Socket errors|Non-2xx).*", done.stdout):
        raise SystemExit(f"error: {trouble.group()}")
    found = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    assert found is not None
    return float(found.group(1))


Rates = dict[tuple[str, int], list[float]]
Servers = dict[str, Callable[[Path], AbstractContextManager[int]]]


def measure(servers: Servers, levels: Sequence[int], effort: Effort) -> Rates:
    """Requests/s of every server at every level, taking turns in a random order."""
    found: Rates = {}
    order = random.Random(1)
    with scratch.folder() as folder:
        folder.chmod(0o755)
        (folder / PAGE).write_bytes(b"<!doctype html>\n".ljust(1024, b"x"))
        turns = [(server, level) for server in servers for level in levels]
        for _ in range(effort.rounds):
            order.shuffle(turns)
            for server, level in turns:
                with servers[server](folder) as port:
                    wrk(port, level, 1)  # warm: the page cached, the connections known
                    found.setdefault((server, level), []).append(wrk(port, level, effort.seconds))
    return found


def main(effort: Effort) -> None:
    if not shutil.which("wrk"):
        print("wrk is not installed: nothing to measure with (Debian package wrk)")
        return
    servers: Servers = {"asyncio": asyncio_server}
    if shutil.which("nginx"):
        servers["nginx"] = nginx
    else:
        print("nginx is not installed: no comparison with it (Debian package nginx-light)")
    options = {"eventloop": "eventloop --service web", "threaded": "threaded --service web", **SEDA}
    for name, line in options.items():
        servers[name] = lambda folder, line=line: ours(line, folder)  # type: ignore[misc]
    found = measure(servers, LEVELS, effort)
    middle = {key: statistics.median(values) for key, values in found.items()}
    table = Table(title="thousand requests/s, median (range); one cached page of 1 KB")
    table.add_column("server")
    for level in LEVELS:
        table.add_column(f"{level} connections", justify="right")
    for name in servers:
        table.add_row(name, *(_cell(found[name, level]) for level in LEVELS))
    pairs = [(a, "eventloop") for a in SEDA] + [("eventloop", "asyncio")]
    if "nginx" in servers:
        pairs.append(("eventloop", "nginx"))
    table.add_section()
    for over, under in pairs:
        ratios = (f"{middle[over, level] / middle[under, level]:.3f}" for level in LEVELS)
        table.add_row(f"{over} / {under}", *ratios)
    show(table, 120)


def _cell(values: Sequence[float]) -> str:
    low, high = min(values) / 1e3, max(values) / 1e3
    return f"{statistics.median(values) / 1e3:.1f} ({low:.1f}-{high:.1f})"
