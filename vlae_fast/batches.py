"""The images that each step of a training learns from, and its noise: both follow from (seed, step) alone."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import noise
from vlae_fast.config import TrainConfig
from vlae_fast.data import Split
from vlae_fast.distributed import World

__all__ = ["Batch", "Batches"]

RESIDENT_BYTES = 2**30
"""Training images that take no more live on the GPU."""
START = 2**63 - 1
"""The step whose noise draws the images of the beginning."""


class Batch(NamedTuple):
    """What one process takes of a step: n of its images."""

    images: Tensor
    """Binary, [n, 1, H, W]."""
    normals: Tensor
    """Noise of the codes, [n, D]."""
    size: int
    """Images of the step, over all processes."""


class Batches:
    """Images in an order that is drawn anew every epoch. Of every batch each process takes its share."""

    def __init__(self, split: Split, config: TrainConfig, latent_size: int, device: torch.device, world: World) -> None:
        self.split, self.seed, self.latent_size = split, config.seed, latent_size
        self.device, self.world = device, world
        self.size = min(config.batch_size, len(split))
        """Images of a step, the last one of an epoch excepted."""
        self.steps_per_epoch = -(-len(split) // self.size)
        """Steps that show every image once."""
        self.resident = self.pixels() if device.type != "cpu" else None
        """All images on the GPU, if they fit."""

    def pixels(self) -> Tensor | None:
        """All images on the device, or None where they would take more than RESIDENT_BYTES."""
        pixels = len(self.split) * self.split.height * self.split.width
        return self.split.probabilities(slice(None)).to(self.device) if 4 * pixels <= RESIDENT_BYTES else None

    def of_step(self, step: int) -> Batch:
        """This process's share of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = noise.permutation(self.seed, epoch, len(self.split))
        indices = order[position * self.size : (position + 1) * self.size]
        own = self.world.share(len(indices))
        D = self.latent_size
        normals, _ = noise.normals_and_uniforms(
            self.seed, noise.TRAINING, step, 1, (own.stop - own.start) * D, start=own.start * D
        )
        images = self._images(indices[own], step, self.size, own.start)
        return Batch(images, normals.view(-1, D).to(self.device), len(indices))

    def beginning(self, indices: NDArray[np.int64]) -> Tensor:
        """These images [n, 1, H, W] as they are before the first step, the same in every process."""
        return self._images(indices, START, max(self.size, len(indices)), 0)

    def _images(self, indices: NDArray[np.int64], step: int, size: int, first: int) -> Tensor:
        """Binary images; where they are drawn, by the uniforms of the places first.. of a step of `size` images."""
        if self.resident is None:
            chances = self.split.probabilities(indices).to(self.device)
        else:
            chances = self.resident[torch.tensor(indices, device=self.device)]
        if not self.split.dynamic:
            return chances
        pixels = self.split.height * self.split.width
        start = size * self.latent_size + first * pixels  # the normals come first
        _, uniforms = noise.normals_and_uniforms(
            self.seed, noise.TRAINING, step, 1, 0, len(indices) * pixels, start=start
        )
        return (uniforms.view(chances.shape).to(self.device) < chances).float()
