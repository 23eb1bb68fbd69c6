"""Evaluation: the bound, the KL and the importance-sampled likelihood of a split, each with its standard error."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import noise
from vlae_fast.data import Split
from vlae_fast.model import VLAE

__all__ = ["Evaluation", "Mean", "evaluate"]

IMAGES = 16
"""Images between two reports of progress."""


@dataclass(frozen=True)
class Mean:
    """A mean over images with its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """Of [N] numbers; the error of a single one is NaN."""
        return cls(values.mean().item(), values.std().item() / math.sqrt(len(values)))

    def __str__(self) -> str:
        return f"{self.mean:.3f} +- {self.standard_error:.3f}"


@dataclass(frozen=True)
class Evaluation:
    """Test figures of a model, nats an image unless said otherwise."""

    images: int
    samples: int
    seed: int
    negative_elbo_nats: Mean
    reconstruction_nats: Mean
    """-log p(x|z)."""
    kl_nats: Mean
    kl_bits: Mean
    nll_nats: Mean
    """-log p(x), importance sampled (Burda et al. 2016): an upper bound in expectation, tighter with more samples."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return "\n".join(
            [
                f"images                  {self.images} (seed {self.seed})",
                f"importance samples      {self.samples} an image",
                f"NLL                     {self.nll_nats} nats",
                f"negative ELBO           {self.negative_elbo_nats} nats",
                f"reconstruction          {self.reconstruction_nats} nats",
                f"KL                      {self.kl_nats} nats = {self.kl_bits} bits",
            ]
        )


def evaluate(
    model: VLAE,
    split: Split,
    *,
    samples: int = 4096,
    subset: int | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluates a model on all images of a split, or on `subset` of them drawn at random with `seed`.

    `report(done, total)` is called now and then. Raises ValueError for a subset or samples below 1.
    """
    for name, value in (("samples", samples), ("subset", subset)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: >= 1 wanted, got {value}")
    chosen = np.arange(len(split))
    if subset is not None and subset < len(split):
        chosen = np.sort(noise.permutation(seed, 0, len(split))[:subset])
    images = split.fixed()[torch.from_numpy(chosen)]
    parts = []
    for first in range(0, len(images), IMAGES):
        part = images[first : first + IMAGES]
        parts.append(model.sampled_bounds(part, samples, seed=seed, first=first))
        report(first + len(part), len(images))
    reconstruction, kl = (torch.cat(column) for column in zip(*parts, strict=True))
    log_likelihood = (reconstruction - kl).logsumexp(1) - math.log(samples)
    return Evaluation(
        images=len(images),
        samples=samples,
        seed=seed,
        negative_elbo_nats=Mean.of((kl - reconstruction).mean(1)),
        reconstruction_nats=Mean.of(-reconstruction.mean(1)),
        kl_nats=Mean.of(kl.mean(1)),
        kl_bits=Mean.of(kl.mean(1) / math.log(2)),
        nll_nats=Mean.of(-log_likelihood),
    )
