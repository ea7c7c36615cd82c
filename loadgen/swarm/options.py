"""The options that the locustfile adds to Locust's own, and what they mean together.

Locust sends the master's values to every worker when a run starts; only what a
worker allows (`--allow-remote`) is for its own command line to say.  Each can
be given as an environment variable too: `--rate` is `SEDABENCH_RATE`.
"""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

from loadgen.errors import LoadError
from loadgen.swarm import plan as locust_plan
from loadgen.swarm.plan import Plan

PLANS = ("steady", "overload", "spike")
SHAPES = (*PLANS, "figure1", "none")


def add_options(parser: Any) -> None:
    """For Locust's event `init_command_line_parser`."""

    def add(name: str, **how: Any) -> None:
        variable = "SEDABENCH_" + name.replace("-", "_").upper()
        parser.add_argument(f"--{name}", env_var=variable, **how)

    add("target", metavar="URL", default="", help="http://HOST:PORT/PATH; also of --host. BurstUser takes HOST:PORT.")  # fmt: skip  # noqa: E501
    add("rate", type=float, default=1000.0, help="EngineUser: requests per second of all workers together.")  # fmt: skip  # noqa: E501
    add("arrivals", default="poisson", choices=["poisson", "constant"], help="EngineUser: how requests are spaced.")  # fmt: skip  # noqa: E501
    add("mix", default="", help="What is asked for: specweb99, dynamic, mixed, or a TOML file. Default: the target's own path.")  # fmt: skip  # noqa: E501
    add("connections", type=int, default=64, help="EngineUser: connections of each worker.")
    add("timeout", type=float, default=5.0, help="EngineUser: seconds until a request has failed.")
    add("slo", type=float, default=100.0, help="EngineUser: ms within which a reply is good.")
    add("seed", type=int, default=1, help="EngineUser: draws arrivals and requests.")
    add("spin", action="store_true", help="EngineUser: never sleep; for a worker with a core of its own.")  # fmt: skip  # noqa: E501
    add("shape", default="", choices=["", *SHAPES], help="Load over time. Default: steady for EngineUser, none for others.")  # fmt: skip  # noqa: E501
    add("warmup", type=float, default=1.0, help="Seconds of each load before it counts.")
    add("duration", type=float, default=0.0, help="Seconds that count, of each load. Default: 10; for spike AT + 3 x FOR; for steady no end.")  # fmt: skip  # noqa: E501
    add("loads", default="0.5,1,1.5,2", help="Shape overload: times the rate, one after another.")
    add("spike", default="3,5,5", metavar="F,AT,FOR", help="Shape spike: F times the rate from AT for FOR seconds.")  # fmt: skip  # noqa: E501
    add("levels", default="1,2,4,8,16,32,64", help="Shape figure1: users (connections), one level after another.")  # fmt: skip  # noqa: E501
    add("admin", metavar="URL", default="", help="The server's admin port, for the tab Stages.")
    add("record", metavar="FILE", default="", include_in_web_ui=False, help="EngineUser: keep what was measured in FILE, as JSON.")  # fmt: skip  # noqa: E501
    add("allow-remote", action="store_true", include_in_web_ui=False, help="Allow a target that is not this machine. Each worker must allow it for itself.")  # fmt: skip  # noqa: E501


def target(options: Namespace) -> str:
    """What to load.  Raises LoadError when nobody said."""
    found = str(options.target or options.host or "")
    if not found:
        raise LoadError("what is to be loaded? Give --target http://HOST:PORT/PATH")
    return found


def host_port(options: Namespace) -> str:
    """The same for what is not HTTP: HOST:PORT, whatever stands around it."""
    return target(options).rpartition("://")[2].partition("/")[0]


def plan(options: Namespace, shape: str) -> Plan:
    """The steps of a shape.  Raises LoadError on nonsense."""
    warmup_s = float(options.warmup)
    lasts_s = float(options.duration) or float(options.run_time or 0)
    if warmup_s < 0 or lasts_s < 0 or not 0 < float(options.rate) < math.inf:
        raise LoadError("--rate must be above 0, --warmup and --duration not under it")
    if int(options.connections) < 1 or not float(options.timeout) > 0:
        raise LoadError("--connections and --timeout must be above 0")
    if shape == "overload":
        loads = locust_plan.numbers("loads", options.loads)
        return locust_plan.overload(loads, lasts_s or 10.0, warmup_s)
    if shape == "spike":
        factor, at_s, for_s = locust_plan.numbers("spike", options.spike, 3)
        lasts_s = lasts_s or locust_plan.spike_duration_s(options.spike)
        return locust_plan.spike(factor, at_s, for_s, lasts_s, warmup_s)
    return locust_plan.steady(lasts_s or float("inf"), warmup_s)
