"""The locustfile: `locust -f loadgen/locustfile.py [EngineUser|WebUser|BurstUser] --target URL`.

Without a user's name it is `EngineUser`.  `sedabench swarm` starts it with the
right options; `docs/many-machines.md` tells the rest.

This file only puts together: options (`swarm/options.py`), users
(`swarm/users.py`, `swarm/engine_user.py`), shapes (`swarm/shapes.py`), the
master's conductor and the tab in the web page.  Two things of Locust's are
replaced, both because its answers are in whole milliseconds: how it rounds a
response time, which it lets one replace, and how its CSV files print
percentiles.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import locust.runners
import locust.stats
from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadgen.engine.histogram import bucket_ms
from loadgen.errors import LoadError
from loadgen.http.probe import read_url
from loadgen.net.targets import resolve
from loadgen.swarm import engine_user as locust_engine
from loadgen.swarm import options as locust_options
from loadgen.swarm import plan as locust_plan
from loadgen.swarm import users as locust_users
from loadgen.swarm import web as locust_web
from loadgen.swarm.conductor import Conductor
from loadgen.swarm.engine_user import Bridge
from loadgen.swarm.record import Record
from loadgen.swarm.shapes import all_shapes, shape_named

locust.stats.bucket_response_time = bucket_ms  # type: ignore[assignment]
locust.runners.WORKER_REPORT_INTERVAL = 1.0
locust.runners.CONNECT_RETRY_COUNT = int(os.environ.get("SEDABENCH_CONNECT_RETRIES", 60))

RECORDED = (
    "target", "rate", "arrivals", "mix", "connections", "timeout", "slo", "seed", "spin", "shape",
    "warmup", "duration", "loads", "spike", "record",
)  # fmt: skip


class EngineUser(locust_engine.EngineUser):
    """This project's open-loop engine, one process a worker."""


class WebUser(locust_users.WebUser):
    """The web mixes, on Locust's FastHttpUser."""


class BurstUser(locust_users.BurstUser):
    """The bursts of the paper's Figure 1."""


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: Any) -> None:
    locust_options.add_options(parser)


@events.init.add_listener  # type: ignore[untyped-decorator]
def set_up(environment: Environment, **_: Any) -> None:
    """Once runner and web page are there, before anything runs."""
    try:
        _set_up(environment)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        options = environment.parsed_options
        if options is not None and options.record:
            refused = Record({})
            refused.error = str(error)
            with suppress(OSError):
                refused.write(Path(options.record), "failed")
        sys.exit(2)


def _set_up(environment: Environment) -> None:
    options = environment.parsed_options
    assert options is not None
    if not isinstance(environment.runner, MasterRunner):
        Bridge.of = Bridge(environment, options.allow_remote)
    if not isinstance(environment.runner, WorkerRunner):  # to one, what to do comes from its master
        _lead(environment, options)
    if Bridge.of is not None:
        Bridge.of.begin_reporting()


def _lead(environment: Environment, options: Namespace) -> None:
    named = options.user_classes or options.class_picker
    if EngineUser in environment.user_classes and not named:
        environment.user_classes = [EngineUser]
    if options.target or options.host:
        target = locust_options.target(options)
        if BurstUser in environment.user_classes:
            resolve(locust_options.host_port(options), allow_remote=options.allow_remote)
        else:
            read_url(target, allow_remote=options.allow_remote)
    elif environment.web_ui is None:
        raise LoadError("what is to be loaded? Give --target http://HOST:PORT/PATH")
    engines = EngineUser in environment.user_classes
    name = options.shape or ("steady" if engines else "none")
    if name in locust_options.PLANS:
        locust_options.plan(options, name)  # or it is refused here
    elif name == "figure1":
        locust_plan.numbers("levels", options.levels)
        if engines:
            raise LoadError("--shape figure1 is of connections: name WebUser or BurstUser")
    if environment.shape_class is None and name != "none":
        environment.shape_class = shape_named(name)
        environment.shape_class.runner = environment.runner
    environment.available_shape_classes = all_shapes()
    Conductor(environment, {name: getattr(options, name) for name in RECORDED})
    if environment.web_ui is not None:
        locust_web.guard(environment, options.web_host)
    if environment.web_ui is not None and options.admin:
        locust_web.add_tab(environment, options.admin, options.allow_remote)


def _exact_percentiles(self: Any, entry: Any, use_current: bool = False) -> list[Any]:
    """`StatsCSV._percentile_fields`, which makes whole milliseconds of them."""
    if not entry.num_requests:
        return list(self.percentiles_na)
    of_late = use_current and entry.use_response_times_cache
    name = f"get_{'current_' if of_late else ''}response_time_percentile"
    return [getattr(entry, name)(share) or 0 for share in self.percentiles_to_report]


locust.stats.StatsCSV._percentile_fields = _exact_percentiles  # type: ignore
