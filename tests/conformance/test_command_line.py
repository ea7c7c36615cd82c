"""`python -m servers` as a person, or a program, meets it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.server import DEADLINE_S, ROOT, Server, read_exactly


def run(
    *arguments: str, limits: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "servers", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        preexec_fn=limits,
    )  # fmt: skip


def assert_refused(*arguments: str, says: str, limits: Callable[[], None] | None = None) -> None:
    """Nothing is served, and one line says why."""
    done = run(*arguments, limits=limits)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "name an architecture"),
        ("fibers", "there is no architecture 'fibers'; there are: threaded"),
        ("eventloop --service gopher", "there is no service 'gopher'"),
        ("eventloop --service", "expected one argument"),
        ("eventloop --colour red", "unrecognized arguments: --colour red"),
        ("eventloop --writers 4", "unrecognized arguments"),
        ("eventloop --port x", "'x' is not a whole number"),
        ("eventloop --port -1", "at least 0"),
        ("eventloop --port 99999", "65535"),
        ("eventloop --port 0 --admin-port 99999", "65535"),
        (
            "eventloop --port 0 --admin-port 0 --admin-name a:80",
            "--admin-name 'a:80' is not a name",
        ),
        ("eventloop --idle-timeout soon", "'soon' is not a number"),
        ("eventloop --idle-timeout nan", "nan"),
        ("eventloop --idle-timeout inf", "inf"),
        ("threaded --port 0 --send-timeout 1e300", "1e300"),
        ("threaded --port 0 --grace inf", "inf"),
        ("eventloop --port 0 --backlog 99999999999", "99999999999"),
        ("eventloop --backlog 0", "at least 1"),
        ("eventloop --port 0 --receive-bytes 9999999999999", "9999999999999"),
        ("eventloop --packets 0", "at least 1"),
        ("eventloop --poller kqueue", "choose from"),
        ("eventloop --poller select --max-connections 5000", "the limit of select() is 1024"),
        ("eventloop --max-connections 99999999", "the limit on open files"),
        ("threaded --max-connections 99999999", "the limit on open files"),
        ("seda --max-connections 0", "at least 1"),
        ("threaded --writers -1", "at least 0"),
        ("threaded --stack-kb 1", "at least 32"),
        ("threaded --port 0 --stack-kb 99999999999", "99999999999"),
        ("seda --queue-capacity 0", "at least 1"),
        ("seda --port 0 --batch 99999999999", "99999999999"),
        ("seda --port 0 --threads nonsense", "there is no stage 'nonsense'"),
        ("seda --port 0 --threads read", "not STAGE=N"),
        ("seda --port 0 --threads read=0", "not STAGE=N"),
        ("seda --port 0 --threads read=-1", "not STAGE=N"),
        ("seda --port 0 --threads read=1e3", "not STAGE=N"),
        ("seda --port 0 --threads read=99999999999", "not STAGE=N"),
        ("eventloop --host 192.0.2.1 --port 0", "not an address of this machine"),
        ("eventloop --host nowhere.invalid --port 0", "cannot resolve"),
        (f"eventloop --host {'x' * 300} --port 0", "cannot resolve"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(arguments: str, says: str) -> None:
    assert_refused(*arguments.split(), says=says)


def test_the_limit_on_open_files_holds_for_every_architecture(variant: tuple[str, ...]) -> None:
    def few_descriptors() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))

    assert_refused(
        *variant, "--max-connections", "500", limits=few_descriptors,
        says="needs 540 descriptors, but the limit on open files is 300",
    )  # fmt: skip


def test_a_port_in_use_is_named(variant: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert_refused(*variant, "--port", port, says=f"127.0.0.1 port {port} is in use")
        assert_refused(
            *variant, "--port", "0", "--admin-port", port, says=f"127.0.0.1 port {port} is in use"
        )


@pytest.mark.parametrize("arguments", [["--help"], ["seda", "--help"], ["--help", "eventloop"]])
def test_help_is_given_with_an_example(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: " in done.stdout
    assert "example: " in done.stdout


def test_a_server_announces_itself_in_one_line_of_json(server: Server) -> None:
    assert set(server.announcement) == {
        "architecture", "service", "host", "port", "admin_port", "pid",
    }  # fmt: skip
    assert server.announcement["service"] == "burst"
    assert server.host == "127.0.0.1"
    assert server.pid == server.process.pid


def test_a_server_whose_announcement_nobody_reads_serves_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "servers", "eventloop", "--port", str(port), "--packets", "1"],
        cwd=ROOT, stdout=writing, stderr=subprocess.PIPE,
    )  # fmt: skip
    os.close(writing)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline_s
            try:
                sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
                break
            except ConnectionRefusedError:
                assert process.poll() is None
        with sock:
            sock.sendall(bytes(8192))
            assert len(read_exactly(sock, 32)) == 32
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.communicate()


def test_a_service_whose_requests_enter_at_no_step_is_refused(
    tmp_path: Path, variant: tuple[str, ...]
) -> None:
    file = tmp_path / "astray.py"
    file.write_text("""
from servers.services.web import Web

class Astray(Web):
    @property
    def first(self):
        return self.unmarked

    def unmarked(self, request):
        return None
""")
    assert_refused(
        *variant, "--port", "0", "--service", f"{file}:Astray",
        says="Astray: requests enter at 'unmarked', which is not a step; mark it with @step",
    )  # fmt: skip


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_ipv6_is_served_like_ipv4(variant: tuple[str, ...]) -> None:
    with Server(*variant, "--host", "::1", "--packets", "1", "--packet-bytes", "2") as server:
        with server.connect() as sock:
            sock.sendall(b"12")
            assert len(read_exactly(sock, 32)) == 32
        assert server.host == "::1"
        assert server.rest()["replies"] == 1
