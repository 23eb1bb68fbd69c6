"""Counter-based noise (Philox 4x64-10, Salmon et al. 2011): number k of item i depends on (seed, stream, i, k) alone.

So it does not matter in which batches, how many at once, on which machine or after which restart they are drawn. The
key of the generator is (seed, stream); the second word of its counter is i, the first k // 4 + 1 (numpy counts first).
"""

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.checks import whole
from vlae_fast.portable import inverse_normal

__all__ = [
    "BINARIZATION",
    "CODEBOOK",
    "INPAINTING",
    "ORDER",
    "POSTERIOR",
    "RECONSTRUCTION",
    "SAMPLE",
    "TRAINING",
    "normals_and_uniforms",
    "permutation",
]

SAMPLE, POSTERIOR, RECONSTRUCTION, BINARIZATION, TRAINING, ORDER, INPAINTING, CODEBOOK = range(8)
"""Streams: independent sequences under one seed."""

_ITEM = 1 << 64
"""Counts between the first numbers of two items."""


def _generator(seed: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([whole("seed", seed), stream], dtype=np.uint64))


def _words(seed: int, stream: int, first: int, n: int, start: int, size: int) -> NDArray[np.uint64]:
    """Random words start..start+size-1 of items first..first+n-1: [n, size]."""
    skipped, blocks = start // 4, -(-(start + size) // 4) - start // 4  # Philox yields four words a count
    words = np.empty((n, 4 * blocks), dtype=np.uint64)
    generator = _generator(seed, stream).advance(first * _ITEM + skipped)
    for row in words:
        row[:] = generator.random_raw(4 * blocks)
        generator.advance(_ITEM - blocks)
    return words[:, start - 4 * skipped :][:, :size]


def normals_and_uniforms(
    seed: Any, stream: int, first: Any, n: Any, normals: int, uniforms: int = 0, *, start: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise of items first..first+n-1: standard normals [n, normals] and uniforms in [0, 1) [n, uniforms], float32.

    They are the numbers `start` on of each item, normals first. The normals come by the inverse of the normal
    distribution function from 53 random bits. Raises TypeError or ValueError where seed, first or n is no whole number
    from 0 on, or an item is beyond 2**64-1.
    """
    seed, first = whole("seed", seed), whole("first", first)
    n = whole("n", n, most=2**64 - first)
    op = torch.ops.vlae_fast.noise.default
    drawn: tuple[Tensor, Tensor] = op(_signed(seed), stream, _signed(first), n, start, normals, uniforms)
    return drawn


def _signed(number: int) -> int:
    """0..2**64-1 as the int64 of the same bits: operators of torch take no larger ones."""
    return number - _ITEM if number >= _ITEM // 2 else number


def _draw(seed: int, stream: int, first: int, n: int, start: int, normals: int, uniforms: int) -> tuple[Tensor, Tensor]:
    words = _words(seed % _ITEM, stream, first % _ITEM, n, start, normals + uniforms)
    probability = ((words[:, :normals] >> np.uint64(11)) + 0.5) * 2.0**-53
    unit = (words[:, normals:] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(inverse_normal(probability)).float(), torch.from_numpy(unit)


def _shapes(
    seed: int, stream: int, first: int, n: int, start: int, normals: int, uniforms: int
) -> tuple[Tensor, Tensor]:
    empty = functools.partial(torch.empty, dtype=torch.float32, device="cpu")
    return empty(n, normals), empty(n, uniforms)


# An operator, so that torch.compile and torch.export need not look into it.
_OP = "vlae_fast::noise"
_ARGUMENTS = ", ".join(f"SymInt {name}" for name in ("seed", "stream", "first", "n", "start", "normals", "uniforms"))
torch.library.define(_OP, f"({_ARGUMENTS}) -> (Tensor, Tensor)")
torch.library.impl(_OP, "default")(_draw)
torch.library.register_fake(_OP)(_shapes)


@functools.lru_cache(maxsize=2)
def permutation(seed: Any, epoch: int, n: int) -> NDArray[np.int64]:
    """Order of the n training images in an epoch; read-only, as it is kept for the next call."""
    order = np.random.Generator(_generator(seed, ORDER).advance(epoch * _ITEM)).permutation(n)
    order.flags.writeable = False
    return order
