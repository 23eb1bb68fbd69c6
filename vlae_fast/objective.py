"""What a training minimises: the negative bound with free bits."""

from torch import Tensor

from vlae_fast.bound import Bound
from vlae_fast.config import TrainConfig

__all__ = ["free_bits_loss"]


def free_bits_loss(mean: Bound, config: TrainConfig, pixels: int, kl_weight: float) -> tuple[Tensor, float]:
    """Negative bound in nats with free bits, and the weight of the KL at the next step.

    `mean` is the bound averaged over the whole batch, which may lie in several processes: [], [], [D]. What the
    optimiser sees, never what is reported. `pixels` are those of an image.
    """
    free = config.free_bits_nats_per_pixel * pixels
    if config.free_bits == "soft":  # Chen et al. 2017, appendix C
        following = kl_weight
        if mean.kl.item() > 1.05 * free:
            following = min(1.0, 1.1 * kl_weight)
        elif mean.kl.item() < free:
            following = kl_weight / 1.1
        return kl_weight * mean.kl - mean.reconstruction, following
    # Kingma et al. 2016, eq. 15: the mean over the batch stands inside the maximum.
    groups = mean.kl[None] if config.free_bits_groups == "all" else mean.kl_dimensions
    return groups.clamp_min(free / len(groups)).sum() - mean.reconstruction, kl_weight
