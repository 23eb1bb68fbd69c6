"""Evaluation: bound, KL, importance-sampled likelihood and use of the latent code, means with their standard errors."""

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import checkpoint, latent, noise
from vlae_fast.checks import function, instance, path, whole
from vlae_fast.data import Split
from vlae_fast.distributed import ALONE, World
from vlae_fast.model import VLAE
from vlae_fast.portable import log_mean_exp
from vlae_fast.report import Report, silent
from vlae_fast.rounds import Kept, filled

__all__ = ["Evaluation", "Mean", "evaluate"]

IMAGES = 16
"""Images that a process evaluates at once, at most."""
CODES = 65_536
"""Codes that it scores meanwhile, unless one image has more: what is lost where it is cut short."""


@dataclass(frozen=True)
class Mean:
    """A mean over images with its standard error, None for a single image."""

    mean: float
    """In the unit of the values."""
    standard_error: float | None
    """Of the mean, in the same unit."""

    @classmethod
    def of(cls, values: Tensor) -> "Mean":
        """Of [N] numbers."""
        N = len(values)
        return cls(values.mean().item(), values.std().item() / math.sqrt(N) if N > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.3f}" + ("" if self.standard_error is None else f" +- {self.standard_error:.3f}")


@dataclass(frozen=True)
class Evaluation:
    """Test figures of a model, nats an image unless said otherwise; None where the model has no latent code."""

    images: int
    """Images evaluated."""
    samples: int
    """Importance samples of an image."""
    seed: int
    """Of the subset and of the noise."""
    negative_elbo_nats: Mean
    """The variational bound, one sample of z in expectation."""
    nll_nats: Mean
    """-log p(x), importance sampled (Burda et al. 2016): an upper bound in expectation, tighter with more samples."""
    image_nll_nats: Tensor = field(repr=False, compare=False)
    """The NLL of each image, float64 [images]."""
    reconstruction_nats: Mean | None = None
    """-log p(x|z)."""
    kl_nats: Mean | None = None
    """log q(z|x) - log p(z) under q."""
    kl_bits: Mean | None = None
    """The same in bits."""
    effective_sample_size: Mean | None = None
    """(sum w)^2 / sum w^2 of the importance weights w of an image, as a share of the samples: 1 is the best."""
    latent_size: int | None = None
    """Dimensions of z."""
    active_units: int | None = None
    """Dimensions of z whose posterior mean varies over these images; None for an IAF posterior or one image too."""
    mutual_information_nats: float | None = None
    """I(x; z), an estimate that cannot exceed log(images); None for an IAF posterior or one image too."""
    warning: str | None = None
    """Set where the latent code is not used."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the figures of single images."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "image_nll_nats"}
        return {k: asdict(v) if isinstance(v, Mean) else v for k, v in values.items()}

    def minus(self, other: "Evaluation") -> Mean:
        """Paired difference of the NLL in nats: below 0 where this model is the better one.

        Raises TypeError for no evaluation, ValueError for one of another number of images, samples or seed.
        """
        mine, theirs = ((e.images, e.samples, e.seed) for e in (self, instance("other", other, Evaluation)))
        if mine != theirs:
            raise ValueError(f"other: images, samples and seed {mine} wanted, got {theirs}")
        return Mean.of(self.image_nll_nats - other.image_nll_nats)

    def __str__(self) -> str:
        lines = [
            f"images                  {self.images} (seed {self.seed})",
            f"importance samples      {self.samples} an image",
            f"NLL                     {self.nll_nats} nats",
            f"negative ELBO           {self.negative_elbo_nats} nats",
        ]
        if self.latent_size is None:
            return "\n".join([*lines, "latent code             none: the NLL is exact"])
        lines += [
            f"reconstruction          {self.reconstruction_nats} nats",
            f"KL                      {self.kl_nats} nats = {self.kl_bits} bits",
            f"effective sample size   {self.effective_sample_size} of 1",
        ]
        if self.active_units is None:
            reason = latent.IAF_REASON if self.images > 1 else latent.SINGLE_REASON
            lines.append(f"active units            not known: {reason}")
        else:
            lines += [
                f"active units            {self.active_units} of {self.latent_size}",
                f"mutual information      {self.mutual_information_nats:.3f} nats "
                f"(estimate, at most log {self.images} = {math.log(self.images):.3f})",
            ]
        return "\n".join(lines if self.warning is None else [*lines, f"WARNING                 {self.warning}"])


def evaluate(
    model: VLAE,
    split: Split,
    *,
    samples: int = 4096,
    subset: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    report: Report = silent,
    world: World = ALONE,
) -> Evaluation:
    """Evaluates a model on all images of a split, or on `subset` of them drawn at random with `seed`.

    The figures of single images are kept in `folder` (evaluation-<hash>.safetensors): there an evaluation of the same
    weights, images, samples and seed that was cut short goes on, and ends with the same figures.
    `report(done, total)` is called now and then. The processes of a `world` share the images; each returns the same.
    Raises TypeError for no model and no split, TypeError or ValueError for a subset or samples that are no whole number
    from 1 on.
    """
    instance("model", model, VLAE), instance("split", split, Split), instance("world", world, World)
    function("report", report)
    samples, seed = whole("samples", samples, 1, 2**31), whole("seed", seed)
    subset = len(split) if subset is None else whole("subset", subset, 1)
    chosen = np.arange(len(split))
    if subset < len(split):
        chosen = np.sort(noise.permutation(seed, 0, len(split))[:subset])
    images = split.fixed()[torch.from_numpy(chosen)].to(next(model.parameters()))
    scores = _scores(model, images, samples, seed, None if folder is None else path("folder", folder), report, world)
    reconstruction, kl, nll, ess = scores.unbind(1)
    found: dict[str, Any] = {}
    if model.encoder is not None:
        found = {
            "reconstruction_nats": Mean.of(reconstruction),
            "kl_nats": Mean.of(kl),
            "kl_bits": Mean.of(kl / math.log(2)),
            "effective_sample_size": Mean.of(ess),
            "latent_size": model.config.latent_size,
        }
        gaussian = latent.moments(model, images) if len(images) > 1 else None
        if gaussian is not None:
            found["active_units"] = latent.active_units(gaussian[0])
            found["mutual_information_nats"] = latent.mutual_information_nats(*gaussian, seed)
        found["warning"] = latent.collapse(kl, found.get("active_units"))
    return Evaluation(
        images=len(images),
        samples=samples,
        seed=seed,
        negative_elbo_nats=Mean.of(reconstruction + kl),
        nll_nats=Mean.of(nll),
        image_nll_nats=nll,
        **found,
    )


class _Callable(ModuleType):
    """`vlae_fast.evaluate(model, split)` is short for `vlae_fast.evaluate.evaluate(model, split)`."""

    __call__ = staticmethod(evaluate)


sys.modules[__name__].__class__ = _Callable


def expected_seconds(model: VLAE, split: Split, images: int, samples: int) -> float:
    """About how long an evaluation of so many images takes here, from a try on a few."""
    few, tried = split.fixed(0, min(4, len(split))).to(next(model.parameters())), min(16, samples)
    model.sampled_bounds(few[:1], 1)  # the first call is slower
    start = time.monotonic()
    model.sampled_bounds(few, tried)
    seconds = (time.monotonic() - start) * images / len(few)
    return seconds if model.encoder is None else seconds * samples / tried


# --- figures of single images ---------------------------------------------------------------------------------------


def _scores(
    model: VLAE,
    images: Tensor,
    samples: int,
    seed: int,
    folder: Path | None,
    report: Report,
    world: World,
) -> Tensor:
    """-log p(x|z), KL and NLL in nats, and normalised effective sample size of each image: float64 [N, 4]."""
    key = _key(model, images, samples, seed)
    world.check_same("model, images and options", key)

    def compute(first: int, count: int) -> Tensor:
        return _score(*model.sampled_bounds(images[first : first + count], samples, seed=seed, first=first))

    scores = torch.zeros(len(images), 4, dtype=torch.float64, device="cpu")
    kept = Kept(None if folder is None else folder / f"evaluation-{key}.safetensors", "scores")
    filled(scores, min(IMAGES, max(1, CODES // samples)), compute, world=world, kept=kept, report=report)
    return scores


def _score(reconstruction: Tensor, kl: Tensor) -> Tensor:
    """The figures [N, 4] of log p(x|z) and KL [N, samples]."""
    log_weights = reconstruction - kl
    mean_weight = log_mean_exp(log_weights)
    return torch.stack(
        [
            -reconstruction.mean(1),
            kl.mean(1),
            -mean_weight,
            (2 * mean_weight - log_mean_exp(2 * log_weights)).exp(),
        ],
        1,
    )


def _key(model: VLAE, images: Tensor, samples: int, seed: int) -> str:
    """Names all that the figures depend on."""
    options = {"config": asdict(model.config), "samples": samples, "seed": seed}
    tensors = {**model.state_dict(), "images": images.bool()}
    return checkpoint.digest(tensors, {"options": json.dumps(options, sort_keys=True)})[:16]
