"""Drawing images: the native sampler, the best plain torch, and for one image the naive pass a pixel.

`pytest benchmarks/bench_pixelcnn_sample.py --benchmark-group-by=group`; compare within a group, one run at a time.
"""

import functools

import pytest
import torch
from contenders_pixelcnn import WavefrontSampler, sample_naive

from vlae_fast import native, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.reference import PixelCNNParams

R1 = (5, PixelCNNSpec())
R4 = (12, PixelCNNSpec(block_convs=2))
CASES = {
    "28x28-N1": (*R1, 1, 28, 28),
    "28x28-N16": (*R1, 16, 28, 28),
    "28x28-N256": (*R1, 256, 28, 28),
    "28x28-N16-R4": (*R4, 16, 28, 28),
    "256x256-N16": (*R1, 16, 256, 256),
}


def draw_arguments(L, N, H, W, C=12, K=4, P=4):
    def draw(*shape, fan):
        return torch.randn(*shape) / fan**0.5

    params = PixelCNNParams(
        draw(C, 1, 3, 3, fan=4), draw(C, K, 3, 3, fan=9 * K), draw(C, fan=4),
        draw(1, C, C, 3, 3, fan=5 * C), torch.rand(L, C) + 0.5, draw(L, C, fan=4),
        draw(P, 2, C, C, fan=C), draw(P, 2, C, fan=4), draw(C, fan=C), draw(1, fan=1),
    )  # fmt: skip
    return torch.randn(N, K, H, W), params, torch.rand(N, H, W)


def make_sampler(contender, params, spec):
    if contender == "native":
        after = spec.pointwise_positions(len(params.pointwise_weight), len(params.hidden_gain))
        wiring = (spec.residual_scale, spec.block_convs, list(after), spec.visible_stride)
        return lambda context, uniforms: native.pixelcnn_sample(context, list(params), uniforms, *wiring, 1.0, None)
    if contender == "torch_wavefront":
        return WavefrontSampler(params, spec)
    return functools.partial(sample_naive, params, spec)


def contenders():
    for case in CASES:
        for contender in ("native", "torch_wavefront", *(["naive"] if case == "28x28-N1" else [])):
            yield pytest.param(case, contender, id=f"{case}-{contender}")


@pytest.mark.parametrize(("case", "contender"), list(contenders()))
def test_pixelcnn_sample(benchmark, case, contender):
    torch.manual_seed(0)
    L, spec, N, H, W = CASES[case]
    context, params, uniforms = draw_arguments(L, N, H, W)
    benchmark.group = f"pixelcnn_sample {case}"
    benchmark.extra_info |= {"contender": contender, "images": N, "pixels": N * H * W}
    x = benchmark(make_sampler(contender, params, spec), context, uniforms)
    p = torch.sigmoid(reference.pixelcnn_logits(x, context, params, spec))[:, 0]
    differs = x[:, 0] != (uniforms < p).float()
    assert not (differs & ((uniforms - p).abs() > 1e-4)).any()
