"""Plain Locust with our locustfile: users, what its statistics say, the tab of stages."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DEADLINE_S = 60.0

LOCUST = [sys.executable, "-m", "locust", "-f", "loadgen/locustfile.py"]


@contextmanager
def server(*arguments: str) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "servers", *arguments, "--port", "0", "--admin-port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def headless(tmp_path: Path, *arguments: str) -> tuple[dict[str, dict[str, str]], int]:
    """The rows of Locust's CSV by type and name, and its exit status."""
    done = subprocess.run(
        [*LOCUST, "--headless", "--only-summary", "--csv", f"{tmp_path / 'out'}", *arguments],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert "Unknown message" not in done.stderr + done.stdout
    with (tmp_path / "out_stats.csv").open() as file:
        rows = {f"{row['Type']} {row['Name']}".strip(): row for row in csv.DictReader(file)}
    return rows, done.returncode


def test_locust_shows_what_the_engine_measured(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    with server("eventloop", "--service", "web") as said:
        rows, status = headless(
            tmp_path, "--target", f"http://127.0.0.1:{said['port']}/healthz", "--rate", "500",
            "--warmup", "0", "--duration", "3", "--connections", "8", "--arrivals", "constant",
            "--record", f"{record}",
        )  # fmt: skip
    assert status == 0
    kept = json.loads(record.read_text())
    (trial,) = kept["trials"]
    result = trial["result"]
    assert result["scheduled"] == pytest.approx(500 * result["duration_s"], rel=0.01)
    assert result["answered"] == result["scheduled"]
    row = rows["GET /healthz"]
    assert int(row["Request Count"]) == result["answered"]
    median_ms = result["latency_us"]["p50"] / 1e3
    assert float(row["Median Response Time"]) == pytest.approx(median_ms, rel=0.05)
    assert float(row["50%"]) == pytest.approx(median_ms, rel=0.05)
    assert float(row["Average Content Size"]) == len("ok\n")
    # It counts from the first request, not from the start of the engine, and to the last.
    assert float(row["Requests/s"]) > 0.8 * result["offered_rps"]


def test_bursts_are_reported_with_their_bytes(tmp_path: Path) -> None:
    with server("eventloop") as said:
        rows, status = headless(
            tmp_path, "BurstUser", "--target", f"127.0.0.1:{said['port']}", "-u", "2", "-t", "2s"
        )
    assert status == 0
    row = rows["BURST burst"]
    assert int(row["Request Count"]) > 0
    assert row["Failure Count"] == "0"
    assert float(row["Average Content Size"]) == 8192 * 1000


def test_web_users_ask_for_the_mix_and_check_what_comes(tmp_path: Path) -> None:
    mix = tmp_path / "mix.toml"
    mix.write_text(
        '[[request]]\npath = "/healthz"\nname = "health"\nweight = 3\n'
        '[[request]]\npath = "/nothing"\nname = "missing"\n'
    )
    with server("eventloop", "--service", "web") as said:
        rows, status = headless(
            tmp_path, "WebUser", "--target", f"http://127.0.0.1:{said['port']}/",
            "--mix", f"{mix}", "-u", "2", "-t", "2s",
        )  # fmt: skip
    assert status == 1  # Locust's, for failures
    assert rows["GET health"]["Failure Count"] == "0"
    assert rows["GET missing"]["Failure Count"] == rows["GET missing"]["Request Count"] != "0"
    assert int(rows["GET health"]["Request Count"]) > int(rows["GET missing"]["Request Count"])


def test_the_web_page_has_a_tab_with_the_stages_of_the_server() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with server("seda", "--service", "web") as said:
        admin = f"http://127.0.0.1:{said['admin_port']}"
        page = subprocess.Popen(
            [*LOCUST, "--web-host", "127.0.0.1", "--web-port", f"{port}", "--admin", admin,
             "--target", f"http://127.0.0.1:{said['port']}/healthz"],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            base = f"http://127.0.0.1:{port}"
            rows = until_answered(f"{base}/stages")
            stats = json.loads(get(f"{base}/stats/requests"))
            text = get(base).decode()
            for name, value in (
                ("Host", "elsewhere.example"),  # its name resolves to this machine
                ("Origin", "http://elsewhere.example"),  # it sends a form here
            ):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(urllib.request.Request(base, headers={name: value}))
                refused.value.close()
                assert refused.value.code == 421
        finally:
            page.kill()
            page.wait()
    assert {"read", "write"} < {row["stage"] for row in rows}
    assert stats["extended_stats"][0]["key"] == "stages"
    assert '"Stages"' in text or "Stages" in text


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as reply:
        found: bytes = reply.read()
        return found


def until_answered(url: str) -> list[dict[str, Any]]:
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            rows: list[dict[str, Any]] = json.loads(get(url))
        except OSError:
            rows = []
        if rows:
            return rows
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--target http://192.0.2.1/", "--allow-remote"),
        ("", "--target"),
        ("--target http://127.0.0.1:9/", "nothing listens"),
        ("--target http://127.0.0.1:9/ --record /nowhere/x.json", "--record /nowhere/x.json"),
        ("--target http://127.0.0.1:9/ --shape figure1", "name WebUser or BurstUser"),
        ("WebUser --target http://127.0.0.1:9/ --shape figure1 --levels a", "--levels"),
        ("WebUser --target http://127.0.0.1:9/ --mix nosuch", "unknown mix"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(arguments: str, words: str) -> None:
    done = subprocess.run(
        [*LOCUST, "--headless", *arguments.split()],
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert "Traceback" not in done.stderr
