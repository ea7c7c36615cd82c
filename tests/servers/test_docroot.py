"""The generated document root: the same bytes everywhere, and nothing overwritten."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pytest

from servers.options import UsageError
from servers.services.docroot import (
    DIRECTORY_BYTES,
    FILE_SHARES,
    MANIFEST,
    SIZES,
    generate,
    main,
    parse_bytes,
    popularity,
)
from tests.servers.web import ask, get, web


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories; tests that change one restore it by generating it again."""
    directory = tmp_path_factory.mktemp("docroot") / "made"
    generate(directory, 2 * DIRECTORY_BYTES + 1, seed=1)
    return directory


def digest(root: Path) -> str:
    """Of every path and every byte."""
    total = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


GOLDEN = "f4b30993c66d3870580308010b54c68d48314cb4802d18a37d1ae083c5b7ad8d"


def test_it_is_byte_identical_on_every_machine(root: Path) -> None:
    assert digest(root) == GOLDEN


def test_its_classes_are_those_of_specweb99(root: Path) -> None:
    for size_class, (least, most) in enumerate(
        ((102, 921), (1024, 9216), (10_240, 92_160), (102_400, 921_600))
    ):
        sizes = [
            (root / f"dir00001/class{size_class}_{number}").stat().st_size for number in range(9)
        ]
        assert sizes == sorted(sizes) == list(SIZES[size_class])
        assert (sizes[0], sizes[-1]) == (least, most)
    assert len(list(root.glob("dir*/*"))) == 2 * 36
    assert not list(root.rglob("*.partial"))


def test_popularity_is_the_product_of_its_three_distributions() -> None:
    shares = dict(popularity(4))
    assert len(shares) == 4 * 36
    assert sum(shares.values()) == pytest.approx(1)
    for size_class, share in enumerate((0.35, 0.50, 0.14, 0.01)):
        of_class = [value for path, value in shares.items() if f"/class{size_class}_" in path]
        assert sum(of_class) == pytest.approx(share)
    assert sum(FILE_SHARES) == pytest.approx(1)
    assert shares["dir00000/class1_4"] == pytest.approx(4 * shares["dir00003/class1_4"])
    assert max(shares, key=shares.__getitem__) == "dir00000/class1_4"


def test_the_manifest_says_all_that_a_client_needs(root: Path) -> None:
    manifest = json.loads(ask(web(docroot=str(root)), get(f"/{MANIFEST}")).body)
    zipf = [1 / rank ** manifest["zipf_exponent"] for rank in range(1, manifest["directories"] + 1)]
    rebuilt = {
        manifest["path"].format(directory=directory, size_class=size_class, number=number): (
            weight / sum(zipf) * class_share * file_share
        )
        for directory, weight in enumerate(zipf)
        for size_class, class_share in enumerate(manifest["class_shares"])
        for number, file_share in enumerate(manifest["file_shares"])
    }
    assert rebuilt == pytest.approx(dict(popularity(2)))
    assert all((root / path).is_file() for path in rebuilt)
    assert manifest["bytes"] == sum(path.stat().st_size for path in root.glob("dir*/*"))


def test_a_complete_root_is_used_as_it_is(root: Path) -> None:
    path = root / "dir00000/class0_0"
    inode = path.stat().st_ino
    generate(root, 2 * DIRECTORY_BYTES, seed=1)
    assert path.stat().st_ino == inode


def test_an_interrupted_root_is_completed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 50
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "made", 2 * DIRECTORY_BYTES, seed=1)
    assert not json.loads((tmp_path / "made" / MANIFEST).read_bytes())["complete"]
    assert len(list((tmp_path / "made").rglob("*.partial"))) == 1
    generate(tmp_path / "made", 2 * DIRECTORY_BYTES, seed=1)
    assert digest(tmp_path / "made") == digest(root)


def test_a_root_that_was_made_with_other_parameters_is_refused(root: Path) -> None:
    for total_bytes, seed in ((DIRECTORY_BYTES, 1), (2 * DIRECTORY_BYTES, 2)):
        with pytest.raises(
            UsageError, match=r"was made with other parameters \(2 directories, seed 1\)"
        ):
            generate(root, total_bytes, seed)


def test_a_directory_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="is neither empty nor a document root"):
        generate(tmp_path, DIRECTORY_BYTES, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="is a file"):
        generate(tmp_path / "thesis.txt", DIRECTORY_BYTES, seed=1)


def test_a_broken_manifest_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / MANIFEST).write_text("{")
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_command_makes_at_least_one_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "made"), "--bytes", "1", "--seed", "7"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "directories": 1,
        "bytes": DIRECTORY_BYTES,
        "seed": 7,
    }


def test_sizes_are_decimal() -> None:
    assert [parse_bytes(text) for text in ("7", "7B", "7kb", "7M", "7 GB")] == [
        7, 7, 7_000, 7_000_000, 7_000_000_000,
    ]  # fmt: skip
    for text in ("", "MB", "-1MB", "1.5MB", "1TB"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_bytes(text)
