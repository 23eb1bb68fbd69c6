"""Kernel and launcher share one layout of the scratch memory: a change of it reaches both."""

import pytest
import torch
import triton
import triton.language as tl
from bodies import TRITON, every
from op_cases import stack_tensors

from vlae_fast import PixelCNNSpec
from vlae_fast.kernels import pixelcnn, pixelcnn_sample

pytestmark = pytest.mark.skipif(TRITON != "interpreter", reason="a compiled kernel stays as it is")
SIZES = dict(C=3, K=2, L=4, P=2)


def floats_of(body):
    return max(size for _, size in body.around)


@every(TRITON)
def test_planes_that_lie_further_apart(body, monkeypatch):
    (x, context, params), wiring = stack_tensors(2, 5, 6, SIZES, PixelCNNSpec(0.5, 2))
    x, context, params = body.put((x, context, params))
    dy = body.put(torch.randn(x.shape))

    def run():
        values = body.pixelcnn_logits(x, context, params, *wiring)
        return [values, *body.pixelcnn_logits_backward(dy, x, context, params, *wiring)]

    def wider(*arguments):
        found = layout(*arguments)
        planes = found.floats // found.plane + 1
        apart = SIZES["C"] * (found.plane + 32)
        return found._replace(
            plane=found.plane + 32,
            set_stride=apart if found.set_stride else 0,
            floats=found.floats + 32 * planes,
        )

    layout, expected, before = pixelcnn.layout, run(), floats_of(body)
    monkeypatch.setattr(pixelcnn, "layout", wider)
    assert all(map(torch.equal, run(), expected))
    assert floats_of(body) > before


@triton.jit
def roomier(ring_rows, window, STRIDE: tl.constexpr, LANES: tl.constexpr):
    """`scratch_floats` and 64 more."""
    return (ring_rows + (window + 4) * STRIDE) * LANES + 64


@every(TRITON)
def test_a_samplers_programs_that_lie_further_apart(body, monkeypatch):
    (_, context, params), wiring = stack_tensors(3, 3, 4, SIZES, PixelCNNSpec(0.5, 2))
    context, params, uniforms = body.put((context, params, torch.rand(3, 3, 4)))

    def run():
        return body.pixelcnn_sample(context, params, uniforms, *wiring, 1.0, None)

    expected, before = run(), floats_of(body)
    monkeypatch.setattr(pixelcnn_sample, "scratch_floats", roomier)
    assert torch.equal(run(), expected)
    assert floats_of(body) > before
