"""Rows of figures or images that processes make in rounds, kept on the disk so that what is cut short goes on."""

import io
import math
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import checkpoint
from vlae_fast.distributed import World
from vlae_fast.folder_lock import lock
from vlae_fast.report import Report

__all__ = ["GrowingFile", "Kept", "filled", "in_rounds"]

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
    like: Tensor,
    first: int,
    total: int,
    at_once: int,
    compute: Callable[[int, int], Tensor],
    *,
    world: World,
    report: Report,
) -> Iterator[tuple[int, Tensor]]:
    """Rows first..total-1 in order, some at a time, with the number of the first of them.

    They are what `compute(first, count)` gives, of the kind of the row `like` on the CPU. In each round every process
    takes the next `at_once`: how many processes there are changes no row. All get all rows, from the first process's
    `first` on. `report(done, total)` is called before, and after each round.
    """
    number = torch.tensor(first, device="cpu")
    world.spread([number])
    done = int(number)
    report(done, total)
    while done < total:
        end = min(done + world.size * at_once, total)
        rows = like.new_zeros(end - done, *like.shape)
        own = slice(min(done + world.rank * at_once, end), min(done + (world.rank + 1) * at_once, end))
        if own.stop > own.start:
            rows[own.start - done : own.stop - done] = compute(own.start, own.stop - own.start).to(rows)
        world.add(rows)  # the others' are zero here
        yield done, rows
        done = end
        report(done, total)


def filled(
    rows: Tensor, at_once: int, compute: Callable[[int, int], Tensor], *, world: World, kept: Kept, report: Report
) -> None:
    """Fills all rows, zeros so far on the CPU, `in_rounds`.

    The first process keeps them in a file, from which any number of processes goes on.
    """
    done = kept.load(rows) if world.first else 0
    world.spread([rows])
    try:
        for start, part in in_rounds(rows[0], done, len(rows), at_once, compute, world=world, report=report):
            done = start + len(part)
            rows[start:done] = part
            if world.first:
                kept.save(rows, done)
    finally:
        if world.first:
            kept.save(rows, done, at_once=True)


class GrowingFile:
    """An .npy file of bytes [total, ...] whose rows are appended; what a killed process has left is gone on with.

    `path` None: nowhere, gone with the object. Raises CheckpointError where it cannot be written, also for lack of
    space, or where another process appends to it.
    """

    def __init__(self, path: Path | None, total: int, row: Sequence[int]) -> None:
        self.path, self.total, self.row = path, total, tuple(row)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (total, *row)})
        self._header = header.getvalue()
        with self._writing():
            self._check_space()
            self._file = _opened(path)
            size = os.fstat(self._file.fileno()).st_size
            there = self._file.read(len(self._header)) == self._header
            self.done = min((size - len(self._header)) // math.prod(row), total) if there else 0
            """Rows that are there."""
            self._file.truncate(self._end if there else 0)
            if not there:
                self._file.seek(0)
                self._file.write(self._header)
            self._file.seek(0, os.SEEK_END)

    def _check_space(self) -> None:
        """Raises CheckpointError, nothing written, where the disk is too small."""
        folder = Path(tempfile.gettempdir()) if self.path is None else self.path.parent
        disk = os.statvfs(next(part for part in (folder, *folder.parents) if part.exists()))
        there = self.path.stat().st_size if self.path is not None and self.path.exists() else 0
        wanted, free = self.total * math.prod(self.row), there + disk.f_bavail * disk.f_frsize
        if wanted > free and disk.f_blocks:  # /proc has none
            raise checkpoint.CheckpointError(f"{self.path}: {wanted:,} bytes wanted, {free:,} are free on the disk")

    @property
    def _end(self) -> int:
        return len(self._header) + self.done * math.prod(self.row)

    def append(self, rows: Tensor) -> None:
        """Writes the next rows. What is not written whole does not count."""
        content = rows.to(torch.uint8).contiguous().numpy().data.cast("B")
        with self._writing():
            while content:
                content = content[self._file.write(content) :]
        self.done += len(rows)

    def rows(self) -> NDArray[np.uint8]:
        """All of them, mapped."""
        return np.memmap(self._file, np.uint8, "r", len(self._header), (self.total, *self.row))

    def pieces(self) -> Iterator[bytes]:
        """The content of the file."""
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            yield piece

    def become(self, path: Path) -> None:
        """Takes the place of another file."""
        assert self.path is not None
        with self._writing():
            os.fsync(self._file.fileno())
            checkpoint.put_in_place(self.path, path)

    def close(self) -> None:
        """Lets another process append."""
        self._file.close()

    def remove(self) -> None:
        """Once its rows stand elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise checkpoint.CheckpointError(f"{self.path}: cannot be written ({error.strerror})") from None


def _opened(path: Path | None) -> IO[bytes]:
    """For reading and writing by this process alone, made where it is not there. Raises CheckpointError or OSError."""
    if path is None:
        return tempfile.TemporaryFile(buffering=0)
    checkpoint.make_folder(path.parent)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    if regular and lock(file.fileno()):
        return file
    file.close()
    reason = "another process writes to it" if regular else "a file wanted, not a pipe or device"
    raise checkpoint.CheckpointError(f"{path}: {reason}")
