"""CPU bodies of masked_conv3x3 against the float64 meaning, on sizes off and on the fast path."""

import pytest
import torch
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae_fast import _native, native, reference

# N, C, K, H, W
SHAPES = [
    (3, 12, 12, 28, 28),
    (1, 1, 1, 1, 1),
    (33, 7, 16, 17, 23),
    (2, 20, 33, 29, 3),
    (1, 3, 5, 1, 300),
    (257, 2, 4, 5, 1),
    (0, 3, 4, 5, 6),
]


def arguments(N, C, K, H, W, gain=True, residual=True):
    """The tensors of a call, None for those that are left out: x, weight, bias, gain, residual."""
    x, weight, bias = torch.randn(N, C, H, W), torch.randn(K, C, 3, 3) / (5 * C) ** 0.5, torch.randn(K)
    return x, weight, bias, torch.rand(K) + 0.5 if gain else None, torch.randn(N, K, H, W) if residual else None


def check(tensors, mask: str, pre_elu: bool, scale: float) -> None:
    """Values and all gradients against autograd through the float64 reference."""
    leaves = [None if t is None else t.double().requires_grad_() for t in tensors]
    x, weight, bias, gain, residual = leaves
    fused = {"mask": mask, "pre_elu": pre_elu, "residual_scale": scale}
    expected = reference.masked_conv3x3(x, weight, bias, gain=gain, residual=residual, **fused)
    assert_close(native.masked_conv3x3(*tensors, mask, pre_elu, scale), expected.detach())

    dy = torch.randn_like(expected).float()
    wanted = torch.autograd.grad(expected, [t for t in (x, weight, bias, gain) if t is not None], dy.double())
    actual = native.masked_conv3x3_backward(dy, tensors[0], tensors[1], tensors[3], mask, pre_elu, scale)
    for gradient, reference_gradient in zip(actual, wanted, strict=False):
        assert_close(gradient, reference_gradient, "gradient")


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_reference(shape, fused, mask):
    check(arguments(*shape, gain=fused, residual=fused), mask, fused, 0.7 if fused else 1.0)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(*(st.integers(1, high) for high in (5, 26, 26, 12, 40))),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from("AB"),
)
def test_matches_reference_on_any_size(shape, gain, residual, pre_elu, mask):
    check(arguments(*shape, gain, residual), mask, pre_elu, 0.7)


def test_same_bits_for_any_batch_and_threads():
    x, weight, bias, gain, residual = arguments(17, 5, 6, 9, 8)
    dy, mode = torch.randn(17, 6, 9, 8), ("B", True, 0.7)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = native.masked_conv3x3(x, weight, bias, gain, residual, *mode)
        results.append((y, *native.masked_conv3x3_backward(dy, x, weight, gain, *mode)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for part in (slice(0, 1), slice(1, 7), slice(7, 17)):
        assert torch.equal(
            native.masked_conv3x3(x[part], weight, bias, gain, residual[part], *mode), results[0][0][part]
        )
        assert torch.equal(
            native.masked_conv3x3_backward(dy[part], x[part], weight, gain, *mode)[0], results[0][1][part]
        )


@pytest.mark.parametrize("shape", [(3, 5, 6, 9, 8), (0, 3, 4, 5, 6)])
def test_every_output_is_written(shape):
    N, C, K, H, W = shape
    x, weight, bias, gain, _ = arguments(*shape)
    y, *gradients = outputs = [
        torch.full_like(t, float("nan")) for t in (x.new_empty(N, K, H, W), x, weight, bias, gain)
    ]
    sizes, dy = (N, C, K, H, W, 5, True, 0.7), torch.randn(N, K, H, W)
    tensors = [t.data_ptr() for t in (x, weight, bias, gain)]
    _native.masked_conv3x3(sizes, *tensors, 0, 1, y.data_ptr())
    tensors = [t.data_ptr() for t in (dy, x, weight, gain)]
    _native.masked_conv3x3_backward(sizes, *tensors, 1, *(t.data_ptr() for t in gradients))
    assert all(torch.isfinite(t).all() for t in outputs)
