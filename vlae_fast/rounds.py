"""Rows of figures or images that processes make in rounds, kept on the disk so that what is cut short goes on."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vlae_fast import checkpoint
from vlae_fast.distributed import World
from vlae_fast.report import Report

__all__ = ["Kept", "in_rounds"]

SAVE_SECONDS = 5.0
"""Seconds between two writings of the rows: what a killed process can lose."""
SAVE_SHARE = 0.05
"""Share of the time that writing may take: where it takes long, it is done less often."""


class Kept:
    """A file with the first rows of all; None: no file. Best effort: no work is lost as it cannot be written."""

    def __init__(self, path: Path | None, name: str) -> None:
        self.path, self.name = path, name
        self.rows_written, self.seconds, self.last = 0, 0.0, time.monotonic()

    def load(self, rows: Tensor) -> int:
        """Fills in the first rows; returns how many."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            tensors, _ = checkpoint.read_tensors(
                self.path, {self.name: rows, "done": rows.new_zeros((), dtype=torch.int64)}
            )
        except checkpoint.CheckpointError as error:
            print(f"{error}; beginning anew", file=sys.stderr)
            return 0
        self.rows_written = int(tensors["done"].clamp(0, len(rows)))
        rows[: self.rows_written] = tensors[self.name][: self.rows_written]
        return self.rows_written

    def save(self, rows: Tensor, done: int, *, at_once: bool = False) -> None:
        """Writes them if it is time to, or at once."""
        start = time.monotonic()
        due = at_once or start - self.last > max(SAVE_SECONDS, self.seconds / SAVE_SHARE)
        if self.path is None or not due or done == self.rows_written:
            return
        try:
            checkpoint.write_tensors(self.path, {self.name: rows, "done": torch.tensor(done, device="cpu")})
            self.rows_written, self.last = done, time.monotonic()
            self.seconds = self.last - start
        except checkpoint.CheckpointError as error:
            print(f"{error}; cut short, this would begin anew", file=sys.stderr)
            self.path = None


def in_rounds(
    rows: Tensor,
    at_once: int,
    compute: Callable[[int, int], Tensor],
    *,
    world: World,
    kept: Kept,
    report: Report,
) -> None:
    """Fills all rows, zeros so far on the CPU, with what `compute(first, count)` gives for rows first..first+count-1.

    In each round every process takes the next `at_once`: how many processes there are changes no row. All get all rows;
    the first one keeps them in a file, from which any number of processes goes on. `report(done, total)` is called
    after each round.
    """
    N = len(rows)
    first = torch.tensor(kept.load(rows) if world.first else 0, device="cpu")
    world.spread([first, rows])
    done = int(first)
    report(done, N)
    try:
        while done < N:
            own = slice(min(done + world.rank * at_once, N), min(done + (world.rank + 1) * at_once, N))
            if own.stop > own.start:
                rows[own] = compute(own.start, own.stop - own.start).to(rows)
            end = min(done + world.size * at_once, N)
            world.add(rows[done:end])  # the others' are zero here
            done = end
            report(done, N)
            if world.first:
                kept.save(rows, done)
    finally:
        if world.first:
            kept.save(rows, done, at_once=True)
