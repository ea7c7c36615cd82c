"""A server that the system gives too little of something: it says so, or it serves."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest

from servers.services.burst import ACK
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import DEADLINE_S, ROOT, Server, read_exactly
from tests.conformance.test_command_line import assert_refused

(ACK_BYTES,) = ACK
BURST = ("--packets", str(PACKETS), "--packet-bytes", str(PACKET_BYTES))
MB = 1 << 20


def limited(kind: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (most, most))


@pytest.fixture(scope="module")
def bare_bytes() -> int:
    """Address space of an interpreter that has loaded all that a server is made of."""
    code = (
        "import resource, servers.__main__, servers.threaded, servers.eventloop, "
        "servers.seda.server, servers.services.burst; print(open('/proc/self/statm').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    return int(done.stdout.split()[0]) * resource.getpagesize()


@pytest.mark.parametrize("room_mb", [3, 12, 30])
def test_a_server_announces_itself_when_it_can_serve_and_not_before(
    variant: tuple[str, ...], room_mb: int, bare_bytes: int
) -> None:
    # Room for none, some or most of the threads: which, depends on the variant.
    process = subprocess.Popen(
        [sys.executable, "-m", "servers", *variant, *BURST, "--port", "0", "--admin-port", "0"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=limited(resource.RLIMIT_AS, bare_bytes + room_mb * MB),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        announced = process.stdout.readline()
        if announced:
            assert process.poll() is None
            assert json.loads(announced)["pid"] == process.pid
            process.terminate()
        _, errors = process.communicate(timeout=DEADLINE_S)
    if announced:
        assert (process.returncode, errors) == (0, "")
    else:
        assert process.returncode == 2
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert "address space" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        "threaded --writers 100 --stack-kb 50000", "seda --threads acknowledge=900",
        "seda --run shared --shared-threads 900",
    ],
)  # fmt: skip
def test_threads_for_which_there_is_no_room_are_told_by_the_limit(arguments: str) -> None:
    assert_refused(
        *arguments.split(), "--port", "0", says="the limit on address space is 1024 MB; raise it",
        limits=limited(resource.RLIMIT_AS, 1024 * MB),
    )  # fmt: skip


@pytest.mark.parametrize("most", [5, 6])
def test_descriptors_that_do_not_suffice_for_the_start_are_told(
    variant: tuple[str, ...], most: int
) -> None:
    assert_refused(
        *variant, "--port", "0", "--admin-port", "0", says=f"the limit on open files is {most}",
        limits=limited(resource.RLIMIT_NOFILE, most),
    )  # fmt: skip


def test_a_thread_more_that_cannot_be_had_later_stops_nothing() -> None:
    # Each stage that blocks may grow to 40 threads; there is room for no more of them.
    with Server(
        "seda", "--service", "web", "--compute-loops-per-us", "5", "--disk-ms", "20",
        "--disk-slots", "40", "--no-admission-controller", "--queue-policy", "block",
        "--docroot", str(ROOT / "servers"), "--cache-bytes", "0",
    ) as server, server.clients(8) as socks:  # fmt: skip
        used_bytes = server.address_space_bytes()
        resource.prlimit(server.pid, resource.RLIMIT_AS, (used_bytes + 4 * MB,) * 2)
        request = b"GET /__init__.py HTTP/1.1\r\nHost: test\r\n\r\n"
        for sock in socks:
            sock.sendall(request * 40)
        server.wait_for(
            lambda stats: any("cannot start a thread" in d["reason"] for d in stats["decisions"])
        )
        server.wait_for(lambda stats: stats["replies"] == 8 * 40)
        for sock in socks:
            assert read_exactly(sock, 15) == b"HTTP/1.1 200 OK"
