"""Whether a model uses its latent code: active units, mutual information, and a word on posterior collapse."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Independent

from vlae_fast import noise
from vlae_fast.model import VLAE

__all__ = ["IAF_REASON", "SINGLE_REASON", "active_units", "collapse", "moments", "mutual_information_nats"]

ACTIVE_VARIANCE = 0.01
"""Variance of E_q[z_d] over images above which unit d is active (Burda et al. 2016, arXiv:1509.00519, section 5.2)."""
COLLAPSED_NATS = 0.1
"""Mean KL below which z says nothing worth the name about an image."""
IAF_REASON = "an IAF posterior has no closed form for E_q[z], and its density at another code takes an inversion"
SINGLE_REASON = "a single image does not show what varies"
_PAIRS = 2**22


@torch.no_grad()
def moments(model: VLAE, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation [N, D] of q(z|x) of images [N, 1, H, W]; None where it is not a Gaussian."""
    if model.encoder is None or model.posterior_flow is not None:
        return None
    posteriors = [model.encode(part) for part in images.split(model.chunk)]
    gaussians = [q.base_dist for q in posteriors if isinstance(q, Independent)]
    return torch.cat([q.mean for q in gaussians]), torch.cat([q.stddev for q in gaussians])


def active_units(mean: Tensor) -> int | None:
    """Units of z whose posterior mean [N, D] varies over images; None for a single image, which cannot tell."""
    return int((mean.var(0) > ACTIVE_VARIANCE).sum()) if len(mean) > 1 else None


def mutual_information_nats(mean: Tensor, std: Tensor, seed: int) -> float:
    """Estimate of I(x; z) = E[KL(q(z|x) || p(z))] - KL(q(z) || p(z)) in nats (Hoffman & Johnson 2016).

    q(z) is the mean of the Gaussian posteriors (mean and std [N, D]) of these N images, one code drawn from each. So it
    is at most log N, and too small where the truth comes near that.
    """
    N, D = mean.shape
    normals, _ = noise.normals_and_uniforms(seed, noise.POSTERIOR, 0, N, D)
    mean, std = mean.double(), std.double()
    z = mean + std * normals.to(mean)
    own = (-0.5 * ((z - mean) / std) ** 2 - std.log()).sum(1)
    total = sum(((own[rows] - densities.logsumexp(1)).sum().item()) for rows, densities in _log_densities(z, mean, std))
    return total / N + math.log(N)


def _log_densities(z: Tensor, mean: Tensor, std: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows i of codes, and log q(z_i | x_j) for all j, less the constant of the normal density."""
    precision = std**-2
    constant = -0.5 * (mean**2 * precision).sum(1) - std.log().sum(1)
    step = max(1, _PAIRS // len(mean))
    for first in range(0, len(z), step):
        rows = slice(first, first + step)
        yield rows, z[rows] @ (mean * precision).T - 0.5 * z[rows] ** 2 @ precision.T + constant


def collapse(kl_nats: Tensor, active: int | None) -> str | None:
    """A warning where the code is not used: the mean of the KL of images [N], or the number of active units, is 0.

    Said of the KL only where its mean is small by two standard errors, so never of a single image.
    """
    N, mean = len(kl_nats), kl_nats.mean().item()
    if N > 1 and mean + 2 * kl_nats.std().item() / math.sqrt(N) < COLLAPSED_NATS:
        return f"posterior collapse: KL {mean:.3f} nats an image; the decoder ignores the latent code"
    if active == 0:
        return "posterior collapse: no active unit; q(z|x) is the same for all images"
    return None
