"""CUDA bodies of the operators: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

`vlae_fast.ops` registers the functions of this module under their names, with the same arguments as those of
`native.py`. No function here synchronises with the host: values on a GPU are not checked.
"""

from functools import lru_cache

import torch
import triton
from torch import Tensor

from vlae_fast.kernels.pixelcnn_sample import BLOCK_C, TILES, pixelcnn_sample_kernel

__all__ = ["pixelcnn_sample"]

# --- Drawing from a PixelCNN --------------------------------------------------------------------------------------


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
    N, H, W = uniforms.shape
    C, K = params[1].shape[:2]
    L, S = len(params[4]), len(params[3])
    x = uniforms.new_empty(N, 1, H, W)
    if x.numel() == 0:
        return x
    image_weight, context_weight, input_bias, hidden_weight, gain, bias, pointwise_weight, *rest = params
    tile = [tile for tile in TILES if tile.least_batch <= N][-1]
    R = min(H, (W + 2) // 2, tile.most_rows)
    T = max(W + 1, 2 * R)
    lanes = max(16, tile.images * triton.next_power_of_2(R))
    programs = min(triton.cdiv(N, tile.images), 2048)
    scratch = uniforms.new_empty(programs, (T - 2 * R + 4) * (L * C + 1) + 4 * C + BLOCK_C, lanes)
    stages = _stages(uniforms.device, L, block_convs, tuple(pointwise_after))
    pixelcnn_sample_kernel[(programs,)](
        context, uniforms, given, x, scratch, stages,
        image_weight.permute(1, 2, 3, 0).contiguous(),
        context_weight.permute(1, 2, 3, 0).contiguous(),
        input_bias,
        hidden_weight.permute(0, 3, 4, 2, 1).contiguous(),
        gain,
        bias,
        pointwise_weight.transpose(2, 3).contiguous(),
        *rest,
        residual_scale, temperature, N, H, W, K, L, len(stages), 0 if S == 1 else 9 * C * C, visible_stride, R, T,
        C=C, BLOCK_C=BLOCK_C, IMAGES=tile.images, LANES=lanes, num_warps=lanes // tile.lanes_a_warp,
    )  # fmt: skip
    return x
