"""The compiled CPU body of the weight normalisation against the float64 reference."""

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from vlae_fast import _native, masks, native, reference


def arguments(R: int, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dw, v, g, live; the first row has no live entry, the last has all."""
    live = torch.randint(0, n + 1, (R,))
    live[:1], live[1:][-1:] = 0, n
    return torch.randn(R, n), torch.randn(R, n), torch.randn(R), live


@pytest.mark.parametrize("R", [0, 1, 2, 37])
@pytest.mark.parametrize("n", [0, 2, 3, 16, 63, 64, 65, 133, 640])
def test_equals_reference(R: int, n: int) -> None:
    dw, v, g, live = arguments(R, n)
    exact = v.double().requires_grad_(), g.double().requires_grad_()
    expected = reference.weight_norm(*exact, live)
    assert_close(native.weight_norm(v, g, live), expected)
    gradients = torch.autograd.grad(expected, exact, dw.double())
    for actual, gradient in zip(native.weight_norm_backward(dw, v, g, live), gradients, strict=True):
        assert_close(actual, gradient, "gradient")


def test_forbidden_entries_are_ignored() -> None:
    dw, v, g, live = arguments(20, 50)
    spoiled = torch.where(torch.arange(50) < live[:, None], v, torch.nan)
    assert torch.equal(native.weight_norm(spoiled, g, live), native.weight_norm(v, g, live))
    gradients = zip(
        native.weight_norm_backward(dw, spoiled, g, live), native.weight_norm_backward(dw, v, g, live), strict=True
    )
    assert all(torch.equal(actual, expected) for actual, expected in gradients)


@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-30])
def test_vanishing_rows_and_their_gradients_are_zero(size: float) -> None:
    dw, v, g, live = arguments(3, 20)
    v = v * size
    for body in (native, reference):
        assert not body.weight_norm(v, g, live).any()
    assert not any(gradient.any() for gradient in native.weight_norm_backward(dw, v, g, live))
    leaves = v.requires_grad_(), g.requires_grad_()
    gradients = torch.autograd.grad(reference.weight_norm(*leaves, live), leaves, dw)
    assert not any(gradient.any() for gradient in gradients)


def test_same_bits_for_any_number_of_threads_and_rows() -> None:
    dw, v, g, live = arguments(700, 640)

    def run(rows: slice) -> list[Tensor]:
        inputs = v[rows], g[rows], live[rows]
        return [native.weight_norm(*inputs), *native.weight_norm_backward(dw[rows], *inputs)]

    whole, before = run(slice(None)), torch.get_num_threads()
    assert all(map(torch.equal, run(slice(3, 20)), (t[3:20] for t in whole)))
    try:
        for threads in (2, 3):
            torch.set_num_threads(threads)
            assert all(map(torch.equal, run(slice(None)), whole))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("R", [0, 1, 5])
def test_every_element_of_the_outputs_is_written(R: int) -> None:
    dw, v, g, live = arguments(R, 37)
    w, dv, dg = torch.full((R, 37), torch.nan), torch.full((R, 37), torch.nan), torch.full((R,), torch.nan)
    inputs = tuple(t.data_ptr() for t in (v, g, live))
    _native.weight_norm(R, 37, *inputs, 1, w.data_ptr())
    _native.weight_norm_backward(R, 37, dw.data_ptr(), *inputs, 1, dv.data_ptr(), dg.data_ptr())
    assert all(t.isfinite().all() for t in (w, dv, dg))


@pytest.mark.parametrize("degrees", [[0, 0, 1, 3, 3, 4], [2] * 6, []])
def test_live_counts_are_the_masks_of_a_made(degrees: list[int]) -> None:
    sorted_degrees = torch.tensor(degrees, dtype=torch.int64)
    live = masks.made_live(sorted_degrees, 5)
    for mask, count in zip(masks.made_masks(sorted_degrees, 5, like=torch.ones(())), live, strict=True):
        assert torch.equal(mask, (torch.arange(mask.shape[1]) < count[:, None]).float())
