"""What a training minimises: the negative bound with free bits."""

from torch import Tensor

from vlae_fast.config import TrainConfig
from vlae_fast.model import Bound

__all__ = ["free_bits_loss"]


def free_bits_loss(bound: Bound, config: TrainConfig, pixels: int, kl_weight: float) -> tuple[Tensor, float]:
    """Negative bound in nats with free bits, and the weight of the KL at the next step.

    What the optimiser sees, never what is reported. `pixels` are those of an image.
    """
    free = config.free_bits_nats_per_pixel * pixels
    if config.free_bits == "soft":  # Chen et al. 2017, appendix C
        kl, following = bound.kl.mean(), kl_weight
        if kl.item() > 1.05 * free:
            following = min(1.0, 1.1 * kl_weight)
        elif kl.item() < free:
            following = kl_weight / 1.1
        return kl_weight * kl - bound.reconstruction.mean(), following
    # Kingma et al. 2016, eq. 15: the mean over the batch stands inside the maximum.
    groups = bound.kl.mean()[None] if config.free_bits_groups == "all" else bound.kl_dimensions.mean(0)
    return groups.clamp_min(free / len(groups)).sum() - bound.reconstruction.mean(), kl_weight
