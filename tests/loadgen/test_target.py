from __future__ import annotations

import socket
from pathlib import Path

import pytest

from loadgen.errors import LoadError
from loadgen.net.limits import ensure_room_for
from loadgen.net.targets import is_this_machine, resolve, split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:8080", "::1", 8080),
        ("[fe80::1%lo]:1", "fe80::1%lo", 1),
    ],
)
def test_host_and_port_are_split(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        *("", "80", "localhost", ":80", "[]:80", "localhost:", "h:0", "h:65536", "h:-1"),
        *("h:http", "h:²", "h:8 0", "::1:80", "[::1]", "h:99999999999999999999"),
    ],
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(LoadError, match="target"):
        split_host_port(text)


def test_an_ipv6_target_is_shown_with_brackets() -> None:
    target = resolve("[::1]:80")
    assert (str(target), target.family, target.is_loopback) == ("[::1]:80", socket.AF_INET6, True)


def test_a_name_with_both_addresses_means_ipv4() -> None:
    assert resolve("localhost:80").family == socket.AF_INET


def test_another_machine_needs_allow_remote() -> None:
    with pytest.raises(LoadError, match="--allow-remote"):
        resolve("192.0.2.1:80")
    assert not resolve("192.0.2.1:80", allow_remote=True).is_loopback


HERE = (
    "127.0.0.1", "127.9.9.9", "127.1", "localhost", "LOCALHOST", "::1", "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::FFFF:127.255.255.254",
)  # fmt: skip
EVERYWHERE = ("0.0.0.0", "::", "::ffff:0.0.0.0")
ELSEWHERE = ("192.0.2.1", "128.0.0.1", "::ffff:192.0.2.1", "::2", "fe80::1%lo", "2001:db8::7f00:1")


@pytest.mark.parametrize("host", [*HERE, *EVERYWHERE])
def test_every_address_of_this_machine_needs_no_leave(host: str) -> None:
    assert resolve(f"[{host}]:80").is_loopback
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ELSEWHERE)
def test_an_address_of_another_machine_needs_leave_however_it_is_written(host: str) -> None:
    with pytest.raises(LoadError, match="--allow-remote"):
        resolve(f"[{host}]:80")
    assert not is_this_machine(host)


@pytest.mark.parametrize("host", [*HERE, *EVERYWHERE])
def test_who_listens_on_every_address_is_reached_from_elsewhere(host: str) -> None:
    assert is_this_machine(host, listening=True) == (host in HERE)


def test_a_name_without_address_is_not_this_machine() -> None:
    assert not is_this_machine("no-such-host.invalid")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b"])
def test_a_name_without_address_is_an_error(host: str) -> None:
    with pytest.raises(LoadError, match="cannot resolve"):
        resolve(f"{host}:80")


def test_more_connections_than_descriptors_names_the_limit() -> None:
    with pytest.raises(LoadError, match=r"RLIMIT_NOFILE.*ulimit"):
        ensure_room_for(2**40)


def test_more_connections_than_ports_names_the_limit(tmp_path: Path) -> None:
    port_range = tmp_path / "range"
    port_range.write_text("100\t109\n")
    ensure_room_for(10, port_range)
    with pytest.raises(LoadError, match=r"11 connections.*ip_local_port_range has 10.*sysctl"):
        ensure_room_for(11, port_range)


def test_an_unreadable_port_range_is_no_limit(tmp_path: Path) -> None:
    ensure_room_for(11, tmp_path / "absent")
