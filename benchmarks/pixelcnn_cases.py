"""Random PixelCNNs: tied mask-B layers, a residual block each, with a 1x1 block in the first gaps (wiring R1)."""

import torch
from torch import Tensor

from vlae_fast import PixelCNNParams, PixelCNNSpec

SPEC = PixelCNNSpec()
MAPS, BLOCKS = 4, 4
"""Context maps, 1x1 blocks."""
BASE = {"N": 16, "image": 28, "channels": 12, "layers": 5}
AXES = {
    "N": (1, 16, 64, 256, 1024),
    "image": (28, 64, 128, 256),
    "channels": (12, 24, 48),
    "layers": (5, 10, 20),  # the window: a pixel sees layers + 1 rows up and columns to the left
}


def network(channels: int, layers: int) -> PixelCNNParams:
    C, L = channels, layers

    def draw(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape) / (fan * L) ** 0.5

    return PixelCNNParams(
        draw(C, 1, 3, 3, fan=4), draw(C, MAPS, 3, 3, fan=9 * MAPS), draw(C, fan=4),
        draw(1, C, C, 3, 3, fan=5 * C), torch.rand(L, C) + 0.5, draw(L, C, fan=4),
        draw(BLOCKS, 2, C, C, fan=C), draw(BLOCKS, 2, C, fan=4), draw(C, fan=C), draw(1, fan=1),
    )  # fmt: skip


def context(N: int, image: int) -> Tensor:
    return torch.randn(N, MAPS, image, image)
