"""Triton kernels of masked_conv3x3, interpreted, against the float64 meaning on odd sizes; NaN around all memory."""

import pytest
import torch
from conftest import assert_close
from test_masked_conv_native import arguments
from triton_interpreter import poison  # noqa: F401 - a fixture

from vlae_fast import gpu, reference

# N, C, K, H, W; mask, pre_elu, gain, residual
CASES = [
    ((2, 12, 12, 5, 10), "B", True, True, True),
    ((1, 1, 1, 1, 1), "A", False, True, True),
    ((1, 1, 1, 1, 1), "B", True, False, False),
    ((3, 2, 3, 17, 23), "A", True, True, False),
    ((3, 3, 2, 16, 32), "B", False, False, True),
    ((2, 5, 14, 3, 4), "B", True, True, True),
    ((1, 33, 1, 5, 3), "A", False, True, False),
    ((1, 3, 5, 1, 300), "B", True, False, True),
    ((2, 2, 4, 300, 1), "A", True, True, True),
    ((257, 2, 1, 2, 3), "B", True, True, True),
    ((700, 1, 2, 1, 1), "A", True, True, True),
    ((0, 3, 4, 5, 6), "B", True, True, True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_reference(case, poison):  # noqa: F811
    shape, mask, pre_elu, gain, residual = case
    options = {"mask": mask, "pre_elu": pre_elu, "residual_scale": 0.7}
    tensors = arguments(*shape, gain, residual)
    leaves = [None if t is None else t.double().requires_grad_() for t in tensors]
    expected = reference.masked_conv3x3(*leaves[:3], gain=leaves[3], residual=leaves[4], **options)
    x, weight, bias, gain, residual = (poison.copy(t) for t in tensors)
    assert_close(gpu.masked_conv3x3(x, weight, bias, gain, residual, *options.values()), expected.detach())

    dy = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, [t for t in leaves[:4] if t is not None], dy.double())
    gradients = gpu.masked_conv3x3_backward(poison.copy(dy), x, weight, gain, *options.values())
    for actual, gradient in zip(gradients, wanted, strict=gain is not None):
        assert_close(actual, gradient, "gradient")
    forbidden = 4 if mask == "A" else 5
    assert (gradients[1].flatten(2)[..., forbidden:] == 0).all()
    poison.check()


def test_same_bits_for_any_batch():
    x, weight, bias, gain, residual = arguments(6, 3, 4, 9, 11)
    dy, mode = torch.randn(6, 4, 9, 11), ("B", True, 0.7)
    y = gpu.masked_conv3x3(x, weight, bias, gain, residual, *mode)
    dx, *_ = gpu.masked_conv3x3_backward(dy, x, weight, gain, *mode)
    part = slice(2, 5)
    assert torch.equal(gpu.masked_conv3x3(x[part], weight, bias, gain, residual[part], *mode), y[part])
    assert torch.equal(gpu.masked_conv3x3_backward(dy[part], x[part], weight, gain, *mode)[0], dx[part])
