"""Staged event-driven architecture: stages joined by explicit queues.

Two layers live here.  The library, for applications of your own (docs/seda.md), must not
know sockets or services.  Read it in this order:

    queue, policies          the event queue, and what happens when it is full
    stage                    a handler and the source of its events
    runner, runners          which thread calls the handlers, and when; with
                             thread_pool, shared_threads and waiter
    controllers, admission   what adjusts stages while they run
    application              a graph of stages, declared
    graph                    the same as a drawing

The architecture `seda` is built on it:

    server, settings         a service's steps as stages, between those of the network
    network                  the stages accept, read and write
    kernel_queues            where the first two get their events
    connections              a connection whose requests are in several stages
    sample, trace            timed requests, and their paths
"""

from servers.seda.admission import Admission
from servers.seda.application import Application, Control, QueueSpec, StageSpec
from servers.seda.controllers import Batching, Controller, Decision, PoolSize
from servers.seda.policies import POLICIES, Policy, Priorities
from servers.seda.queue import EventQueue
from servers.seda.stage import Dispatch, Source, Stage

__all__ = [
    "POLICIES",
    "Admission",
    "Application",
    "Batching",
    "Control",
    "Controller",
    "Decision",
    "Dispatch",
    "EventQueue",
    "Policy",
    "PoolSize",
    "Priorities",
    "QueueSpec",
    "Source",
    "Stage",
    "StageSpec",
]
