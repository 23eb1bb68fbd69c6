"""Adamax with an average of the weights: torch's own, in one pass."""

import copy

import pytest
import torch
from bodies import ISAS
from conftest import with_threads
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vlae_fast import native
from vlae_fast.optimizer import AveragingAdamax

SHAPES = [(), (0,), (1,), (3, 5), (16,), (1000,), (2, 3, 70, 501)]


def steps(ours, weights, gradients):
    """Weights, averages and state after some steps."""
    weights = [w.clone().requires_grad_() for w in weights]
    averages = [w.detach() * 0.5 for w in weights]
    optimizer = AveragingAdamax(weights, averages, 0.01) if ours else torch.optim.Adamax(weights, lr=0.01)
    for i, part in enumerate(gradients):
        for weight, gradient in zip(weights, part, strict=True):
            weight.grad = gradient
        optimizer.keep = 0.9 + 0.01 * i
        optimizer.step()
        if not ours:
            with torch.no_grad():
                get_ema_multi_avg_fn(optimizer.keep)(averages, weights, 0)
    state = [optimizer.state[w] for w in weights]
    return [*(w.detach() for w in weights), *averages, *(s[k] for s in state for k in ("step", "exp_avg", "exp_inf"))]


def drawn():
    return [torch.randn(s) for s in SHAPES], [[torch.randn(s) for s in SHAPES] for _ in range(4)]


@pytest.mark.parametrize("isa", ISAS)
def test_equals_torchs(isa):
    weights, gradients = drawn()
    expected = steps(False, weights, gradients)
    with native.use_isa(isa):
        for actual, wanted in zip(steps(True, weights, gradients), expected, strict=True):
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)


def test_same_bits_for_any_number_of_threads_and_instruction_set():
    weights, gradients = drawn()
    expected = steps(True, weights, gradients)
    for isa in (isa for isa in ISAS if isa != "baseline"):
        with native.use_isa(isa):
            for _ in with_threads((1, 2, 3)):
                assert all(map(torch.equal, steps(True, weights, gradients), expected))


def test_what_has_no_gradient_is_averaged_alone():
    weight, average = torch.ones(3, requires_grad=True), torch.zeros(3)
    AveragingAdamax([weight], [average], 0.1, keep=0.75).step()
    assert average.tolist() == [0.25] * 3
    assert weight.tolist() == [1.0] * 3


def test_other_kinds_of_weights_take_torchs_way():
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weight.grad = torch.randn(4, 5, dtype=torch.float64)
    average, twin = torch.zeros_like(weight.detach()), copy.deepcopy(weight)
    twin.grad = weight.grad.clone()
    AveragingAdamax([weight], [average], 0.1, keep=0.5).step()
    torch.optim.Adamax([twin], lr=0.1).step()
    assert torch.equal(weight, twin)
    assert torch.equal(average, weight.detach() / 2)


def test_torch_is_told_that_the_weights_changed():
    weight = torch.ones(3, requires_grad=True)
    kept = weight.square()  # needs the weight as it is for its gradient
    weight.grad = torch.ones(3)
    AveragingAdamax([weight], [torch.zeros(3)], 0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


@pytest.mark.parametrize("averages", [[], [torch.zeros(4)]])
def test_wrong_averages_are_refused(averages):
    with pytest.raises(ValueError, match="averages: one for each of 1 weights, of its shape, wanted"):
        AveragingAdamax([torch.ones(3, requires_grad=True)], averages, 0.1)
