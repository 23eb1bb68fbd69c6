"""Every body of the weight normalisation against the float64 reference."""

import pytest
import torch
from bodies import ISAS, TRITON, every
from conftest import assert_close, with_threads

from vlae_fast import masks, ops, reference

BODIES = (*ISAS, TRITON)


def tensors(R, n):
    """dw, v, g, live; the first row has no live entry, the last has all."""
    live = torch.randint(0, n + 1, (R,))
    live[:1], live[1:][-1:] = 0, n
    return torch.randn(R, n), torch.randn(R, n), torch.randn(R), live


def check(body, dw, v, g, live):
    exact = v.double().requires_grad_(), g.double().requires_grad_()
    expected = reference.weight_norm(*exact, live)
    gradients = torch.autograd.grad(expected, exact, dw.double())
    dw, v, g, live = body.put((dw, v, g, live))
    assert_close(body.weight_norm(v, g, live), expected)
    for actual, gradient in zip(body.weight_norm_backward(dw, v, g, live), gradients, strict=True):
        assert_close(actual, gradient, "gradient")


@every(*BODIES)
@pytest.mark.parametrize("R", [0, 1, 2, 5, 37])
@pytest.mark.parametrize("n", [0, 2, 3, 16, 37, 63, 64, 65, 133, 640])
def test_equals_the_reference(body, R, n):
    check(body, *tensors(R, n))


@every(*BODIES)
def test_rows_whose_live_entries_are_all_zero(body):
    v, live = torch.randn(6, 9), torch.tensor([0, 9, 3, 8, 1, 5])
    v[5, :5] = 0
    check(body, torch.randn(6, 9), v, torch.randn(6), live)


@every(*BODIES)
def test_forbidden_entries_are_ignored(body):
    dw, v, g, live = body.put(tensors(20, 50))
    spoiled = torch.where(torch.arange(50, device=v.device) < live[:, None], v, torch.nan)
    assert torch.equal(body.weight_norm(spoiled, g, live), body.weight_norm(v, g, live))
    gradients = zip(
        body.weight_norm_backward(dw, spoiled, g, live), body.weight_norm_backward(dw, v, g, live), strict=True
    )
    assert all(torch.equal(actual, expected) for actual, expected in gradients)


@every(*BODIES)
@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-30])
def test_vanishing_rows_and_their_gradients_are_zero(body, size):
    dw, v, g, live = body.put(tensors(3, 20))
    v = v * size
    assert not body.weight_norm(v, g, live).any()
    assert not any(gradient.any() for gradient in body.weight_norm_backward(dw, v, g, live))


@pytest.mark.parametrize("size", [0.0, 1e-10, 1e-30])
def test_vanishing_rows_of_the_reference(size):
    dw, v, g, live = tensors(3, 20)
    leaves = (v * size).requires_grad_(), g.requires_grad_()
    w = reference.weight_norm(*leaves, live)
    assert not w.any()
    assert not any(gradient.any() for gradient in torch.autograd.grad(w, leaves, dw))


@every(*BODIES)
def test_same_bits_for_any_number_of_threads_and_rows(body):
    dw, v, g, live = body.put(tensors(700, 640))

    def run(rows=slice(None)):
        inputs = v[rows], g[rows], live[rows]
        return [body.weight_norm(*inputs), *body.weight_norm_backward(dw[rows], *inputs)]

    whole = run()
    assert all(map(torch.equal, run(slice(3, 20)), (t[3:20] for t in whole)))
    for _ in with_threads(body.threads):
        assert all(map(torch.equal, run(), whole))


@pytest.mark.parametrize("degrees", [[0, 0, 1, 3, 3, 4], [2] * 6, []])
def test_live_counts_are_the_masks_of_a_made(degrees):
    sorted_degrees = torch.tensor(degrees, dtype=torch.int64)
    live = masks.made_live(sorted_degrees, 5)
    for mask, count in zip(masks.made_masks(sorted_degrees, 5, like=torch.ones(())), live, strict=True):
        assert torch.equal(mask, (torch.arange(mask.shape[1]) < count[:, None]).float())


AXES = [((4, 3, 3, 3), 0), ((5, 6, 3, 3), 1), ((2, 7), 0), ((0, 3), 0), ((3, 0), 0), ((3, 0), 1), ((1, 1), 1)]


@every(*BODIES)
def test_many_layers_at_once_equal_the_reference(body):
    axes = [axis for _, axis in AXES]
    v = [torch.randn(shape) for shape, _ in AXES]
    g = [torch.randn(shape[axis]) for shape, axis in AXES]
    exact = [t.double().requires_grad_() for t in (*v, *g)]
    expected = reference.weight_norms(exact[: len(v)], exact[len(v) :], axes)
    dw = [torch.randn(t.shape) for t in v]
    gradients = torch.autograd.grad(expected, exact, [t.double() for t in dw])
    dw, v, g = body.put((dw, v, g))
    for actual, wanted in zip(body.weight_norms(v, g, axes), expected, strict=True):
        assert_close(actual, wanted)
    for actual, wanted in zip(body.weight_norms_backward(dw, v, g, axes), gradients, strict=True):
        assert_close(actual, wanted, "gradient")


def test_no_layer_at_all():
    for call in (ops.weight_norms, torch.compile(ops.weight_norms, fullgraph=True, backend="aot_eager")):
        assert call([], [], []) == []


def test_many_layers_at_once_through_the_public_function():
    v = [torch.randn(3, 4, requires_grad=True), torch.randn(2, 5, 3, 3, requires_grad=True)]
    g = [torch.randn(3, requires_grad=True), torch.randn(5, requires_grad=True)]
    compiled = torch.compile(ops.weight_norms, fullgraph=True, backend="aot_eager")
    for call in (ops.weight_norms, compiled):
        w = call(v, g, [0, 1])
        found = torch.autograd.grad(sum(t.sin().sum() for t in w), [*v, *g])
        one_by_one = [g[0][:, None] * v[0] / v[0].norm(dim=1, keepdim=True)]
        one_by_one.append(g[1][:, None, None] * v[1] / v[1].square().sum((0, 2, 3), keepdim=True).sqrt())
        expected = torch.autograd.grad(sum(t.sin().sum() for t in one_by_one), [*v, *g])
        for actual, wanted in zip([*w, *found], [*one_by_one, *expected], strict=True):
            torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize(
    ("v", "g", "axes", "message"),
    [
        ([torch.ones(2, 3)], [torch.ones(2)], [], "v, g, axes: as many of each wanted, got 1, 1 and 0"),
        ([torch.ones(2, 3)], [torch.ones(2)], [2], r"axes\[0\]: a whole number in 0..1 wanted, got 2"),
        ([torch.ones(2, 3)], [torch.ones(2)], ["0"], r"axes\[0\]: a whole number wanted, got '0'"),
        ([torch.ones(2, 3).to_sparse()], [torch.ones(2)], [0], r"v\[0\]: a dense tensor wanted, got layout"),
        (3, [torch.ones(2)], [0], "v: Sequence wanted, got int"),
        ([torch.ones(2, 3)], torch.ones(1, 2), [0], "g: Sequence wanted, got Tensor"),
        ([torch.ones(2, 3)], [torch.ones(3)], [0], r"g\[0\]: shape \[2\] wanted, got \[3\]"),
    ],
)
def test_errors_of_many_layers_at_once(v, g, axes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ops.weight_norms(v, g, axes)
