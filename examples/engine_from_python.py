r"""The load generator's engine from Python, and every request of the run in a DataFrame.

With a server in another terminal:

    sedabench serve eventloop --service web --port 8080
    python examples/engine_from_python.py 'http://127.0.0.1:8080/compute?us=200' --rate 1000

The open loop sends 1,000 requests/s when they are due.  Printed is first what the run says of
itself: whether it is valid, and if not, why.  Then, from the samples, what a summary cannot
tell: latency by quarter of a second, and whether slow requests come together.  The samples are
kept in results/samples.parquet, as `sedabench load http --samples FILE.parquet` keeps them.
"""

import argparse
from pathlib import Path

import pandas as pd

from loadgen.demand.mixes import single
from loadgen.http.config import HttpConfig
from loadgen.http.loop import run
from loadgen.http.probe import read_url
from loadgen.http.result import summarise
from loadgen.http.samples import write_parquet


def measure(url, rate, duration_s):
    target = read_url(url)
    config = HttpConfig(
        target=target.target, host=target.host, mix=single(target.path), connections=64,
        rate=rate, duration_s=duration_s, warmup_s=0.5, spin=False,
    )  # fmt: skip
    return config, summarise(config, [run(config)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--duration", type=float, default=2, metavar="S")
    parser.add_argument("--samples", type=Path, default="results/samples.parquet", metavar="FILE")
    given = parser.parse_args()
    config, result = measure(given.url, given.rate, given.duration)
    said = result.summary
    print("valid" if said["valid"] else f"invalid: {'; '.join(said['invalid_reasons'])}")
    print(f"{said['scheduled']} scheduled, {said['answered']} answered")

    given.samples.parent.mkdir(exist_ok=True)
    write_parquet(given.samples, result, config.mix)
    samples = pd.read_parquet(given.samples)
    samples["due_s"] = samples["scheduled_ns"] / 1e9 - config.warmup_s
    samples["latency_ms"] = (samples["done_ns"] - samples["scheduled_ns"]) / 1e6
    right = samples[(samples["due_s"] >= 0) & (samples["outcome"] == "answered")]
    quarters = right.groupby(right["due_s"] // 0.25 * 0.25)["latency_ms"]
    print(quarters.describe(percentiles=[0.5, 0.99])[["count", "50%", "99%", "max"]].round(2))
    slow = right["latency_ms"] > right["latency_ms"].quantile(0.99)
    together = slow[slow.shift(1, fill_value=False)].mean()
    print(f"of 100 requests 1 is slow; after a slow one, {together:.0%} are")


if __name__ == "__main__":
    main()
