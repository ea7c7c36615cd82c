r"""Stages without sockets: the longest words of a folder's Python files.

    python examples/seda_library.py servers --runner shared

Three functions that know nothing of threads: one finds files, one reads them (it blocks, so
its stage has more threads), one counts.  `--runner pools` gives each stage a pool, `shared`
gives all of them one thread, `direct` makes every hand-over a call; the answer is the same.
What each stage did is printed last, with how many events it handled in a batch on average.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from servers.seda import Application, StageSpec

WORD = re.compile(r"[a-z]+")


def longest_words(folder, runner):
    found = Counter()

    def look(folders, dispatch):
        for folder in folders:
            dispatch("read", sorted(folder.rglob("*.py")))

    def read(paths, dispatch):
        dispatch("count", [path.read_text(encoding="utf-8") for path in paths])

    def count(texts, dispatch):
        for text in texts:
            found.update(WORD.findall(text.lower()))

    stages = [
        StageSpec("look", look, to=("read",)),
        StageSpec("read", read, to=("count",), blocking=True, threads=4, batch=8),
        StageSpec("count", count),
    ]
    with Application(stages, runner=runner) as application:
        application.put("look", [Path(folder)])
    return sorted(found, key=lambda word: (-len(word), word)), application.describe()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=".")
    parser.add_argument("--runner", choices=("pools", "shared", "direct"), default="pools")
    given = parser.parse_args()
    words, stages = longest_words(given.folder, given.runner)
    print(*words[:5])
    for stage in stages:
        events, batches = stage["events_out"], max(1, stage["batches"])
        print(f"{stage['name']:6} {events:5} events, {events / batches:5.1f} in a batch")
