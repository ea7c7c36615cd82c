"""Application code, one file a service, and the registry that finds it by name.

A new service is one new file here and one line below.
"""

from __future__ import annotations

SERVICES: dict[str, str] = {
    "burst": "servers.services.burst:Burst",
    "web": "servers.services.web:Web",
}
"""name -> "module:class"; imported only when asked for."""
