"""Staged event-driven architecture: stages joined by explicit queues.

Read in this order: `queue` (the event queue), `stage` (a handler, a queue and
a thread pool), `sockets` (accept, read and write as stages), `server` (a
service's steps as stages between them).  The first two know no socket and no
service: they are a library for one's own applications.
"""

from servers.seda.queue import EventQueue
from servers.seda.stage import Source, Stage

__all__ = ["EventQueue", "Source", "Stage"]
