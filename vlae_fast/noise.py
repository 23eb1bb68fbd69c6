"""Counter-based noise (Philox 4x64-10, Salmon et al. 2011): number k of item i depends on (seed, stream, i, k) alone.

So it does not matter in which batches, on which machine or after which restart the items are drawn.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "BINARIZATION",
    "ORDER",
    "POSTERIOR",
    "RECONSTRUCTION",
    "SAMPLE",
    "TRAINING",
    "check_whole",
    "normals_and_uniforms",
    "permutation",
]

SAMPLE, POSTERIOR, RECONSTRUCTION, BINARIZATION, TRAINING, ORDER = range(6)
"""Streams: independent sequences under one seed."""


def check_whole(name: str, value: int) -> None:
    """Raises ValueError that names the argument where it is no whole number in 0..2**64-1."""
    if not (isinstance(value, int) and 0 <= value < 2**64):
        raise ValueError(f"{name}: a whole number in 0..2**64-1 wanted, got {value!r}")


def _generator(seed: int, stream: int) -> np.random.Philox:
    check_whole("seed", seed)
    return np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))


def _words(seed: int, stream: int, first: int, n: int, size: int) -> NDArray[np.uint64]:
    blocks = -(-size // 4)  # Philox yields four words a count: every item starts at a count of its own
    generator = _generator(seed, stream).advance(first * blocks)
    return generator.random_raw(n * blocks * 4).reshape(n, blocks * 4)[:, :size]


def normals_and_uniforms(
    seed: int, stream: int, first: int, n: int, normals: int, uniforms: int = 0
) -> tuple[Tensor, Tensor]:
    """Noise of items first..first+n-1: standard normals [n, normals] and uniforms in [0, 1) [n, uniforms], float32.

    The normals come by the inverse of the normal distribution function from 53 random bits. Raises ValueError where
    seed, first or n is no whole number from 0 on.
    """
    check_whole("first", first)
    check_whole("n", n)
    words = _words(seed, stream, first, n, normals + uniforms)
    probability = ((words[:, :normals] >> np.uint64(11)) + 0.5) * 2.0**-53
    unit = (words[:, normals:] >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.special.ndtri(torch.from_numpy(probability)).float(), torch.from_numpy(unit)


@functools.lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """Order of the n training images in an epoch; read-only, as it is kept for the next call."""
    generator = _generator(seed, ORDER)
    generator.state = generator.advance(epoch << 64).state
    order = np.random.Generator(generator).permutation(n)
    order.flags.writeable = False
    return order
