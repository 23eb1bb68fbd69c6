"""Launch of kernels/pixelcnn_sample.py."""

from functools import lru_cache

import torch
from torch import Tensor

from vlae_fast import operands
from vlae_fast.gpu.launch import cdiv, kernels_of


@lru_cache(maxsize=64)
def _stages(device: torch.device, layers: int, block_convs: int, pointwise_after: tuple[int, ...]) -> Tensor:
    """The convolutions in the order in which a pixel runs through them, as `pixelcnn_sample_kernel` wants them."""
    stages = []
    for layer in range(layers):
        closes = (layer + 1) % block_convs == 0
        stages.append((int(closes), layer))
        for block in (p for p, position in enumerate(pointwise_after) if closes and position == layer // block_convs):
            stages += [(2, 2 * block), (3, 2 * block + 1)]
    return torch.tensor(stages, dtype=torch.int32, device=device).view(-1, 2)


def pixelcnn_sample(
    context: Tensor,
    params: list[Tensor],
    uniforms: Tensor,
    residual_scale: float,
    block_convs: int,
    pointwise_after: list[int],
    visible_stride: int,
    temperature: float,
    given: Tensor | None,
) -> Tensor:
    """See `reference.pixelcnn_sample`."""
    images = {"context": context, "uniforms": uniforms, "given": given}
    sizes = operands.pixelcnn(None, params, images, block_convs, pointwise_after, visible_stride)
    N, H, W, C, K, L, _, S = sizes
    kernels = kernels_of("pixelcnn_sample", uniforms)
    x = uniforms.new_empty(N, 1, H, W)
    if x.numel() == 0:
        return x
    image_weight, context_weight, input_bias, hidden_weight, gain, bias, pointwise_weight, *rest = params
    tile = [tile for tile in kernels.TILES if tile.least_batch <= N][-1]
    R = tile.rows(H, W)
    T = max(W + 1, 2 * R)
    constants, options = tile.launch(C, K, R)
    depth, window = T - 2 * R + 4, 2 * R + W
    steps = (H - 1) // R * T + (H - 1) % R * 2 + W
    ring_rows = depth * (L * C + 1)
    floats = (ring_rows + (window + 4) * C) * constants["LANES"] + constants["BLOCK_C"] * constants["PIXELS"]
    programs = min(cdiv(N, tile.images), kernels.MOST_PROGRAMS)
    stages = _stages(uniforms.device, L, block_convs, tuple(pointwise_after))
    rows = (9, 9 * K, 9 * S * C, 2 * len(pointwise_weight) * C)
    packed = uniforms.new_empty(sum(rows), cdiv(C, constants["BLOCK_C"]) * constants["BLOCK_C"])
    for part, weight in zip(
        packed.split(rows),
        (
            image_weight.permute(1, 2, 3, 0),
            context_weight.permute(2, 3, 1, 0),
            hidden_weight.permute(0, 3, 4, 2, 1),
            pointwise_weight.transpose(2, 3),
        ),
        strict=True,
    ):
        part.view(*weight.shape[:-1], packed.shape[1])[..., :C] = weight
    with torch.cuda.device_of(uniforms):
        kernels.pixelcnn_sample_kernel[(programs,)](
            context, uniforms, given, x, uniforms.new_empty(programs, floats), stages, packed,
            input_bias, gain, bias, *rest, residual_scale, temperature,
            N, H, W, L, len(stages), 0 if S == 1 else 9 * C, sum(rows[:3]), visible_stride,
            R, T, depth, window, steps, ring_rows, programs,
            **constants, **options,
        )  # fmt: skip
    return x
