"""Missing pixels given others, by Markov chain: p(missing | given) of a model p(z) p(x|z) that is drawn pixel by pixel.

Keeping pixels while the others are drawn in raster order does not do it: a kept pixel has no say in what stands before
it, nor in the code z. A Metropolis-Hastings step mends that. It moves the noise eps of the code, in a way that leaves
the prior as it is (Cotter et al. 2013, arXiv:1202.0709: "pCN"), and draws missing pixels anew with the new code. As
those come from p(x|z) themselves, the step is accepted by the ratio of the probabilities of all other pixels.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DECISIONS", "START_ROUNDS", "Noises", "State", "metropolis"]

DECISIONS = 5
"""Uniforms that a step takes for each image beside those of its pixels."""


START_ROUNDS = 20
"""Of code from image and image from code, as a chain begins: near to what is probable, but not with its chances."""


class State(NamedTuple):
    """Where the chain of each image stands."""

    eps: Tensor
    """Standard normal noise of the code under the prior, [N, D]; D = 0 without a code."""
    images: Tensor
    """[N, 1, H, W]."""
    log_prob: Tensor
    """Of each pixel given the code and the pixels before it, nats, [N, H, W]."""


class Noises(NamedTuple):
    """What a step is drawn from."""

    normals: Tensor
    """[N, D]."""
    uniforms: Tensor
    """Of the pixels, in [0, 1), [N, H, W]."""
    decisions: Tensor
    """In [0, 1), [N, DECISIONS]."""


Propose = Callable[[Tensor, Tensor, Tensor], State]
"""The state of this eps [N, D]; with uniforms [N, H, W] it draws the pixels that are -1 in the int8 [N, H, W]."""


def metropolis(state: State, given: Tensor, noises: Iterable[Noises], propose: Propose) -> State:
    """The state after a step for each of `noises`, which leaves p(eps, missing pixels | given pixels) as it is.

    given [N, H, W] int8 is 0 or 1 where a pixel is kept, -1 where it is missing. The images of a batch know nothing of
    each other.
    """
    row = torch.arange(given.shape[1], device=given.device)
    D = max(1, state.eps.shape[1])
    for normals, uniforms, decisions in noises:
        size, whole, top, bottom, luck = decisions.unbind(1)
        # How far eps moves is drawn anew each time: from all the way down to 1/D of it.
        step = (D**-size)[:, None]
        eps = (1 - step**2).sqrt() * state.eps + step * normals
        # Half of the steps draw all missing pixels, the others those of a band of rows.
        first, last = (torch.stack([top, bottom]) * len(row)).long().sort(0).values[..., None]
        rows = (whole < 0.5)[:, None] | ((first <= row) & (row <= last))
        drawn = rows[:, :, None] & (given < 0)
        kept = state.images[:, 0].to(torch.int8).masked_fill(drawn, -1)
        proposed = propose(eps, uniforms, kept)
        ratio = (proposed.log_prob - state.log_prob).masked_fill(drawn, 0.0).sum((1, 2))
        accepted = luck.log() < ratio
        pairs = zip(proposed, state, strict=True)
        state = State(*(torch.where(accepted.view(-1, *[1] * (new.dim() - 1)), new, old) for new, old in pairs))
    return state
