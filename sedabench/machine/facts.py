"""Facts about this machine, read and never judged.

`facts()` is the `machine` part of a manifest; `choose_cores` says where server
and load generator run.  What the facts mean for a measurement is in
`sedabench.machine.doctor`.  Everything here reads files; a file that is not there
(another kernel, a container) gives None, never an error.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sedabench.errors import SettingError, one_line
from sedabench.machine.process import finish

PACKAGES = (
    "sedabench", "click", "httptools", "locust", "matplotlib", "numpy", "pandas", "psutil",
    "rich", "scipy",
)  # fmt: skip

SYSCTLS = (
    "net.core.somaxconn",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.core.netdev_max_backlog",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_syncookies",
    "kernel.threads-max",
    "kernel.pid_max",
    "vm.max_map_count",
    "fs.nr_open",
)
"""What decides how many connections and threads there can be, and how fast."""


def read(path: str | Path) -> str | None:
    """The text of a file of /proc or /sys, stripped; None when it is not there."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def sysctl(name: str) -> str | None:
    """The value of a sysctl, with single spaces between its numbers."""
    value = read("/proc/sys/" + name.replace(".", "/"))
    return None if value is None else one_line(value)


# -- cores --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cores:
    """Where the two processes of a trial run."""

    server: tuple[int, ...]
    client: tuple[int, ...]
    warning: str | None = None


def physical_cores(usable: Iterable[int]) -> list[list[int]]:
    """The usable logical CPUs, those of one physical core together."""
    groups: dict[str, list[int]] = {}
    for cpu in sorted(usable):
        siblings = read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        groups.setdefault(siblings or str(cpu), []).append(cpu)
    return list(groups.values())


def choose_cores(usable: Iterable[int] | None = None) -> Cores:
    """One core each: different physical cores where there are two.

    Where there are three or more, the first is left to the kernel's own work
    and to the driver.
    """
    groups = physical_cores(os.sched_getaffinity(0) if usable is None else usable)
    if len(groups) >= 3:
        return Cores((groups[1][0],), (groups[2][0],))
    if len(groups) == 2:
        return Cores((groups[0][0],), (groups[1][0],))
    cpus = groups[0]
    if len(cpus) >= 2:
        return Cores(
            (cpus[0],), (cpus[1],),
            "server and load generator share one physical core (SMT siblings): "
            "each slows the other",
        )  # fmt: skip
    return Cores(
        (cpus[0],), (cpus[0],),
        "server and load generator share the only core: the load takes time from the server",
    )  # fmt: skip


# -- facts --------------------------------------------------------------------------------


def cpu_model() -> str:
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Processor", "cpu model") and value.strip():
            return value.strip()
    return platform.machine()


def memory_bytes(field: str) -> int | None:
    """A field of /proc/meminfo, for example `MemAvailable`."""
    for line in (read("/proc/meminfo") or "").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def governors() -> list[str]:
    """The frequency governors in use; empty where the machine shows none (most VMs)."""
    paths = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return sorted({found for path in paths if (found := read(path))})


def virtual_machine() -> str | None:
    """The hypervisor's name, "unknown hypervisor", or None on bare metal."""
    for path in ("sys_vendor", "product_name"):
        text = (read(f"/sys/class/dmi/id/{path}") or "").lower()
        for mark, name in (
            ("qemu", "qemu"), ("kvm", "kvm"), ("vmware", "vmware"), ("virtualbox", "virtualbox"),
            ("xen", "xen"), ("amazon ec2", "ec2"), ("google", "google"), ("microsoft", "hyper-v"),
        ):  # fmt: skip
            if mark in text:
                return name
    if (kind := read("/sys/hypervisor/type")) is not None:
        return kind
    cpuinfo = read("/proc/cpuinfo") or ""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "unknown hypervisor" if "hypervisor" in flags.split() else None


def container() -> str | None:
    """What kind of container this is, or None."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    cgroup = read("/proc/1/cgroup") or ""
    return next((k for k in ("docker", "kubepods", "lxc", "podman") if k in cgroup), None)


def descriptor_limit() -> int:
    """How many descriptors a child can be given: the hard limit (`ulimit -Hn`)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def ephemeral_ports() -> tuple[int, int]:
    """The first and the last port that a client's connections are given."""
    value = sysctl("net.ipv4.ip_local_port_range") or "32768 60999"
    low, high = value.split()
    return int(low), int(high)


def limits() -> dict[str, int | None]:
    """Soft and hard limits of a process here; None is unlimited."""
    found: dict[str, int | None] = {}
    for name in ("NOFILE", "NPROC", "STACK", "MEMLOCK", "AS"):
        for kind, value in zip(
            ("soft", "hard"), resource.getrlimit(getattr(resource, f"RLIMIT_{name}")), strict=True
        ):
            found[f"{name.lower()}_{kind}"] = None if value == resource.RLIM_INFINITY else value
    return found


def facts() -> dict[str, Any]:
    """Everything about the machine that a reader of a figure may ask for."""
    usable = sorted(os.sched_getaffinity(0))
    return {
        "cpu": cpu_model(),
        "architecture": platform.machine(),
        "cores_logical": os.cpu_count(),
        "cores_physical": len(physical_cores(usable)),
        "cores_usable": usable,
        "governors": governors(),
        "memory_bytes": memory_bytes("MemTotal"),
        "kernel": f"{platform.system()} {platform.release()}",
        "clock_source": read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "virtual_machine": virtual_machine(),
        "container": container(),
        "load_average": list(os.getloadavg()),
        "limits": limits(),
        "sysctls": {name: sysctl(name) for name in SYSCTLS},
    }


# -- code and interpreters ----------------------------------------------------------------


def versions() -> dict[str, str]:
    """Installed versions of what takes part in a measurement."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout that this code runs from; None when it is not a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = finish(
            ("git", "-C", str(root), *arguments),
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return str(done.stdout).strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


# Runs in whatever interpreter `--python` names, so: short, and no new syntax.
_PROBE = """
import json, platform, sys
gil = getattr(sys, "_is_gil_enabled", lambda: True)()
try:
    import servers
    imports = True
except ImportError:
    imports = False
print(json.dumps({
    "implementation": platform.python_implementation(), "version": platform.python_version(),
    "compiler": platform.python_compiler(), "gil": gil, "imports_servers": imports,
    "version_info": list(sys.version_info[:2]),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """An interpreter that can run `servers`, and how it is to be started.

    With -P: a folder `servers` or `loadgen` in a person's own folder is not ours.
    """

    path: str
    facts: dict[str, Any]
    environment: dict[str, str]

    @property
    def title(self) -> str:
        """For a figure's footer: "CPython 3.13.1 (GIL)"."""
        gil = "GIL" if self.facts["gil"] else "no GIL"
        return f"{self.facts['implementation']} {self.facts['version']} ({gil})"


def nearby(path: str) -> str:
    """`path` from the current folder if it is inside: what is published names no one's home."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        return path


def command_line() -> list[str]:
    """The command that this process was started with, as it is published: see `nearby`."""
    name = Path(sys.argv[0]).name
    return [
        "sedabench" if name == "__main__.py" else name,
        *(nearby(word) if Path(word).is_absolute() else word for word in sys.argv[1:]),
    ]


def probe_interpreter(path: str) -> Interpreter:
    """Ask an interpreter what it is.

    Where it cannot import `servers`, `environment` has a PYTHONPATH by which it can.

    Raises:
        UserError: it is no Python interpreter, is too old, or does not answer.
    """
    try:
        done = finish(
            [path, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # as -P, which an old one does not know
        )  # fmt: skip
        found = json.loads(done.stdout)
        old = tuple(found.pop("version_info")) < (3, 11)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
        said = f"{path!r} is no Python interpreter; name the path of one"
        raise SettingError("python", said) from None
    if old:
        said = f"{path!r} is Python {found['version']}; the servers need 3.11 or newer"
        raise SettingError("python", said)
    environment = dict(os.environ)
    if not found.pop("imports_servers"):
        home = Path(__file__).resolve().parents[2]
        others: Sequence[str] = filter(None, [os.environ.get("PYTHONPATH")])  # type: ignore[assignment]
        environment["PYTHONPATH"] = os.pathsep.join([str(home), *others])
    return Interpreter(path, {"path": nearby(path), **found}, environment)
