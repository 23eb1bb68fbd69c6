"""Whole flows of other libraries, sped up: runs of steps in one call, whatever happens to their parts."""

import copy

import pytest
import torch
from conftest import assert_close
from flows import FLOWS, D, calls, maf, nflows, undone

from vlae_fast import accelerate, use_backend

__all__ = ["calls"]


@pytest.mark.parametrize("N", [0, 1, 150])
@pytest.mark.parametrize("name", FLOWS)
def test_a_run_of_steps_is_one_call_with_the_librarys_float64_values(name, N, calls):
    make, options, C = FLOWS[name]
    pytest.importorskip(name.split(",")[0])
    flow = make(**options)
    y, context = torch.randn(N, 7), torch.randn(N, C) if C else None
    with torch.no_grad():
        expected = undone(copy.deepcopy(flow).double(), y.double(), None if context is None else context.double())
        found = undone(accelerate(flow), y, context)
    assert_close(found[0], expected[0], scale=30.0)
    assert_close(found[1], expected[1], scale=100.0)
    steps = len(accelerate.report(flow))
    again = 0 if "nflows" in name or not N else steps  # zuko's log-determinants
    assert len(calls) == 1 + again

    calls.clear()
    y.requires_grad_()
    with_gradient = undone(flow, y, context)  # step by step
    assert len(calls) == steps + again
    assert_close(with_gradient[0], expected[0], scale=30.0)
    assert_close(with_gradient[1], expected[1], scale=100.0)
    accelerate.restore(flow)
    calls.clear()
    with torch.no_grad():
        undone(flow, y, context)
    assert not calls


@pytest.mark.parametrize("name", ["nflows, random permutations", "zuko"])
def test_a_run_sees_every_change_of_weights(name, calls):
    make, options, _ = FLOWS[name]
    pytest.importorskip(name.split(",")[0])
    flow, y = accelerate(make(**options)), torch.randn(9, 7)

    def agrees():
        calls.clear()
        with torch.no_grad():
            found = undone(flow, y, None)[0]
            assert_close(found, undone(accelerate.restore(copy.deepcopy(flow)), y, None)[0], scale=30.0)
        assert calls
        return found

    parameters = list(flow.parameters())
    seen = [agrees()]
    sum(t.square().mean() for t in undone(flow, y, None)).backward()
    torch.optim.Adam(parameters, lr=0.01).step()
    seen.append(agrees())
    for p in parameters:
        p.data = p.data * 0.9
    seen.append(agrees())
    for p in parameters:
        p.data.mul_(1.1)  # no version counter notices
    seen.append(agrees())
    for p in parameters:
        p.data = p.data.mT.contiguous().mT if p.dim() == 2 else p.data  # other strides
    with torch.no_grad():
        assert torch.equal(undone(flow, y, None)[0], seen[-1])
    flow.double()
    with torch.no_grad():
        assert undone(flow, y.double(), None)[0].dtype == torch.float64
    flow.float()
    flow.load_state_dict(make(**options).state_dict())
    assert torch.equal(agrees(), seen[0])
    assert not any(map(torch.equal, seen, seen[1:]))


def test_a_run_sees_other_permutations_and_parts():
    pytest.importorskip("nflows")
    flow, y = accelerate(maf()), torch.randn(9, 7)
    inner = flow._transforms[1]._transforms
    changes = [
        lambda: inner[1]._permutation.copy_(torch.randperm(7)),
        lambda: setattr(inner[3], "_permutation", torch.arange(7)),
        lambda: inner.pop(1),
        lambda: inner.insert(2, accelerate(nflows(features=7, seed=9))),
        lambda: accelerate.restore(inner[0]),
        lambda: inner[0].train(),
        lambda: inner[4].autoregressive_net.final_layer.register_forward_hook(lambda m, i, o: 2 * o),
    ]
    for change in changes:
        change()
        with torch.no_grad():
            expected = accelerate.restore(copy.deepcopy(flow)).inverse(y)
            for actual, wanted in zip(flow.inverse(y), expected, strict=True):
                assert_close(actual, wanted, scale=100.0)


def test_what_stands_between_runs_is_the_librarys(calls):
    pytest.importorskip("nflows")
    from nflows.transforms import CompositeTransform, LULinear, RandomPermutation

    parts = [nflows(), RandomPermutation(D), nflows(seed=1), LULinear(D), nflows(seed=2)]
    flow, y = CompositeTransform(parts).eval(), torch.randn(5, D)
    with torch.no_grad():
        expected = flow.inverse(y)
        found = accelerate(flow).inverse(y)
    assert len(calls) == 2
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted, scale=30.0)


def test_a_run_of_zuko_with_a_permutation_and_other_transforms(calls):
    pytest.importorskip("zuko")
    from zuko.flows.autoregressive import MaskedAutoregressiveTransform
    from zuko.lazy import LazyComposedTransform, UnconditionalTransform
    from zuko.transforms import PermutationTransform, RotationTransform

    torch.manual_seed(0)
    parts = [
        MaskedAutoregressiveTransform(D),
        UnconditionalTransform(PermutationTransform, torch.randperm(D), buffer=True),
        MaskedAutoregressiveTransform(D),
        UnconditionalTransform(RotationTransform, torch.randn(D, D)),
        MaskedAutoregressiveTransform(D),
    ]
    flow, y = LazyComposedTransform(*parts), torch.randn(2, 5, D)
    with torch.no_grad():
        expected = flow().inv(y)
        assert_close(accelerate(flow)().inv(y), expected, scale=30.0)
        assert len(calls) == 2
        assert_close(flow()(flow().inv(y)), y, scale=30.0)
        assert flow.inv().inv(y).shape == y.shape


@pytest.mark.parametrize("name", ["nflows, random permutations", "zuko"])
def test_runs_give_way_to_reference_modes_and_values_that_are_not_finite(name, calls):
    make, options, _ = FLOWS[name]
    pytest.importorskip(name.split(",")[0])
    flow, y = accelerate(make(**options)), torch.randn(9, 7)
    with torch.no_grad():
        expected = undone(flow, y, None)[0]
        with use_backend("reference"):
            assert_close(undone(flow, y, None)[0], expected, scale=30.0)
        y[2, 3] = torch.inf
        rows = torch.arange(9) != 2
        found = undone(flow, y, None)[0]
    assert_close(found[rows], expected[rows], scale=30.0)
    assert not found[2].isfinite().all()


def test_a_context_that_is_missing_is_the_library_s_to_refuse():
    zuko = pytest.importorskip("zuko")
    flow = accelerate(zuko.flows.MAF(6, 3, transforms=3, hidden_features=(16, 16)))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        flow().sample((4,))
