"""Bits back with asymmetric numeral systems (Townsend et al. 2019, arXiv:1901.04866): -ELBO bits an image.

Images are dealt to lanes, each a stack. With what lies on its stack, a lane draws z from q(z|x), which takes -log q
bits off; then x is pushed under p(x|z), and z under the prior. Popping goes the way back, and ends with those bits.

A draw that empties a stack would be a bad one, so the first images of a lane take a code from a list that both sides
have (`Exact.listed`), and push its number; how many, is pushed last. So do images whose code lies where the prior has
no bins.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.codec.ans import Coders
from vlae_fast.codec.exact import BOOK_BITS, FARTHEST, GRID, Exact
from vlae_fast.codec.lossy import likeliest
from vlae_fast.report import Report

__all__ = ["lanes_of", "pop_images", "push_images", "room"]

RARELY = 12
"""A later image takes a listed code once in 2**RARELY times, as the coder sees it."""
_USUAL = (1 << RARELY) - 1
MOST_LANES = 64
IMAGES_A_LANE = 128
"""What a lane costs, 50 bits or so, is spread over these."""
FIRST_BITS = 5
"""Of the number of a lane's first images, which have no flag for this."""
MOST_FIRST = (1 << FIRST_BITS) - 1


def lanes_of(count: int) -> int:
    """How many lanes so many images are dealt to."""
    return max(1, min(MOST_LANES, count // IMAGES_A_LANE))


def room(exact: Exact) -> int:
    """Words that an image may add to a stack."""
    return exact.config.height * exact.config.width + exact.D + 2


def _flag(own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Start and frequency, [2, lanes], of whether images drew their codes."""
    return np.where(own, [[0], [_USUAL]], [[_USUAL], [1]])


class _Code(NamedTuple):
    """What the images of a round take for z; rows of `eps` belong to those that drew it, of `numbers` to the others."""

    z: NDArray[np.float32]
    own: NDArray[np.bool_]
    eps: NDArray[np.float32]
    numbers: NDArray[np.int64]


def push_images(exact: Exact, images: Tensor, report: Report) -> Coders:
    """Stacks of images [N, 1, H, W]."""
    coders = Coders(lanes_of(len(images)))
    first = np.full(len(coders), -1)  # images of each lane, once it is known
    moments = exact.moments(images) if exact.D else ()
    for i, x in enumerate(images.split(len(coders))):
        coders.reserve(room(exact))
        lanes = coders.first(len(x))
        report(i * len(coders), len(images))
        if exact.D == 0:
            exact.push_pixels(lanes, x, exact.context(None, len(x)))
            continue
        code = _drawn(exact, lanes, [m[i * len(coders) :][: len(x)] for m in moments])
        exact.push_pixels(lanes, x, exact.context(code.z, len(x)))
        with lanes.part(code.own) as drawn, lanes.part(~code.own) as others:
            drawn.push_normal(code.eps, GRID)
            others.push_number(BOOK_BITS, code.numbers)
        begun = first[: len(x)]
        begun[(begun < 0) & (code.own | (i == MOST_FIRST))] = i
        with lanes.part(begun >= 0) as flagged:
            flagged.push(RARELY, *_flag(code.own[begun >= 0]))
    if exact.D:
        coders.reserve(1)
        coders.push_number(FIRST_BITS, np.where(first < 0, MOST_FIRST, first))
    report(len(images), len(images))
    return coders


def _drawn(exact: Exact, lanes: Coders, moments: list[NDArray[np.float32]]) -> _Code:
    """The codes of a round of images, drawn with what lies on their stacks where that is enough."""
    z = lanes.pop_normal(exact.D, GRID, moments)
    eps = exact.prior_of(z)
    own = (np.abs(eps) <= FARTHEST).all(1) & (lanes.words > 0)
    with lanes.part(~own) as others:
        others.push_normal(z[~own], GRID, [m[~own] for m in moments])
    numbers = np.empty(0, np.int64)
    if not own.all():
        numbers = likeliest(*exact.book, *(m[~own] for m in moments))
        z[~own] = exact.book[0][numbers]
    return _Code(z, own, eps[own], numbers)


def pop_images(exact: Exact, coders: Coders, count: int, report: Report) -> Tensor:
    """The images that `push_images` was given; the coders end as they began, empty, unless something was damaged."""
    rounds: list[Tensor] = []
    first = coders.pop_number(FIRST_BITS) if exact.D else np.empty(0)
    for i in reversed(range(-(-count // len(coders)))):
        coders.reserve(room(exact))
        lanes = coders.first(min(len(coders), count - i * len(coders)))
        report(max(0, count - (i + 1) * len(coders)), count)
        if exact.D == 0:
            rounds.append(exact.pop_pixels(lanes, exact.context(None, len(lanes))))
            continue
        begun = first[: len(lanes)] <= i
        own: Any = np.zeros(len(lanes), bool)
        with lanes.part(begun) as flagged:
            own[begun] = drew = flagged.slots(RARELY) < _USUAL
            flagged.pop(RARELY, *_flag(drew))
        z = np.empty((len(lanes), exact.D), np.float32)
        with lanes.part(own) as drawn, lanes.part(~own) as others:
            z[own] = exact.code_of(drawn.pop_normal(exact.D, GRID))
            z[~own] = exact.listed(others.pop_number(BOOK_BITS))[0]
        x = exact.pop_pixels(lanes, exact.context(z, len(z)))
        rounds.append(x)
        with lanes.part(own) as drawn:
            drawn.push_normal(z[own], GRID, exact.moments(x[torch.from_numpy(own)]))
    report(count, count)
    return torch.cat(rounds[::-1])
