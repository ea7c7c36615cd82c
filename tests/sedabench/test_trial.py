"""One trial: the check of the counts, and everything that may go wrong with the two processes."""

from __future__ import annotations

import os
import sys
import time

import pytest

from sedabench.experiments.plan import blocked_order
from sedabench.machine import facts as machine
from sedabench.machine.process import Child, ChildError
from sedabench.targets.servers import ServerSpec
from sedabench.trials import burst_columns, trial
from sedabench.trials.burst_columns import compare_counts
from sedabench.trials.trial import Workload, measure

TIMELINE = {"t_ns": [0, 100, 200], "bytes": [0, 1000, 3000]}


def snapshot(time_ns: int, bytes_in: int) -> dict[str, int]:
    return {"time_ns": time_ns, "bytes_in": bytes_in}


def test_counts_are_compared_at_the_servers_own_instants() -> None:
    disagreement, reason = compare_counts(snapshot(50, 70), snapshot(150, 1570), TIMELINE)
    assert (disagreement, reason) == (0.0, None)


@pytest.mark.parametrize(
    ("received", "says"), [(1480, ""), (1460, "2.7% less"), (1550, "3.3% more")]
)
def test_counts_over_two_percent_apart_are_a_reason(received: int, says: str) -> None:
    _, reason = compare_counts(snapshot(50, 0), snapshot(150, received), TIMELINE)
    assert (says in reason) if reason else not says


def test_a_snapshot_after_the_clients_last_count_is_a_reason() -> None:
    _, reason = compare_counts(snapshot(50, 0), snapshot(5_000_200, 9), TIMELINE)
    assert reason is not None
    assert "5 ms after" in reason


def test_each_block_holds_every_cell_once_in_an_order_of_its_seed() -> None:
    plan = blocked_order(["a", "b"], [1, 2, 4], 3, seed=5)
    for block in range(3):
        cells = {(c["server"], c["connections"]) for c in plan if c["block"] == block}
        assert len(cells) == 6
    assert [cell["trial"] for cell in plan] == list(range(18))
    assert plan == blocked_order(["a", "b"], [1, 2, 4], 3, seed=5)
    assert plan != blocked_order(["a", "b"], [1, 2, 4], 3, seed=6)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


KILL_SERVER = """
import os, signal, sys, time, urllib.request, json
# The server is the other child of our parent.
me, parent = os.getpid(), os.getppid()
for pid in open(f"/proc/{parent}/task/{parent}/children").read().split():
    command = open(f"/proc/{pid}/cmdline").read()
    if int(pid) != me and "servers" in command:
        os.kill(int(pid), signal.SIGKILL)
sys.exit("error: connection reset")
"""


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        ("import sys; sys.exit('error: nobody there')", "status 1: nobody there"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("\nx = 1 / 0", "ZeroDivisionError: division by zero (<string> line 2)"),
        ("print('hello')", "no JSON object: 'hello'"),
        ("import time; time.sleep(60)", "did not finish in time"),
        ('print(\'{"event": "result"}\')', "no window"),
        (KILL_SERVER, "the server was killed by SIGKILL"),
    ],
)
def test_what_goes_wrong_becomes_the_reason_of_an_invalid_trial(
    client: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in client:
        monkeypatch.setattr(trial, "READY_S", 2.0)
    workload = Workload("burst", burst_columns, (), "burst", (), 1, 0.0, 0.1)
    interpreter = machine.probe_interpreter(sys.executable)
    measured = measure(
        ServerSpec("x", "eventloop"), workload, interpreter, machine.choose_cores(), python(client)
    )
    assert measured.row["valid"] is False
    assert reason in str(measured.row["invalid_reason"])


def test_a_server_that_never_gets_ready_is_an_invalid_trial() -> None:
    interpreter = machine.probe_interpreter(sys.executable)
    workload = Workload("burst", burst_columns, (), "nosuch", (), 1, 0.0, 0.1)
    cores = machine.choose_cores()
    row = measure(ServerSpec("x", "eventloop"), workload, interpreter, cores, ["true"]).row
    assert row["valid"] is False
    assert "the server ended with exit status 2" in str(row["invalid_reason"])


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    stubborn = "import time,signal; signal.signal(15, signal.SIG_IGN); print('{}', flush=True)\n"
    child = Child("it", python(stubborn + "while True: time.sleep(60)"))
    child.next_message(time.monotonic_ns() + 10**10, "speak")
    assert child.stop(grace_s=0.05) == -9


def test_a_child_is_pinned() -> None:
    core = min(os.sched_getaffinity(0))
    code = "import os, json; print(json.dumps({'cores': list(os.sched_getaffinity(0))}))"
    with Child("it", python(code), cores=(core,)) as child:
        assert child.next_message(time.monotonic_ns() + 10**10, "speak") == {"cores": [core]}


def test_a_program_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ChildError, match="cannot be started"):
        Child("it", ["/nonexistent/program"])


def test_the_servers_own_options_come_last_and_so_win() -> None:
    spec = ServerSpec("big", "eventloop", ("--receive-buffer", "4194304"))
    command = spec.command(
        machine.probe_interpreter(sys.executable), "burst", ["--receive-buffer", "16384"]
    )
    assert command[-4:] == ["--receive-buffer", "16384", "--receive-buffer", "4194304"]


def test_a_server_silent_about_its_counters_leaves_the_clients_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: object) -> None:
        raise ChildError("the server did not answer /stats: timed out")

    monkeypatch.setattr(trial, "read_edge", silent)
    client = """
for event in '"window_begin"', '"window_end"', '"result", "bandwidth_bps": 8e9, "valid": true':
    print('{"event": %s}' % event)
"""
    workload = Workload("burst", burst_columns, (), "burst", (), 1, 0.0, 0.1)
    interpreter = machine.probe_interpreter(sys.executable)
    row = measure(
        ServerSpec("x", "eventloop"), workload, interpreter, machine.choose_cores(), python(client)
    ).row
    assert row["bandwidth_bps"] == 8e9
    assert row["valid"] is False
    assert row["invalid_reason"] == "the server did not answer /stats: timed out"
