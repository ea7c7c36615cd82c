"""The clock of the load generator beside that of the server, which is the same one."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from loadgen.demand.mixes import Mix, Template
from loadgen.http.config import HttpConfig
from loadgen.http.loop import run
from loadgen.http.records import ANSWERED
from loadgen.http.result import summarise

from .fault_server import DELAYS_S, STALL_S, FaultServer, fault_server

SHARE_OF_STALL = 0.2
"""What a noisy machine may add to a percentile, of the stall that it measures."""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with fault_server() as found:
        yield found


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
def test_a_generator_that_was_held_up_does_not_lay_it_to_the_server(
    server: FaultServer, rate: float | None
) -> None:
    """With few connections hardly any request is sent late by it: the others wait for those."""
    config = HttpConfig(
        server.target, "test", Mix("one", (Template("one", "GET", f"/{server.token()}/ok", 1.0),)),
        connections=2, duration_s=1, warmup_s=0, rate=rate, spin=False,
    )  # fmt: skip

    def hold_up(name: str, _at_ns: int) -> None:
        if name == "window_begin":
            time.sleep(0.2)

    summary = summarise(config, [run(config, hold_up)]).summary
    assert not summary["valid"]
    assert any("the load generator stood still" in why for why in summary["invalid_reasons"])


@pytest.mark.parametrize("rate", [None, 300.0], ids=["closed", "open"])
def test_no_latency_is_below_the_delay_that_the_server_logged(
    server: FaultServer, rate: float | None
) -> None:
    token = server.token()
    # More templates than delays, so that no two connections ask for the same series.
    mix = Mix(
        "delays", tuple(Template(f"{n}", "GET", f"/{token}/delay/{n}", 1.0) for n in range(200))
    )
    config = HttpConfig(
        server.target, "test", mix, connections=6, duration_s=0.5, warmup_s=0, rate=rate, spin=False
    )
    records = run(config).records
    assert set(records.outcome.tolist()) == {ANSWERED}

    sent: dict[int, list[int]] = defaultdict(list)
    for row in np.argsort(records.sent_ns, kind="stable").tolist():
        sent[int(records.connection[row])].append(row)
    answered = defaultdict(list)
    for path, port, received_ns, replied_ns in server.log(token).requests:
        answered[port].append((path, received_ns, replied_ns))
    by_series = {tuple(path for path, _, _ in those): those for those in answered.values()}

    compared = 0
    for rows in sent.values():
        series = by_series[tuple(mix.templates[records.template[row]].path for row in rows)]
        for row, (path, received_ns, replied_ns) in zip(rows, series, strict=True):
            delay_s = DELAYS_S[int(path.rpartition("/")[2]) % len(DELAYS_S)]
            assert replied_ns - received_ns >= delay_s * 1e9
            assert records.scheduled_ns[row] <= records.sent_ns[row] <= received_ns
            assert replied_ns <= records.done_ns[row]
            compared += 1
    assert compared == len(records) > 50


def test_a_stall_shows_in_the_percentiles_as_the_schedule_says(server: FaultServer) -> None:
    """200 ms of every second: 20 % of all requests wait for what is left of their stall.

    There are fewer connections than requests in a stall: most of them wait unsent,
    and a generator that counts from the send would not see it.
    """
    token = server.token()
    mix = Mix("stall", (Template("stall", "GET", f"/{token}/stall", 1.0),))
    config = HttpConfig(
        server.target, "test", mix, connections=8, duration_s=2, warmup_s=0, rate=200, spin=False
    )
    raw = run(config)
    summary = summarise(config, [raw]).summary
    assert summary["answered"] == summary["scheduled"]

    due_ns = raw.records.scheduled_ns
    left_ns = np.zeros(len(due_ns), np.int64)
    for shut_ns, opened_ns in server.log(token).shut_ns:
        within = (due_ns > shut_ns) & (due_ns < opened_ns)
        left_ns[within] = opened_ns - due_ns[within]
    assert (raw.records.done_ns - due_ns >= left_ns).all()

    true_ns = np.sort(left_ns)
    assert true_ns[-1] > 0.5 * STALL_S * 1e9
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        true_us = true_ns[math.ceil(share * len(true_ns)) - 1] / 1e3
        assert true_us <= summary["latency_us"][name] <= true_us + SHARE_OF_STALL * STALL_S * 1e6
    # Counted from the send, what waited for a connection is not there.
    assert summary["service_latency_us"]["p90"] < summary["latency_us"]["p90"]
