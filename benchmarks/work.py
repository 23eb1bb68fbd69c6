"""What an op cannot do without: live multiply-adds, and bytes that must be moved once. Its floor on a machine.

Taps and connections that a mask forbids do not count, neither do ELUs; weights, inputs and results move once.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vlae_fast import VLAE, masks, use_backend


class Work(NamedTuple):
    """Of one call."""

    multiply_adds: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(self.multiply_adds + other.multiply_adds, self.bytes + other.bytes)

    def floor_seconds(self, probes: Mapping[str, Any]) -> float:
        """The least time on the machine of these probes (probes.c), be it for arithmetic or for memory."""
        fits = [level for level in probes["bandwidth"] if level["bytes"] >= self.bytes] or probes["bandwidth"][-1:]
        bandwidth = 1e9 * max(fits[0]["read_gbs"], fits[0]["copy_gbs"])
        return max(2 * self.multiply_adds / (1e9 * probes["gflops"]), self.bytes / bandwidth)


def with_gradients(forward: Work) -> Work:
    """Forward and backward: twice the multiply-adds more; every tensor has a gradient that moves too."""
    return Work(3 * forward.multiply_adds, 2 * forward.bytes)


def masked_conv(N: int, image: int, channels: int) -> Work:
    """Mask B, with residual: x and the residual are read, y is written."""
    taps = 5 * channels * channels
    return Work(N * image * image * taps, 4 * (3 * N * image * image * channels + taps))


def pixelcnn(N: int, image: int, channels: int, layers: int, blocks: int = 4, maps: int = 4) -> Work:
    """Scoring or drawing: context and image move, activations need not."""
    C = channels
    weights = 4 * C + 9 * C * maps + layers * 5 * C * C + blocks * 2 * C * C + C
    return Work(N * image * image * weights, 4 * (N * image * image * (maps + 1) + weights))


def made(N: int, degrees: Tensor, D: int, T: int) -> Work:
    """Either direction of a mean-only flow."""
    live = T * sum(int(mask.sum()) for mask in masks.made_masks(degrees, D, like=torch.ones(())))
    return Work(N * live, 4 * (2 * N * D + live))


def weight_norm(live: Tensor) -> Work:
    """Squares, their sum and the scaling; live entries are read and written."""
    entries = float(live.sum())
    return Work(2 * entries, 8 * entries)


def vlae(model: VLAE, N: int, encoded: int | None = None) -> Work:
    """The bound of N codes of `encoded` images (default N); 0: drawing, where the encoder does not run."""
    c, encoded = model.config, N if encoded is None else encoded
    work = pixelcnn(N, c.height, c.pixelcnn_channels, c.pixelcnn_layers, c.pointwise_blocks, c.context_maps)
    work += made(N, masks.made_degrees(c.latent_size, c.flow_hidden), c.latent_size, c.flow_steps)
    for network, inputs, count in (
        (model.encoder, torch.zeros(1, 1, c.height, c.width), encoded),
        (model.decoder, torch.zeros(1, c.latent_size), N),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), use_backend("reference"):
            network(inputs)
        weights = sum(p.numel() for p in network.parameters()) if count else 0
        work += Work(count * counter.get_total_flops() / 2, 4 * weights)
    return work


def training(model: VLAE, N: int) -> Work:
    """Bound, gradients and a step of Adamax, which reads and writes every weight and its two moments."""
    arithmetic = with_gradients(vlae(model, N))
    return arithmetic + Work(0, 4 * 6 * sum(p.numel() for p in model.parameters()))
