"""Servers that nobody here wrote: described in TOML, started and measured like our own.

    definition.py       a TOML file becomes `ExternalSpec`s; every complaint about it
    server.py           such a server as a child process
    adapter.py          the program between the two: it speaks our JSON line for the server
    tree.py             CPU time and memory of a server that forks
    servers.toml        the definitions that come with the project
    httpd.conf, asyncio_static.py, node_static.js     what they name

Nothing here knows what is measured, or for how long.
"""

from __future__ import annotations

from sedabench.targets.external.definition import ExternalSpec, available, joining, load_external
from sedabench.targets.external.server import ExternalServer, start_external
from sedabench.targets.external.tree import tree_cpu_ns, tree_rss_bytes, tree_threads

__all__ = [
    "ExternalServer",
    "ExternalSpec",
    "available",
    "joining",
    "load_external",
    "start_external",
    "tree_cpu_ns",
    "tree_rss_bytes",
    "tree_threads",
]
