"""`load http` as a user meets it: words, exit statuses, files."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from loadgen.cli.load import load
from loadgen.demand.arrivals import schedule
from loadgen.demand.mixes import load_mix
from loadgen.http.records import OUTCOMES

from .fault_server import BODY, FaultServer, fault_server
from .scripted import DEADLINE_S, Peer, serving

PAGE = Path(__file__).parents[2] / "docs" / "load-http.md"

QUICK = ("--duration", "0.1", "--warmup", "0.02", "--connections", "4", "--no-spin")

KEYS = {
    *("workload", "mode", "arrivals", "rate", "connections", "connected", "duration_s", "warmup_s"),
    *("timeout_s", "slo_ms", "offered_rps", "scheduled", "sent", "answered", "rejected", "errors"),
    *("error_kinds", "throughput_rps", "goodput_rps", "latency_us", "service_latency_us"),
    *("rejected_latency_us", "send_lag_us", "jain_fairness", "client_cpu", "valid", "warnings"),
    *("invalid_reasons", "by_class", "start_ns"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as found:
        yield found


def http(target: object, *args: str) -> Result:
    return CliRunner().invoke(load, ["http", "--target", str(target), *QUICK, *args])


def samples(*args: str) -> Result:
    return CliRunner().invoke(load, ["samples", *args])


def url(server: FaultServer, fault: str = "ok") -> str:
    return f"http://127.0.0.1:{server.port}/{server.token()}/{fault}"


def complaint(outcome: Result) -> str:
    """The one line of a run that could not be."""
    assert outcome.exit_code == 2, outcome.output
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr


def result(outcome: Result) -> dict[str, Any]:
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert outcome.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


@pytest.mark.parametrize("args", [[], ["--rate", "500"]], ids=["closed", "open"])
def test_json_is_one_line_with_every_key(server: FaultServer, args: list[str]) -> None:
    found = result(http(url(server), "--json", *args))
    assert found.keys() >= KEYS
    assert not found.keys() & {"timeline", "latency_quantiles"}
    assert set(found["latency_us"]) == {"p50", "p90", "p99", "p999", "max", "mean"}
    assert set(found["errors"]) == {"wrong", "timeout", "connection", "never_sent"}
    assert set(found["send_lag_us"]) == {"p50", "p99", "max"}
    assert found["mode"] == ("open" if args else "closed")
    assert found["arrivals"] == ("poisson" if args else None)
    assert found["answered"] == found["scheduled"] == found["sent"] > 0


def test_the_page_on_load_http_has_every_field_column_and_outcome(
    server: FaultServer, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    found = http(url(server), "--events", "--rate", "500", "--samples", str(path))
    documented = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert json.loads(found.stdout.splitlines()[-1]).keys() - {"event"} <= documented
    assert set(pq.read_schema(path).names) | set(OUTCOMES) <= documented


def test_the_mix_and_the_trace_on_that_page_can_be_read(tmp_path: Path) -> None:
    (mix,), (trace,) = (
        re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL) for kind in ("toml", "csv")
    )
    (tmp_path / "mix.toml").write_text(mix)
    (tmp_path / "trace").write_text(trace)
    read = load_mix(str(tmp_path / "mix.toml"), lambda path: b"")
    assert [(t.name, t.status) for t in read.templates] == [("health", 200), ("a question", 405)]
    assert len(schedule(f"trace:{tmp_path / 'trace'}", 1.0, 1.0, 1)) == 3


def test_events_are_lines_of_json_in_order_and_the_result_has_its_timeline(
    server: FaultServer,
) -> None:
    outcome = http(url(server), "--events", "--rate", "500")
    events = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [e["event"] for e in events] == ["connected", "window_begin", "window_end", "result"]
    assert events[-1].keys() >= KEYS | {"timeline", "latency_quantiles"}
    connected, begin, end = (e["t_ns"] for e in events[:3])
    assert connected <= events[-1]["start_ns"] <= begin < end
    assert begin - events[-1]["start_ns"] >= 0.02e9


@pytest.mark.parametrize("args", [[], ["--rate", "500"]], ids=["closed", "open"])
def test_without_json_a_table_for_people(server: FaultServer, args: list[str]) -> None:
    outcome = http(url(server, "status/503"), *args)
    assert outcome.exit_code == 0
    for word in ("scheduled", "rejected (503)", "latency, us", "valid", "no request was answered"):
        assert word in outcome.stdout


def test_a_closed_loop_asks_nothing_before_its_time(server: FaultServer, tmp_path: Path) -> None:
    result(http(url(server), "--json", "--warmup", "0", "--samples", str(tmp_path / "s")))
    assert pq.read_table(tmp_path / "s")["scheduled_ns"][0].as_py() >= 0


@pytest.mark.parametrize("condition", ["errors>0.1%", "p99>50ms", "goodput<1"])
def test_a_condition_that_holds_is_exit_status_1_after_the_result(
    server: FaultServer, condition: str
) -> None:
    outcome = http(url(server, "status/404"), "--json", "--fail-if", condition)
    assert outcome.exit_code == 1
    assert json.loads(outcome.stdout)["answered"] == 0
    assert outcome.stderr.startswith("failed: ")


def test_a_condition_that_does_not_hold_is_exit_status_0(server: FaultServer) -> None:
    result(http(url(server), "--json", "--fail-if", "errors>0", "--fail-if", "p50>10s"))


def test_samples_and_log_have_every_request(server: FaultServer, tmp_path: Path) -> None:
    samples, log = tmp_path / "s.parquet", tmp_path / "l.hlog"
    files = "--samples", str(samples), "--hlog", str(log)
    found = result(http(url(server), "--json", "--rate", "500", *files))
    rows = pq.read_table(samples).to_pydict()
    in_window = [due for due in rows["scheduled_ns"] if 0.02e9 <= due < 0.12e9]
    assert len(in_window) == found["scheduled"] < len(rows["outcome"])
    assert set(rows["outcome"]) == {"answered"}
    reader = HistogramLogReader(str(log), HdrHistogram(1, 3_600_000_000, 3))
    assert reader.get_next_interval_histogram().get_total_count() == found["answered"]
    reader.close()


@pytest.mark.parametrize("loop", [(), ("--rate", "500")], ids=["closed", "open"])
def test_a_file_of_samples_has_the_whole_result(
    server: FaultServer, tmp_path: Path, loop: tuple[str, ...]
) -> None:
    path = str(tmp_path / "s")
    found = result(http(url(server), "--json", *loop, "--samples", path))
    assert result(samples(path, "--json")) == found
    within_nothing = result(samples(path, "--json", "--slo", "0.001"))
    assert within_nothing == found | {"slo_ms": 0.001, "goodput_rps": 0.0}
    for word in ("http on 127.0.0.1", "scheduled", "latency, us", "valid"):
        assert word in samples(path).stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["/nowhere/s"], "there is no file /nowhere/s"),
        ([__file__], "is no Parquet file"),
        ([__file__, "--slo", "0"], "--slo must be from 0.001"),
        ([__file__, "--slo", "nan"], "--slo must be from 0.001"),
        ([], "Missing argument"),
    ],
)
def test_samples_that_cannot_be_read_are_one_line(args: list[str], words: str) -> None:
    assert words in complaint(samples(*args))


@pytest.mark.parametrize(
    ("arrivals", "seconds", "most"),
    [("step:1x0.05,4x0.05", 0.08, 1000), ("spike:3,0.05,0.02", 0.1, 1000), ("constant", 0.1, 50)],
)
def test_arrivals_have_their_own_shapes_and_lengths(
    server: FaultServer, arrivals: str, seconds: float, most: int
) -> None:
    found = result(http(url(server), "--json", "--rate", "500", "--arrivals", arrivals))
    assert found["duration_s"] == pytest.approx(seconds)
    assert 0 < found["scheduled"] == found["answered"] <= most


def test_a_trace_is_followed_without_a_rate(server: FaultServer, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time_s\n0.01\n0.05\n0.05,x\n0.1\n")
    path = tmp_path / "samples"
    args = "--arrivals", f"trace:{trace}", "--warmup", "0", "--samples", str(path)
    found = result(http(url(server), "--json", *args))
    assert (found["scheduled"], found["answered"]) == (4, 4)
    assert found["rate"] is None
    due = pq.read_table(path)["scheduled_ns"].to_pylist()
    assert due == [10_000_000, 50_000_000, 50_000_000, 100_000_000]


def test_a_mix_is_asked_for_by_its_weights(server: FaultServer, tmp_path: Path) -> None:
    token, mix = server.token(), tmp_path / "mix.toml"
    mix.write_text(
        f'[[request]]\npath = "/{token}/ok"\nname = "ok"\nweight = 9\nbytes = {len(BODY)}\n'
        f'[[request]]\npath = "/{token}/status/503"\nname = "shed"\nmethod = "POST"\nbody = "x"\n'
    )
    found = result(http(url(server), "--json", "--mix", str(mix), "--rate", "2000"))
    classes = found["by_class"]
    assert set(classes) == {"ok", "shed"}
    assert classes["ok"]["answered"] == classes["ok"]["scheduled"] > classes["shed"]["scheduled"]
    assert classes["shed"]["rejected"] == classes["shed"]["scheduled"] == found["rejected"] > 0


def test_two_processes_send_the_schedule_of_one(server: FaultServer, tmp_path: Path) -> None:
    due, found = [], []
    for processes in ("1", "2"):
        path = tmp_path / processes
        args = "--rate", "400", "--processes", processes, "--samples", str(path)
        found.append(result(http(url(server), "--json", *args)))
        table = pq.read_table(path)
        due.append(table["scheduled_ns"].to_pylist())
        assert set(table["connection"].to_pylist()) <= {0, 1, 2, 3}
    assert due[0] == due[1]
    one, two = found
    assert (one["processes"], two["processes"]) == (1, 2)
    for name in ("scheduled", "answered", "connected"):
        assert one[name] == two[name]
    assert two["answered"] == two["scheduled"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rate", "0"], "--rate must be from"),
        (["--rate", "-5"], "--rate must be from"),
        (["--rate", "nan"], "--rate must be from"),
        (["--rate", "1e8", "--duration", "100"], "makes 1e+10 requests"),
        (["--rate", "0.001"], "no request falls"),
        (["--connections", "0"], "--connections must be"),
        (["--connections", "900000"], "use fewer --connections"),
        (["--duration", "0"], "--duration must be"),
        (["--warmup", "-1"], "--warmup must be"),
        (["--timeout", "0"], "--timeout must be"),
        (["--slo", "0"], "--slo must be from 0.001"),
        (["--requests-per-connection", "-1"], "--requests-per-connection must be"),
        (["--processes", "0"], "--processes must be from 1"),
        (["--processes", "5"], "--processes must be from 1 to the number of connections (4)"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--arrivals", "poisson"], "add --rate"),
        (["--arrivals", "poison", "--rate", "5"], "poisson"),
        (["--arrivals", "spike:2,5,5", "--rate", "5"], "the spike ends at"),
        (["--arrivals", "step:1x0.01", "--rate", "500"], "all of it warm-up"),
        (["--arrivals", "trace:/nowhere/trace"], "cannot read trace /nowhere/trace"),
        (["--mix", "/nowhere/mix.toml"], "there is no such file"),
        (["--mix", "dynamo"], "dynamic"),
        (["--mix", "specweb99"], "/docroot.json"),
        (["--samples", "one", "--hlog", "one"], "cannot both be one"),
        (["--samples", "/nowhere/samples"], "cannot be written: No such file or directory"),
        (["--hlog", "/nowhere/log"], "cannot be written: No such file or directory"),
        (["--fail-if", "p98>5ms"], "p98"),
        (["--fail-if", "p99>5"], "needs a unit"),
        (["--rate"], "requires an argument"),
        (["--rates", "5"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_status_2(
    server: FaultServer, args: list[str], words: str
) -> None:
    outcome = http(url(server), *args)
    assert words in complaint(outcome)
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("192.0.2.1:80", "--allow-remote"),
        ("https://127.0.0.1:1/", "only http://"),
        ("http://", "is not http://HOST:PORT/PATH"),
        ("http://127.0.0.1:99999/", "Port out of range"),
        ("http://[::1", "is not a URL"),
        ("http://me@127.0.0.1:1/", "is not http://HOST:PORT/PATH"),
        ("http://127.0.0.1:1/a b", "percent-encoded"),
        ("no such host.invalid", "no such host"),
    ],
)
def test_a_target_that_cannot_be_is_one_line(target: str, words: str) -> None:
    assert words in complaint(http(target))


def test_a_trace_out_of_order_is_one_line_with_its_number(
    server: FaultServer, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    trace.write_text("0.1\n0.3\n0.2\n")
    assert "line 3: 0.2 s comes after 0.3 s" in complaint(
        http(url(server), "--arrivals", f"trace:{trace}")
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("garbage/0", "does not speak HTTP/1.1"),
        ("garbage/1", "HTTP/2 and TLS are not supported"),
        ("garbage/2", "HTTP/2 and TLS are not supported"),
        ("garbage/10", "head of a reply is not valid (Missing expected CR after response line)"),
        ("garbage/11", "head of a reply is not valid (Unexpected whitespace after header value)"),
        ("garbage/12", "over 64 interim replies (1xx)"),
        ("close_at/0", "closes the connection at once"),
        ("close_at/30", "closes the connection in the middle"),
        ("reset_at/0", "broke the connection (reset)"),
    ],
)
def test_a_server_of_another_kind_is_found_out_beforehand(
    server: FaultServer, fault: str, words: str
) -> None:
    assert words in complaint(http(url(server, fault)))


def test_a_server_that_closes_without_a_look_is_found_out_beforehand() -> None:
    def close(peer: Peer) -> None:
        peer.sock.shutdown(socket.SHUT_WR)
        peer.drain()

    with serving(close) as closing:
        assert "closes the connection at once" in complaint(http(closing.target))


def test_a_server_that_never_answers_is_found_out_beforehand(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.http.probe.MIN_TIMEOUT_S", 0.1)
    said = complaint(http(url(server, "silent"), "--timeout", "0.1"))
    assert "did not answer within 0.1 s" in said
    said = complaint(http(url(server, "half/9"), "--timeout", "0.1"))
    assert "did not finish its answer" in said


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_closed_port_is_one_line(processes: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{bound.getsockname()[1]}"
        said = complaint(http(target, "--processes", processes))
    assert said == f"error: nothing listens on {target}: start the server first\n"


@pytest.mark.parametrize(("full", "other"), [("--samples", "--hlog"), ("--hlog", "--samples")])
def test_a_full_disk_loses_nothing_that_was_measured(
    server: FaultServer, tmp_path: Path, full: str, other: str
) -> None:
    kept = tmp_path / "kept"
    outcome = http(url(server), "--json", full, "/dev/full", other, str(kept))
    assert "No space left on device" in complaint(outcome)
    assert json.loads(outcome.stdout)["answered"] > 0
    assert Path("/dev/full").is_char_device()
    assert kept.stat().st_size > 0


def test_a_load_that_is_refused_leaves_no_file(server: FaultServer, tmp_path: Path) -> None:
    files = "--samples", str(tmp_path / "s"), "--hlog", str(tmp_path / "l")
    complaint(http(url(server), "--rate", "0", *files))
    complaint(http("https://127.0.0.1:1/", *files))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_is_one_line_at_once(server: FaultServer) -> None:
    command = [sys.executable, "-m", "loadgen", "http", "--target", url(server), "--events"]
    with subprocess.Popen(
        [*command, "--duration", "60", "--no-spin", "--rate", "10", "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "connected" in process.stdout.readline()
        victim = next(
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        )
        victim.kill()
        _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    assert complaints == "error: a load generator process died; is there enough memory?\n"


@pytest.mark.parametrize("who", ["one", "parent", "all"])
def test_ctrl_c_is_one_line_and_exit_status_130(server: FaultServer, who: str) -> None:
    processes = "1" if who == "one" else "2"
    command = [sys.executable, "-m", "loadgen", "http", "--target", url(server), "--events"]
    with subprocess.Popen(
        [*command, "--duration", "60", "--no-spin", "--rate", "10", "--processes", processes],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert "connected" in process.stdout.readline()
        (os.killpg if who == "all" else os.kill)(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert complaints == "interrupted: nothing of what was measured is kept\n"
