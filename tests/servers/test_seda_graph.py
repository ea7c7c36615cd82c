"""The graph: what can be none is refused in one line, what is one can be drawn."""

from __future__ import annotations

import re
from typing import Any

import pytest

from servers.options import UsageError
from servers.seda import Application, QueueSpec, StageSpec
from servers.seda.application import check_graph, in_order
from servers.seda.graph import dot, mermaid
from servers.seda.server import step_edges
from servers.seda.settings import parse_gather, parse_threads
from servers.service import Request, Service, Session, Step, step
from servers.services.burst import Burst, BurstOptions
from tests.servers.web import web


def stage(name: str, *to: str, **more: Any) -> StageSpec:
    return StageSpec(name, lambda events, dispatch: None, to=to, **more)


def test_a_graph_may_branch_and_have_cycles() -> None:
    check_graph([stage("a", "b", "c"), stage("b", "c", "b", "a"), stage("c")])


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([], "needs a stage"),
        ([stage("a", "b")], "stage 'a' sends to 'b', which is not a stage; there are a"),
        ([stage("a", "b"), stage("b"), stage("a")], "two stages are called 'a'"),
        (
            [stage("a", queue=QueueSpec(4), batch=5)],
            "the queue of stage 'a' holds 4 events, less than its batch of 5",
        ),
        ([stage("a", threads=0)], "at least one thread"),
        ([stage("a", batch=0)], "at least one event"),
        ([stage("a", queue=QueueSpec(policy="lottery"))], "no queue policy 'lottery'"),
        ([stage("a", queue=QueueSpec(0), batch=1)], "less than its batch"),
        ([stage("a", queue=QueueSpec(300, at_least=301))], "cannot gather"),
        ([stage("a", queue=QueueSpec(300, at_least=20))], "needs within_s"),
        (
            [stage("a", queue=QueueSpec(300, at_least=20, within_s=1), batch=10)],
            "stage 'a' gathers 20 events and handles 10 in a batch",
        ),
    ],
)
def test_a_graph_that_cannot_be_is_refused_in_one_line(specs: list[StageSpec], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Application(specs)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_direct_calls_refuse_a_stage_that_gathers() -> None:
    gather = QueueSpec(300, at_least=20, within_s=1)
    with pytest.raises(UsageError, match="stage 'a' gathers events, and direct calls gather none"):
        Application([stage("a", queue=gather)], runner="direct")


@pytest.mark.parametrize(
    ("specs", "order"),
    [
        ([stage("a", "b"), stage("b")], "ab"),
        ([stage("c"), stage("b", "c"), stage("a", "b", "c")], "abc"),
        ([stage("c"), stage("a", "b", "c"), stage("x"), stage("b", "c")], "axbc"),
        ([stage("a", "b"), stage("b", "a", "b", "c"), stage("c")], "abc"),
    ],
)
def test_stages_are_in_the_order_in_which_events_meet_them(
    specs: list[StageSpec], order: str
) -> None:
    assert "".join(in_order(specs)) == order


def test_a_queue_as_large_as_the_batch_is_large_enough() -> None:
    check_graph([stage("a", queue=QueueSpec(5), batch=5)])


# The steps of a service


def test_burst_is_one_step() -> None:
    assert step_edges(Burst(BurstOptions())) == {
        "read": ("acknowledge", "write"),
        "acknowledge": ("write",),
    }


def test_web_is_figure_3() -> None:
    # What is turned away or fails goes from anywhere to write, and a request that
    # is none from read to where it is told so.
    assert {name: set(targets) for name, targets in step_edges(web()).items()} == {
        "read": {"parse", "respond", "write"},
        "parse": {"route", "respond", "write"},
        "route": {"lookup", "compute", "respond", "write"},
        "lookup": {"read_file", "respond", "write"},
        "read_file": {"respond", "write"},
        "compute": {"respond", "write"},
        "respond": {"write"},
    }


class Zigzag(Service):
    """Says where it goes in three ways: by name, as an option, not at all."""

    name = "zigzag"

    def __init__(self) -> None:
        super().__init__(None)

    def session(self) -> Session:
        raise NotImplementedError

    @property
    def first(self) -> Step:
        return self.begin

    @step
    def begin(self, request: Request) -> Step | None:
        return self.again if request.last else self.end

    @step(to=("end",))
    def again(self, request: Request) -> Step | None:
        return getattr(self, "end")  # noqa: B009 (so that it is not seen)

    @step
    def end(self, request: Request) -> Step | None:
        return None


def test_edges_are_found_in_the_code_or_said() -> None:
    assert step_edges(Zigzag()) == {
        "read": ("begin", "write"),
        "begin": ("again", "end", "write"),
        "again": ("end", "write"),
        "end": ("write",),
    }


@pytest.mark.parametrize(
    ("text", "threads"),
    [("", {}), ("read=2", {"read": 2}), ("read=2,write=30,", {"read": 2, "write": 30})],
)
def test_threads_are_given_by_stage(text: str, threads: dict[str, int]) -> None:
    assert parse_threads(text, ["read", "write"]) == threads


@pytest.mark.parametrize(
    ("text", "gather"),
    [("", {}), ("read_file=8/5,", {"read_file": (8, 0.005)})],
)
def test_what_gathers_is_given_by_stage(text: str, gather: dict[str, tuple[int, float]]) -> None:
    assert parse_gather(text, ["read_file", "respond"]) == gather


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("write=8/5", "there is no step 'write'; there are read_file"),
        ("read_file=8", "'read_file=8' is not STAGE=N/MS"),
        ("read_file=0/5", "is not STAGE=N/MS"),
        ("read_file=8/0", "is not STAGE=N/MS"),
    ],
)
def test_what_cannot_gather_is_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_gather(text, ["read_file"])


# Pictures


STAGES: list[dict[str, Any]] = [
    {"name": "read", "to": ["work", "write"], "threads": 1, "queue_capacity": None},
    {"name": "work", "to": ["write"], "threads": 8, "queue_capacity": 64, "blocking": True},
    {"name": "write", "to": [], "threads": 1, "queue_capacity": 4096, "blocking": False},
]


def test_dot_has_every_stage_and_every_edge_once() -> None:
    text = dot("seda: web", STAGES)
    assert text.startswith('digraph "seda: web" {\n')
    assert text.endswith("}\n")
    nodes = dict(re.findall(r'^  "(\w+)" \[label="(.*?)"', text, re.MULTILINE))
    assert nodes == {
        "read": r"read\nkernel's queue, 1 thread",
        "work": r"work\nqueue 64, 8 threads, blocks",
        "write": r"write\nqueue 4096, 1 thread",
    }
    assert re.findall(r'"(\w+)" -> "(\w+)";', text) == [
        ("read", "work"), ("read", "write"), ("work", "write"),
    ]  # fmt: skip
    coloured = [line for line in text.splitlines() if "#fdf0d5" in line]
    assert len(coloured) == 1
    assert '"work"' in coloured[0]


def test_mermaid_has_every_stage_and_every_edge_once() -> None:
    text = mermaid("seda: web", STAGES)
    assert text.startswith("---\ntitle: seda: web\n---\nflowchart LR\n")
    assert re.findall(r"^  (\w+)\[", text, re.MULTILINE) == ["read", "work", "write"]
    assert re.findall(r"(\w+) --> (\w+)", text) == [
        ("read", "work"), ("read", "write"), ("work", "write"),
    ]  # fmt: skip
    assert "  class work blocking\n" in text


def test_where_nothing_blocks_nothing_is_coloured() -> None:
    assert "#fdf0d5" not in dot("", [STAGES[0], STAGES[2]])
    assert "blocking" not in mermaid("", [STAGES[0], STAGES[2]])
