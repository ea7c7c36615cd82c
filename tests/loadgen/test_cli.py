"""The command as a user meets it: a process, its output, its exit status."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from loadgen.burst.loop import ERROR_KINDS
from loadgen.cli.load import load

from .fault_server import fault_server
from .scripted import DEADLINE_S, Peer, acknowledging, serving

SMALL = ("--packets", "4", "--duration", "0.1", "--warmup", "0.02")
BURST = 4 * 8192

RESULT_KEYS = {
    *("workload", "target", "connections", "connected", "duration_s", "warmup_s"),
    *("packet_bytes", "packets", "coalesce", "bandwidth_bps", "bytes", "bursts", "bursts_per_s"),
    *("ack_latency_us", "jain_fairness", "errors", "client_cpu", "send_buffer_bytes"),
    *("valid", "invalid_reasons", "warnings"),
}


def invoke(*args: str) -> Result:
    return CliRunner().invoke(load, args)


def burst(target: object, *args: str) -> Result:
    return invoke("burst", "--target", str(target), *SMALL, *args)


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "loadgen", *args]


def test_json_is_one_line_with_every_key() -> None:
    with serving(acknowledging(BURST)) as server:
        outcome = burst(server.target, "--json", "--connections", "3")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.count("\n") == 1
    result: dict[str, Any] = json.loads(outcome.stdout)
    assert set(result) == RESULT_KEYS
    assert set(result["ack_latency_us"]) == {"p50", "p90", "p99", "max", "samples"}
    assert set(result["errors"]) == set(ERROR_KINDS)
    assert (result["workload"], result["connections"], result["connected"]) == ("burst", 3, 3)
    assert result["valid"] == (not result["invalid_reasons"])
    assert result["bytes"] > 0
    assert result["client_cpu"] >= 0  # here the server's threads are in it


def test_events_are_lines_of_json_in_order_and_the_timeline_covers_the_tail() -> None:
    with serving(acknowledging(BURST)) as server:
        outcome = burst(server.target, "--events")
    events = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [e["event"] for e in events] == ["connected", "window_begin", "window_end", "result"]
    assert set(events[-1]) == RESULT_KEYS | {"event", "timeline"}
    timeline = events[-1]["timeline"]
    assert len(timeline["t_ns"]) == len(timeline["bytes"]) == len(timeline["bursts"])
    assert timeline["t_ns"][0] < events[1]["t_ns"]
    assert timeline["t_ns"][-1] >= events[2]["t_ns"] + 0.5e9


def test_without_json_a_table_for_people() -> None:
    with serving(acknowledging(BURST)) as server:
        outcome = burst(server.target)
    assert outcome.exit_code == 0
    for word in ("bandwidth", "Gbit/s", "fairness", "ACK latency", "client CPU", "valid"):
        assert word in outcome.stdout


def test_an_invalid_result_is_printed_with_its_reason() -> None:
    def script(peer: Peer) -> None:
        peer.read(BURST)
        peer.reset()

    with serving(script) as server:
        # As many of the two as the machine reset before the window's end, but one at least.
        outcome = burst(server.target, "--warmup", "0", "--connections", "2", "--duration", "1")
    assert outcome.exit_code == 0
    words = " ".join(outcome.stdout.replace("│", " ").split())
    assert re.search(r"NO: connections failed \(reset: [12]\)", words), words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["burst"], "Missing option '--target'"),
        (["burst", "--target"], "requires an argument"),
        (["burst", "--target", "nonsense"], "not HOST:PORT"),
        (["burst", "--target", "::1:80"], "brackets"),
        (["burst", "--target", "192.0.2.1:80"], "--allow-remote"),
        (["burst", "--target", "127.0.0.1:1", "--connections", "many"], "not a valid integer"),
        (["burst", "--target", "127.0.0.1:1", "--connections", "0"], "--connections must be"),
        (["burst", "--target", "127.0.0.1:1", "--connections", "999999"], "use fewer"),
        (["burst", "--target", "127.0.0.1:1", "--duration", "nan"], "--duration must be"),
        (["burst", "--target", "127.0.0.1:1", "--bogus"], "No such option"),
        (["burst", "--target", "127.0.0.1:1", "extra"], "unexpected extra argument"),
        (["flood"], "No such command 'flood'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(args: list[str], words: str) -> None:
    for root, prefix in ((load, []), (_mounted(), ["load"])):
        outcome = CliRunner().invoke(root, [*prefix, *args])
        assert outcome.exit_code == 2
        assert outcome.stdout == ""
        assert outcome.stderr.startswith("error: ")
        assert words in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def _mounted() -> click.Group:
    root = click.Group("sedabench")
    root.add_command(load)
    return root


def test_a_closed_port_is_one_line_without_traceback() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{bound.getsockname()[1]}"
        done = subprocess.run(
            command("burst", "--target", target),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == f"error: nothing listens on {target}: start the server first\n"


def test_ctrl_c_is_one_line_and_exit_status_130() -> None:
    with (
        serving(acknowledging(BURST)) as server,
        subprocess.Popen(
            command("burst", "--target", str(server.target), "--duration", "60", "--events"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert "connected" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert complaints == "interrupted: nothing of what was measured is kept\n"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize(
    ("workload", "first"),
    [
        *(("burst", number) for number in SIGNALS),
        ("http", signal.SIGTERM),
        ("http --processes 2", signal.SIGHUP),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_signals_in_any_order_and_number_are_at_most_one_line(
    workload: str, first: signal.Signals, begun: bool
) -> None:
    name, *options = workload.split()
    with ExitStack() as stack:
        if name == "burst":
            target = str(stack.enter_context(serving(acknowledging(BURST))).target)
        else:
            server = stack.enter_context(fault_server())
            target = f"http://127.0.0.1:{server.port}/{server.token()}/ok"
            options += ["--rate", "10"]
        said = ["--events"] if begun else []
        process = stack.enter_context(
            subprocess.Popen(
                command(name, "--target", target, "--duration", "60", *options, *said),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        assert process.stdout is not None
        if begun:
            assert "connected" in process.stdout.readline()
        else:  # as soon as it hears signals, which is before it imports what it needs
            wait_for(lambda: hears(process.pid))
        for number in (first, *SIGNALS):
            process.send_signal(number)
        _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode in {128 + number for number in SIGNALS}
    assert complaints in ("", "interrupted: nothing of what was measured is kept\n")
    assert complaints or not begun


def hears(pid: int) -> bool:
    """Has the process a handler of SIGHUP?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGHUP - 1))


def wait_for(what: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


@pytest.mark.parametrize("args", [["--help"], ["burst", "--help"], ["burst", "-h"]])
def test_help_reads_well_mounted_and_alone(args: list[str]) -> None:
    alone = invoke(*args)
    mounted = CliRunner().invoke(_mounted(), ["load", *args])
    assert alone.exit_code == mounted.exit_code == 0
    assert "Usage: load" in alone.stdout
    assert "Usage: sedabench load" in mounted.stdout


def test_every_option_is_explained_and_there_is_an_example() -> None:
    command = load.commands["burst"]
    for option in command.params:
        assert isinstance(option, click.Option)
        assert option.help, option.name
    assert "Example" in (command.epilog or "")


def test_the_command_line_loads_no_heavy_library() -> None:
    code = (
        "import sys, loadgen.cli.load; "
        "heavy = {'numpy', 'rich', 'locust', 'pandas', 'loadgen.burst.loop'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)


def test_nothing_of_servers_or_sedabench_is_imported() -> None:
    code = (
        "import sys, loadgen.cli.load, loadgen.burst.loop; "
        "sys.exit(any(name.split('.')[0] in ('servers', 'sedabench') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=DEADLINE_S)
