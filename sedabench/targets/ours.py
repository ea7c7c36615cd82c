"""What this project has to serve: the registries of `servers`, for who starts it as a process."""

from __future__ import annotations

from pathlib import Path


def architectures() -> dict[str, str]:
    """The registry of architectures: name -> "module:class"."""
    from servers.architecture import ARCHITECTURES

    return dict(ARCHITECTURES)


def services() -> dict[str, str]:
    """The registry of services: name -> "module:class"."""
    from servers.services import SERVICES

    return dict(SERVICES)


def home_of_servers() -> Path:
    """The folder that holds the package `servers`."""
    import servers

    return Path(next(iter(servers.__path__))).parent
