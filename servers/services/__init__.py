"""Application code, one file a service, and the registry that finds it by name.

A service of one's own is named by its file and class instead (`servers.registry`).
"""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "burst": "servers.services.burst:Burst",
    "web": "servers.services.web:Web",
}
"""name -> "module:class"; imported only when asked for."""
