"""Times two calls in turn, pair by pair, and sets aside what something else on the machine has disturbed.

On a GPU, which has its own clock, any number of calls take turns.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import quantiles
from typing import NamedTuple

import torch

from benchmarks.case import Call

QUIET = 1.1
"""Wall time over CPU time above which something else had the core."""
BLOCK_SECONDS = 2e-3
"""Calls that are quicker are repeated until a timed block lasts about that long."""
FEWEST, MOST = 3, 60
"""Pairs wanted of a comparison, whatever the budget."""
MOST_TRIES = 10
"""Times as many are timed where most are disturbed."""


class NotQuietError(RuntimeError):
    """The machine had other work most of the time."""


class Block(NamedTuple):
    """One timed block of calls."""

    wall: float
    """Seconds a call."""
    quiet: bool
    """Whether the block had the core for itself."""


class Pairs(NamedTuple):
    """Seconds a call of two calls that took turns; entry i of both belongs together."""

    ours: list[float]
    theirs: list[float]
    set_aside: int
    """Pairs that were timed but not kept, as the machine was not quiet."""

    def ratios(self) -> list[float]:
        """How many times as long as ours theirs took."""
        return [b / a for a, b in zip(self.ours, self.theirs, strict=True)]


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return quantiles(values, n=4, method="inclusive")


def time_block(call: Call, repeats: int) -> Block:
    """CPU time is counted over all threads, so the check means something with one thread only."""
    if repeats > 1:
        call()  # short calls: what the other contender has left in the caches is none of theirs
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Block(wall / repeats, wall <= QUIET * cpu)


def repeats_for(call: Call) -> tuple[int, float]:
    """Calls in a block, and the seconds it will take about."""
    seconds = time_block(call, 1).wall
    if seconds < BLOCK_SECONDS:  # where it counts
        seconds = min(seconds, time_block(call, 1).wall)
    repeats = max(1, round(BLOCK_SECONDS / seconds))
    return repeats, repeats * seconds


def time_pairs(ours: Call, theirs: Call, budget_seconds: float) -> Pairs:
    """Times both in turn for about `budget_seconds`. Both have run before: compiled, caches warm."""
    (n, a), (m, b) = repeats_for(ours), repeats_for(theirs)
    with _no_collection():
        return pair_up(lambda: time_block(ours, n), lambda: time_block(theirs, m), round(budget_seconds / (a + b)))


def pair_up(ours: Callable[[], Block], theirs: Callable[[], Block], wanted: int) -> Pairs:
    """Timed blocks in turn until `wanted` pairs (in reason) were undisturbed.

    Raises NotQuietError where there are too few of them.
    """
    wanted = min(max(wanted, FEWEST), MOST)
    pairs, tries = Pairs([], [], 0), 0
    while len(pairs.ours) < wanted and tries < MOST_TRIES * wanted:
        tries += 1
        mine, other = ours(), theirs()  # strictly in turn: each finds the caches as the other left them
        gc.collect()  # between the blocks: zuko's cycles held 24 GB in the end
        if mine.quiet and other.quiet:
            pairs.ours.append(mine.wall)
            pairs.theirs.append(other.wall)
    if len(pairs.ours) < FEWEST:
        raise NotQuietError(f"the machine was not quiet: {tries - len(pairs.ours)} of {tries} pairs set aside")
    return pairs._replace(set_aside=tries - len(pairs.ours))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No collection in a timed block; those between the blocks look at nothing that was there before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def peak_bytes(call: Call) -> int | None:
    """Memory that a call needs at its peak beyond what the process held before; None where Linux does not tell."""
    if sys.platform != "linux":
        return None
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)  # freed memory that is kept is not held
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is the present size again
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(field))
    return 1024 * int(line.split()[1])


# --- on a GPU -------------------------------------------------------------------------------------------------------


def gpu_milliseconds(call: Call, repeats: int = 1) -> float:
    """Of a call: by the GPU's clock, from when it is free to when it has done."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def gpu_rounds(calls: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each, round after round; all have run before."""
    repeats = {name: max(1, min(50, int(1 / max(gpu_milliseconds(call), 1e-3)))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    deadline, rounds = time.monotonic() + seconds, 0
    while rounds < 3 or (time.monotonic() < deadline and rounds < 100):
        for name, call in calls.items():
            times[name].append(gpu_milliseconds(call, repeats[name]))
        rounds += 1
    return times


def graphed(call: Call) -> Call:
    """The call, captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
