"""Is this revision slower than that one? `make bench-compare BASE=<revision>` says so, op by op, with a spread.

Both revisions are built in folders of their own (build/compare/base, build/compare/head; head is the checkout as it
stands). In every launch a fresh process for each runs the same cases in turn, pair by pair, and gives one median of the
pairs' ratios: what differs between processes, as where their memory lies, is noise between launches. The range of n
launches' medians without the lowest and the highest holds the true median with a confidence of
1 - 2 * (n + 1) / 2 ** n, whatever the noise looks like. Where all of it lies beyond MARGIN the op is called slower or
faster, else the same.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.case import label
from benchmarks.timing import Block, pair_up, repeats_for, time_block

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "compare"
LAUNCHES = 12
MARGIN = 1.03
"""Ratio that nobody needs to care about: different memory addresses alone make 1 to 2 %."""


class Verdict(NamedTuple):
    """Head's time over base's."""

    ratio: float
    low: float
    high: float

    @property
    def word(self) -> str:
        return "slower" if self.low > MARGIN else "faster" if self.high < 1 / MARGIN else "same"


def verdict(medians: list[float]) -> Verdict:
    """Of the launches' medians."""
    _, low, *_, high, _ = sorted(medians)
    return Verdict(median(medians), low, high)


# --- the two sides --------------------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def build(name: str, revision: str) -> Path:
    """A worktree of the revision, its native module compiled; what did not change since last time is not."""
    folder = FOLDER / name
    if not folder.exists():
        git("worktree", "prune")
        git("worktree", "add", "--quiet", "--detach", str(folder), revision)
    subprocess.run(["git", "checkout", "--quiet", "--force", "--detach", revision], cwd=folder, check=True)
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder, check=True)
    return folder


class Side:
    """A process that runs the cases with the package of one folder."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare", "--serve", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def block(self, case: str, repeats: int) -> Block:
        return Block(*self.ask([case, repeats]))

    def close(self) -> None:
        self.process.communicate()


def serve(folder: Path) -> None:
    """Answers [case, repeats] with a timed block, and [case, 0] with the repeats of a block and its seconds."""
    sys.path.insert(0, str(folder))  # the benchmarks remain those of the checkout
    import torch

    import vlae_fast
    from benchmarks.ops import STEMS

    if not Path(vlae_fast.__file__).is_relative_to(folder):
        sys.exit(f"{folder}: the package came from {vlae_fast.__file__}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    calls = {}
    for stem in STEMS:
        try:
            for case in importlib.import_module(f"benchmarks.ops.{stem}").CASES:
                calls |= {f"{case.op} {label(size)}": case.ours(**size) for size in case.compared}
        except (ImportError, AttributeError):  # what a revision does not have cannot be compared with it
            continue
    for line in sys.stdin:
        case, repeats = json.loads(line)
        if repeats:
            answer: Any = time_block(calls[case], repeats)
        elif case:
            calls[case]()
            answer = repeats_for(calls[case])
        else:
            answer = list(calls)
        print(json.dumps(answer), flush=True)


# --- the comparison -------------------------------------------------------------------------------------------------


def launch(folders: tuple[Path, Path], seconds: float) -> tuple[dict[str, float], int]:
    """For each case the median of head's time over base's in one pair of processes; how many pairs were set aside."""
    base, head = Side(folders[0]), Side(folders[1])
    medians, set_aside = {}, 0
    try:
        known = head.ask([None, 0])
        for case in (case for case in base.ask([None, 0]) if case in known):
            repeats, block_seconds = base.ask([case, 0])
            head.ask([case, 0])  # warm
            pairs = pair_up(
                lambda case=case, repeats=repeats: base.block(case, repeats),
                lambda case=case, repeats=repeats: head.block(case, repeats),
                round(seconds / (2 * block_seconds)),
            )
            medians[case] = median(pairs.ratios())
            set_aside += pairs.set_aside
    finally:
        base.close()
        head.close()
    return medians, set_aside


def compare(base: str, seconds: float) -> None:
    head = git("stash", "create") or git("rev-parse", "HEAD")  # with changes that are not committed, if there are any
    base = git("rev-parse", "--verify", f"{base}^{{commit}}")
    folders = build("base", base), build("head", head)
    if hasattr(os, "sched_setaffinity"):  # both processes on one core, else the two cores are compared
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found: dict[str, list[float]] = {}
    set_aside = 0
    for number in range(LAUNCHES):
        print(f"\rlaunch {number + 1} of {LAUNCHES}", end="", file=sys.stderr, flush=True)
        medians, aside = launch(folders, seconds)
        set_aside += aside
        for case, value in medians.items():
            found.setdefault(case, []).append(value)
    confidence = 1 - 2 * (LAUNCHES + 1) / 2**LAUNCHES
    print(f"\rtime at {head[:12]} / time at {base[:12]}; {LAUNCHES} launches, {confidence:.1%} confidence")
    for case, values in found.items():
        ratio, low, high = result = verdict(values)
        print(f"{case:64} {ratio:6.3f}  [{low:.3f} .. {high:.3f}]  {result.word}")
    print(f"{set_aside} pairs set aside, as something else had the core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?", help="git revision to compare the checkout with")
    parser.add_argument("--seconds", type=float, default=0.25, help="to time one case in one launch")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    elif arguments.base:
        compare(arguments.base, arguments.seconds)
    else:
        parser.error("a git revision wanted: make bench-compare BASE=main")


if __name__ == "__main__":
    main()
