"""The lossy code itself: z alone, as the number of a code in a list that both sides can draw (relative entropy coding).

The receiver has no x to give bits back from, so a z drawn from q(z|x) would cost -log p(z) and not the KL. Instead both
sides draw the same codes z_0, z_1, ... from the prior, and the sender picks one of them so that it is distributed as
q(z|x), the better the more there are (ordered random coding: Theis & Yosri 2022, arXiv:2102.09389). Early numbers are
likelier: their length in bits is written first, then the bits.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.codec.ans import Coders
from vlae_fast.report import Report, silent

__all__ = ["MOST_BITS", "likeliest", "picked", "pop_numbers", "push_numbers"]

MOST_BITS = 24
_IMAGES = 256
"""That a block of codes is looked at for at once."""
_LENGTH_BITS = 16

Floats = NDArray[np.float32]


class _Ratio:
    """log q(z|x) - log p(z) of N posteriors at listed codes, but for a constant an image."""

    def __init__(self, mean: Floats, std: Floats) -> None:
        self.precision = torch.from_numpy(std) ** -2
        self.slope = torch.from_numpy(mean) * self.precision

    def at(self, z: Floats, energy: Floats, images: slice = slice(None)) -> Tensor:
        """[N, n] for codes [n, D] of |eps|**2 / 2 [n]: -log p(z), but for a constant, as shifts keep volumes."""
        codes = torch.from_numpy(z)
        own = torch.addmm(torch.from_numpy(energy), self.slope[images], codes.T)
        return own.addmm_(self.precision[images], (codes * codes).T, alpha=-0.5)


def likeliest(z: Floats, eps: Floats, mean: Floats, std: Floats) -> NDArray[np.int64]:
    """For each of N posteriors, mean and std [N, D], the listed code of the largest q(z|x) / p(z), [N]."""
    return _Ratio(mean, std).at(z, 0.5 * (eps * eps).sum(1)).argmax(1).numpy()


def picked(
    blocks: Iterable[tuple[Floats, Floats]], n: int, mean: Floats, std: Floats, seed: int, report: Report = silent
) -> NDArray[np.int64]:
    """For each of N posteriors the number of one of n codes, distributed nearly as they are, [N].

    The codes come in blocks, with |eps|**2 / 2 of each; report(codes, n) is called after every block.
    The least of t_k / w_k, where w_k = q(z_k|x) / p(z_k) and t_0 < t_1 < ... are exponential variables in order.
    """
    N, start = len(mean), 0
    ratio, generator = _Ratio(mean, std), torch.Generator("cpu").manual_seed(seed)
    time = torch.zeros(N, dtype=torch.float64, device="cpu")
    best, number = torch.full_like(time, -torch.inf, dtype=torch.float32), torch.zeros_like(time, dtype=torch.int64)
    for codes in blocks:
        numbers = np.arange(start, start + len(codes[0]))
        gap = torch.from_numpy(n / (n - numbers))  # mean of t_k - t_(k-1), but for a factor
        for first in range(0, N, _IMAGES):
            rows = slice(first, first + _IMAGES)
            waits = best.new_empty(len(time[rows]), len(numbers)).exponential_(generator=generator)
            times = (waits * gap).cumsum(1).add_(time[rows, None])
            top, where = (ratio.at(*codes, rows) - times.log().float()).max(1)
            better = top > best[rows]
            best[rows], time[rows] = torch.where(better, top, best[rows]), times[:, -1]
            number[rows] = torch.where(better, where + start, number[rows])
        start += len(numbers)
        report(start, n)
    return number.numpy()


def push_numbers(coder: Coders, numbers: NDArray[np.int64], bits: int) -> None:
    """Numbers below 2**bits on a single stack: log2(1 + bits) bits for the length of 1 + number, then all but its 1."""
    coder.reserve(2 * len(numbers))
    for number in reversed(numbers.tolist()):
        length = (number + 1).bit_length() - 1
        coder.push_number(length, number + 1 - (1 << length))
        coder.push(_LENGTH_BITS, *_share(length, bits))


def pop_numbers(coder: Coders, count: int, bits: int) -> NDArray[np.int64]:
    """What `push_numbers` was given; numbers of 2**bits and more where something was damaged."""
    numbers = np.empty(count, np.int64)
    for i in range(count):
        slot = int(coder.slots(_LENGTH_BITS)[0])
        length = slot * (bits + 1) >> _LENGTH_BITS
        coder.pop(_LENGTH_BITS, *_share(length, bits))
        numbers[i] = (1 << length) - 1 + int(coder.pop_number(length)[0])
    return numbers


def _share(length: int, bits: int) -> tuple[int, int]:
    """Start and frequency of a length in 0..bits: all alike."""
    start, end = (-(-(k << _LENGTH_BITS) // (bits + 1)) for k in (length, length + 1))
    return start, end - start
