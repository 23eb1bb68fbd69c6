"""Long lists of codes take long to draw: they are kept in $XDG_CACHE_HOME/vlae_fast, or ~/.cache/vlae_fast.

Only who compresses needs whole lists. One that cannot be kept or was damaged is drawn again.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlae_fast.checkpoint import CheckpointError, write_file
from vlae_fast.codec.exact import GRID, Exact

__all__ = ["KEPT_BITS", "blocks"]

KEPT_BITS = range(16, 21)
"""Of the numbers of codes in lists that are kept: 8 to 132 MiB for 64 dimensions."""
_BLOCK = 1 << 13


def blocks(exact: Exact, model: bytes, bits: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The first 2**bits listed codes z [n, D] of the model of this digest, in blocks, and |eps|**2 / 2 [n] of each."""
    n, row = 1 << bits, np.dtype([("z", "<i2", (exact.D,)), ("energy", "<f4")])
    file = _folder() / f"{model.hex()}-{bits}.codes"
    kept = _read(file, row, n)
    new = np.empty(n if kept is None and bits in KEPT_BITS else 0, row)
    for start in range(0, n, _BLOCK):
        some = slice(start, min(start + _BLOCK, n))
        if kept is not None:
            yield kept[some]["z"] * np.float32(GRID), kept[some]["energy"].copy()
            continue
        z, eps = exact.listed(np.arange(some.start, some.stop))
        energy = 0.5 * (eps * eps).sum(1)
        if len(new) and (np.abs(z) < GRID * 2**15).all():
            new[some]["z"], new[some]["energy"] = np.rint(z / GRID), energy
        else:
            new = new[:0]
        yield z, energy
    if len(new):
        content = new.view(np.uint8).data
        with suppress(CheckpointError):
            write_file(file, content, zlib.crc32(content).to_bytes(4, "little"))


def _folder() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlae_fast"
    except RuntimeError:  # nobody's home
        return Path(os.devnull)


def _read(file: Path, row: np.dtype, n: int) -> NDArray[np.void] | None:
    """A list that is there, whole and as it was written."""
    try:
        if file.stat().st_size != n * row.itemsize + 4:
            return None
        content = np.memmap(file, np.uint8, "r")
    except OSError:
        return None
    rows, checksum = content[:-4], content[-4:].tobytes()
    return rows.view(row) if zlib.crc32(rows.data).to_bytes(4, "little") == checksum else None
