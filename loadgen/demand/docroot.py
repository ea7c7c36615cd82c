"""A document root as its own `/docroot.json` describes it: files, sizes, popularity.

Any server that serves the root serves the description too, so a load generator
needs neither the disk nor the program that made the files.  How often a file is
asked for is the product of three distributions (SPECweb99 run rules): Zipf over
directories, the share of its class, and its share within the class.

What a server tells is checked as what a user tells is: it may be any server.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadgen.errors import LoadError

PATH = "/docroot.json"

FORMAT = 1

_NAMES = {"directory", "size_class", "number"}

_PLACE = re.compile(r"\{(directory|size_class|number)(?::0(\d)d)?\}")
"""As in `str.format`, but with these names and widths alone."""


@dataclass(frozen=True)
class Docroot:
    """Directories from 0, each with the same classes of files from 0."""

    directories: int
    sizes_bytes: tuple[tuple[int, ...], ...]
    """By class and number, in every directory."""
    class_shares: tuple[float, ...]
    file_shares: tuple[float, ...]
    zipf_exponent: float
    path: str

    @property
    def files(self) -> int:
        return self.directories * sum(map(len, self.sizes_bytes))

    def target(self, directory: int, size_class: int, number: int) -> str:
        """What to ask the server for."""
        places = {"directory": directory, "size_class": size_class, "number": number}
        path = _PLACE.sub(lambda place: f"{places[place[1]]:0{place[2] or 1}d}", self.path)
        return "/" + path

    def popularity(self) -> Iterator[tuple[int, int, int, float]]:
        """`(directory, class, number, share of the requests)` of every file."""
        zipf = [rank**-self.zipf_exponent for rank in range(1, self.directories + 1)]
        total = sum(zipf)
        for directory, (size_class, in_class), (number, in_files) in itertools.product(
            range(self.directories), enumerate(self.class_shares), enumerate(self.file_shares)
        ):
            yield directory, size_class, number, zipf[directory] / total * in_class * in_files


def parse_docroot(description: bytes) -> Docroot:
    """What `/docroot.json` says; `LoadError` if it is not one of a complete root."""
    try:
        found: Any = json.loads(description)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r} is not {FORMAT}")
        if found["complete"] is not True:
            raise ValueError("it is not complete, make it again")
        docroot = Docroot(
            directories=_count(found["directories"]),
            sizes_bytes=tuple(tuple(map(_count, sizes)) for sizes in found["sizes_bytes"]),
            class_shares=tuple(map(_share, found["class_shares"])),
            file_shares=tuple(map(_share, found["file_shares"])),
            zipf_exponent=_share(found["zipf_exponent"]),
            path=found["path"],
        )
        _check(docroot)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise LoadError(
            f"{PATH} of the server does not describe a document root: {what[:100]}"
        ) from None
    return docroot


def _check(docroot: Docroot) -> None:
    classes, files = len(docroot.class_shares), len(docroot.file_shares)
    if [len(sizes) for sizes in docroot.sizes_bytes] != [files] * classes or not classes * files:
        raise ValueError("there is not a size for every share")
    if {place[1] for place in _PLACE.finditer(docroot.path)} != _NAMES:
        raise ValueError(f"path {docroot.path!r} does not name {', '.join(sorted(_NAMES))}")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a count")
    return value


def _share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a share")
    return float(value)
