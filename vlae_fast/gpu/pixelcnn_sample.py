"""Launch of kernels/pixelcnn_sample.py."""

import torch
from torch import Tensor

from vlae_fast import operands
from vlae_fast.gpu.launch import cdiv, check_counts, kernels_of


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
    N, H, W, C, K, L, P, S = sizes
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
    check_counts(
        images=2 * N,
        positions=max(2 * R * W * tile.images, 2 * (steps + T), K * H * W),
        scratch=floats,
    )
    programs = min(cdiv(N, tile.images), kernels.MOST_PROGRAMS)
    stages = torch.empty(L + 2 * P, 2, dtype=torch.int32, device=uniforms.device)
    rows = (9, 9 * K, 9 * S * C, 2 * P * C)
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
    check_counts(weights=packed.numel())
    with torch.cuda.device_of(uniforms):
        kernels.list_stages_kernel[(1,)](stages, L, BLOCK_CONVS=block_convs, AFTER=tuple(pointwise_after), num_warps=1)
        kernels.pixelcnn_sample_kernel[(programs,)](
            context, uniforms, given, x, uniforms.new_empty(programs, floats), stages, packed,
            input_bias, gain, bias, *rest, residual_scale, temperature,
            N, H, W, L, len(stages), 0 if S == 1 else 9 * C, sum(rows[:3]), visible_stride,
            R, T, depth, window, steps, ring_rows, programs,
            **constants, **options,
        )  # fmt: skip
    return x
