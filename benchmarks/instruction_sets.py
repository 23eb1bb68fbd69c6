"""Is the best instruction set of this processor ever slower than the next? `make bench-isa` says so, case by case.

Every case of `make bench` runs on both in turn, in one process on one thread; a line tells the medians and quartiles of
best / next. Beyond MOST it ends with "slower".
"""

import argparse
import functools
from typing import Any

import torch

from benchmarks.case import OURS, Call, label
from benchmarks.registry import every
from benchmarks.timing import NotQuietError, quartiles, time_pairs
from vlae_fast import native

MOST = 1.05


def on(isa: str, call: Call) -> Call:
    """The call on that instruction set."""

    @functools.wraps(call)
    def run() -> Any:
        with native.use_isa(isa):
            return call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="to time one case")
    parser.add_argument("--only", default="", help="cases whose names hold this")
    arguments = parser.parse_args()
    best, other = native.usable_isas()[:2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'':64} {best + ' ms':>10} {other + ' ms':>10}  {best} / {other}, quartiles")
    for case in every():
        for size in case.sizes():
            name = f"{case.op} {label(size)}"
            if not case.quick(OURS, size) or arguments.only not in name:
                continue
            call = case.ours(**size)
            ours, theirs = on(best, call), on(other, call)
            ours()
            theirs()
            try:
                pairs = time_pairs(ours, theirs, arguments.seconds)
            except NotQuietError as error:
                print(f"{name:64} {error}")
                continue
            low, ratio, high = quartiles([1 / r for r in pairs.ratios()])
            ms = [f"{1e3 * quartiles(times)[1]:10.3f}" for times in (pairs.ours, pairs.theirs)]
            print(f"{name:64} {' '.join(ms)}  {ratio:.3f} ({low:.3f} to {high:.3f})" + "  slower" * (ratio > MOST))


if __name__ == "__main__":
    main()
