"""The services: application code, one module per service, and the modules of `web`.

What must not live here: sockets, threads, loops, or anything that knows which
architecture runs it.  `SERVICES` finds a service by name; any other is named by its file
and class (`servers.registry`).
"""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "burst": "servers.services.burst:Burst",
    "web": "servers.services.web:Web",
}
"""name -> "module:class"; imported only when needed."""
