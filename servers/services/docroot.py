"""A document root like that of SPECweb99, byte-identical from its seed.

    python -m servers.services.docroot DIR --bytes 200MB --seed 1

Each directory of about 5 MB holds four classes of nine files, `dir00000/class0_0`
to `dir00000/class3_8`: 0.1 to 0.9 KB, 1 to 9 KB, 10 to 90 KB and 100 to 900 KB.
How often a file is asked for is the product of three distributions, all from
the SPECweb99 run rules: a Zipf distribution over directories, the mix of the
classes, and one of the files within a class.

`docroot.json`, in the root itself, records all of that, so that a load generator can
read it, from the disk or over HTTP, without this module.  It also identifies a root: a
complete one is used as it is, an interrupted one is completed, and one made with other
parameters is not touched.

The bytes of a file are SHAKE-128 of its seed and path, and its modification time is
that of the paper's workshop, so that the ETag is the same on every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from servers.options import UsageError
from servers.output import command

MANIFEST = "docroot.json"
FORMAT = 1

CLASS_SHARES = (0.35, 0.50, 0.14, 0.01)
CLASS_STEP_BYTES = (102.4, 1024, 10_240, 102_400)
"""File i of a class, from 0, has i + 1 steps."""

FILE_SHARES = (0.039, 0.059, 0.088, 0.177, 0.353, 0.118, 0.071, 0.050, 0.045)

ZIPF_EXPONENT = 1.0

SIZES = tuple(
    tuple(int(step_bytes * (number + 1)) for number in range(len(FILE_SHARES)))
    for step_bytes in CLASS_STEP_BYTES
)
"""Bytes, by class and file."""

DIRECTORY_BYTES = sum(map(sum, SIZES))

CHANGED_S = 990_352_800
"""20 May 2001, 10:00 UTC, the first day of HotOS-VIII."""

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def file_path(directory: int, size_class: int, number: int) -> str:
    """Relative to the root."""
    return f"dir{directory:05d}/class{size_class}_{number}"


def popularity(directories: int) -> list[tuple[str, float]]:
    """The path of every file and its share of the requests; the shares add up to 1."""
    zipf = [1 / rank**ZIPF_EXPONENT for rank in range(1, directories + 1)]
    return [
        (
            file_path(directory, size_class, number),
            zipf[directory] / sum(zipf) * CLASS_SHARES[size_class] * FILE_SHARES[number],
        )
        for directory, size_class, number in _files(directories)
    ]


def generate(root: Path, total_bytes: int, seed: int) -> dict[str, Any]:
    """Make the root unless it exists, or complete it; return its manifest.

    It has as many whole directories as fit in `total_bytes`, at least one.  Raises
    UsageError if something else is in the way, OSError if the disk is full.
    """
    directories = max(1, total_bytes // DIRECTORY_BYTES)
    manifest = _manifest(directories, seed)
    found = _read_manifest(root)
    if found == manifest:
        return manifest
    if found is None and root.exists() and any(root.iterdir()):
        raise UsageError(f"{root} is neither empty nor a document root; name another directory")
    if found is not None and found != manifest | {"complete": False}:
        raise UsageError(
            f"{root} was made with other parameters ({found.get('directories')} directories, "
            f"seed {found.get('seed')}); remove it or name another directory"
        )
    root.mkdir(parents=True, exist_ok=True)
    _write_manifest(root, manifest | {"complete": False})
    for directory, size_class, number in _files(directories):
        path = file_path(directory, size_class, number)
        size_bytes = SIZES[size_class][number]
        if not _is_there(root / path, size_bytes):
            (root / path).parent.mkdir(exist_ok=True)
            contents = hashlib.shake_128(f"{seed}/{path}".encode()).digest(size_bytes)
            _write_whole(root / path, contents)
    _write_manifest(root, manifest)
    return manifest


def _files(directories: int) -> Iterator[tuple[int, int, int]]:
    return itertools.product(range(directories), range(len(SIZES)), range(len(FILE_SHARES)))


def _manifest(directories: int, seed: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "complete": True,
        "seed": seed,
        "directories": directories,
        "bytes": directories * DIRECTORY_BYTES,
        "path": "dir{directory:05d}/class{size_class}_{number}",
        "zipf_exponent": ZIPF_EXPONENT,
        "class_shares": list(CLASS_SHARES),
        "file_shares": list(FILE_SHARES),
        "sizes_bytes": [list(sizes) for sizes in SIZES],
    }


def _read_manifest(root: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((root / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UsageError(f"{root} is a file; name a directory") from None
    except ValueError:
        raise UsageError(f"{root / MANIFEST} is not JSON; remove {root}") from None
    return found


def _write_manifest(root: Path, manifest: dict[str, Any]) -> None:
    _write_whole(root / MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")


def _is_there(path: Path, size_bytes: int) -> bool:
    return path.exists() and path.stat().st_size == size_bytes


def _write_whole(path: Path, contents: bytes) -> None:
    """Write all of it or, if interrupted, nothing under that name."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(contents)
    os.utime(partial, (CHANGED_S, CHANGED_S))
    partial.replace(path)


def parse_bytes(text: str) -> int:
    """`200MB` as a number of bytes; KB is a thousand.  Raises ArgumentTypeError."""
    match = re.fullmatch(r"(\d+)\s*([KMG]?B?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 200MB")
    unit = match[2].removesuffix("B")
    return int(match[1]) * _UNITS[f"{unit}B" if unit else ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a document root; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m servers.services.docroot", description="A document root like SPECweb99's."
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument(
        "--bytes", type=parse_bytes, default=parse_bytes("200MB"), metavar="SIZE", dest="size",
        help=f"total size, rounded to directories of {DIRECTORY_BYTES} bytes (default: 200MB)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the contents (default: 1)")
    chosen = parser.parse_args(arguments)
    try:
        manifest = generate(chosen.directory, chosen.size, chosen.seed)
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps({key: manifest[key] for key in ("directories", "bytes", "seed")}))
    return 0


if __name__ == "__main__":
    command(main)
