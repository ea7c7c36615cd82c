"""Staged event-driven architecture: stages joined by explicit queues.

Read in this order: `queue` and `policies` (the event queue, and what a full
one does), `stage` (a handler and the source of its events), `runners` (who
calls the handlers, on which thread), `controllers` and `admission` (what
adjusts stages while they run), `application` (a graph of stages, declared).
None of them knows a socket or a service: they are a library for applications of
one's own, see docs/seda.md.  Then `sockets` (accept, read and write as stages) and `server`
(a service's steps as stages between them), with `trace` and `graph` to look
inside.
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
