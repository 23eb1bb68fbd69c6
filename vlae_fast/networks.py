"""The networks around the code z: from an image to q(z|x), and from z to what the PixelCNN is told."""

import math

from torch import Tensor, nn

from vlae_fast.config import VLAEConfig
from vlae_fast.layers import Layer, Linear, ResNet, ResNetBlock, Weights, plain_weights

__all__ = ["Decoder", "Encoder", "images_at_once"]

CHUNK = 256
"""Images drawn or scored at once at most ..."""
CHUNK_BYTES = 2**28
"""... and about how many bytes their feature maps may take."""


class Encoder(nn.Module):
    """Halving ResNet blocks with a plain block in every gap, then a dense layer (Kingma et al. 2016, app. B)."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        blocks: list[ResNetBlock] = []
        inputs = 1
        for i, outputs in enumerate(config.encoder_channels):
            if i > 0:
                blocks.append(ResNetBlock(inputs, inputs))
            blocks.append(ResNetBlock(inputs, outputs, stride=2))
            inputs = outputs
        height, width = _sizes(config)[-1]
        self.blocks = ResNet(blocks)
        self.dense = Linear(inputs * height * width, config.dense_units)
        self.moments = Linear(config.dense_units, 2 * config.latent_size)
        self.flow_steps = config.flow_steps
        self.context = None
        if config.posterior == "iaf":
            self.context = Linear(config.dense_units, config.flow_steps * config.flow_hidden)

    def forward(self, x: Tensor, weights: Weights | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """x [N, 1, H, W] -> mean and log standard deviation of z [N, D], context of the flow [N, T, M] or None.

        weights: its `plain_weights`, where a caller has kept them.
        """
        weights = plain_weights(self) if weights is None else weights
        h = self.dense(self.blocks(x, weights).flatten(1), weights, pre_elu=True)
        mean, log_std = self.moments(h, weights, pre_elu=True).chunk(2, dim=1)
        context = None
        if self.context is not None:
            context = self.context(h, weights, pre_elu=True).unflatten(1, (self.flow_steps, -1))
        return mean, log_std, context


class Decoder(nn.Module):
    """The encoder's mirror: z [N, D] -> context maps [N, K, H, W], or logits [N, 1, H, W] if factorized."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        *ups, (height, width) = _sizes(config)
        channels = config.encoder_channels[::-1]
        self.shape = (channels[0], height, width)
        self.dense1 = Linear(config.latent_size, config.dense_units)
        self.dense2 = Linear(config.dense_units, math.prod(self.shape))
        blocks: list[ResNetBlock] = []
        for i, size in enumerate(reversed(ups)):
            outputs = channels[min(i + 1, len(channels) - 1)]
            blocks.append(ResNetBlock(channels[i], outputs, up_to=size))
            if i + 1 < len(channels):
                blocks.append(ResNetBlock(outputs, outputs))
        self.blocks = ResNet(blocks)
        self.output = Layer(config.context_maps if config.decoder == "pixelcnn" else 1, channels[-1], 3, 3)

    def forward(self, z: Tensor, weights: Weights | None = None) -> Tensor:
        """See the class; weights: its `plain_weights`, where a caller has kept them."""
        weights = plain_weights(self) if weights is None else weights
        h = self.dense2(self.dense1(z, weights), weights, pre_elu=True).unflatten(1, self.shape)
        maps: Tensor = self.blocks(h, weights, self.output)
        return maps


def images_at_once(config: VLAEConfig) -> int:
    """How many images to draw or score together, so that memory does not grow with their number and their size."""
    maps = max(config.pixelcnn_channels + config.context_maps, config.encoder_channels[0])  # of the size of the image
    alive = 4  # such sets of maps, float32, where no gradient is wanted
    return max(1, min(CHUNK, CHUNK_BYTES // (4 * alive * maps * config.height * config.width)))


def _sizes(config: VLAEConfig) -> list[tuple[int, int]]:
    """Rows and columns of the image, then after each halving."""
    sizes = [(config.height, config.width)]
    for _ in config.encoder_channels:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
