"""Other libraries' flows, sped up: the library's own float64 values, the same samples, and what is left alone."""

import copy
import io
import pickle
import sys
from functools import partial

import pytest
import torch
from conftest import assert_close
from flows import D, calls, nflows, normflows, pyro, zuko
from torch import nn
from torch.nn import functional as F

from vlae_fast import accelerate
from vlae_fast.accelerate.swap import FEWEST

__all__ = ["calls"]


def inverse(transform, y, context):
    """The slow side: x, and a log-determinant."""
    library = type(transform).__module__.split(".")[0]
    if library == "zuko":
        t = transform(context)
        x = t.inv(y)
        return x, -t.log_abs_det_jacobian(x, y)
    if library == "pyro":
        t = transform if context is None else transform.condition(context)
        x = t._inverse(y)
        return x, -t._cached_log_scale.sum(-1)
    return transform.inverse(y, context)


def adjacency(context=0):
    """Of a graph that is no chain."""
    graph = torch.eye(D, dtype=torch.bool)
    for i, j in ((1, 4), (2, 4), (3, 1), (3, 0), (5, 2)):
        graph[i, j] = True
    seen = torch.arange(D * context).view(D, context) % 3 > 0
    return torch.cat([graph, seen], 1)


VARIANTS = {
    "nflows": (nflows, {}, 0),
    "nflows, tanh": (nflows, {"activation": torch.tanh}, 0),
    "nflows, elu, three blocks": (nflows, {"activation": F.elu, "num_blocks": 3}, 0),
    "nflows, no blocks": (nflows, {"num_blocks": 0}, 0),
    "nflows, context": (nflows, {"context_features": 3}, 3),
    "nflows, context unused": (nflows, {"context_features": 3}, 0),
    "nflows, feed-forward": (nflows, {"use_residual_blocks": False}, 0),
    "nflows, feed-forward, no blocks": (nflows, {"use_residual_blocks": False, "num_blocks": 0}, 0),
    "nflows, as in sbi": (nflows, {"use_residual_blocks": False, "activation": torch.tanh, "context_features": 4}, 4),
    "nflows, random masks": (nflows, {"use_residual_blocks": False, "random_mask": True}, 0),
    "nflows, batch norm": (nflows, {"use_batch_norm": True, "context_features": 2}, 2),
    "nflows, feed-forward, batch norm": (nflows, {"use_batch_norm": True, "use_residual_blocks": False}, 0),
    "nflows, one variable": (nflows, {"features": 1}, 0),
    "nflows, dropout": (nflows, {"dropout_probability": 0.5}, 0),
    "normflows": (normflows, {}, 0),
    "normflows, context": (normflows, {"context_features": 3}, 3),
    "normflows, feed-forward": (normflows, {"use_residual_blocks": False, "activation": torch.tanh}, 0),
    "normflows, feed-forward, random masks": (normflows, {"use_residual_blocks": False, "random_mask": True}, 0),
    "normflows, batch norm": (normflows, {"use_batch_norm": True}, 0),
    "zuko": (zuko, {}, 0),
    "zuko, context": (zuko, {"context": 3}, 3),
    "zuko, order": (zuko, {"order": [3, 1, 5, 0, 2, 4]}, 0),
    "zuko, two passes": (zuko, {"passes": 2, "context": 2}, 2),
    "zuko, three passes": (zuko, {"passes": 3}, 0),
    "zuko, graph": (zuko, {"adjacency": adjacency()}, 0),
    "zuko, graph with context": (zuko, {"adjacency": adjacency(3), "context": 3}, 3),
    "zuko, residual": (zuko, {"residual": True, "hidden_features": (32, 32), "activation": nn.ELU}, 0),
    "zuko, residual, widths": (zuko, {"residual": True, "hidden_features": (32, 48, 16), "context": 2}, 2),
    "zuko, five layers": (zuko, {"hidden_features": (50,) * 5, "activation": nn.SiLU}, 0),
    "pyro": (pyro, {}, 0),
    "pyro, stable": (pyro, {"stable": True}, 0),
    "pyro, skip": (pyro, {"skip_connections": True, "hidden": (20, 30), "nonlinearity": nn.Tanh()}, 0),
    "pyro, context": (pyro, {"context": 3}, 3),
    "pyro, context, skip, stable": (pyro, {"context": 3, "skip_connections": True, "stable": True}, 3),
}


def drawn(variant, N=17):
    """A transform, what goes into its slow side, and a context."""
    make, options, C = VARIANTS[variant]
    pytest.importorskip(variant.split(",")[0])
    torch.manual_seed(1)  # of random masks
    transform = make(**options)
    return transform, torch.randn(N, options.get("features", D)), torch.randn(N, C) if C else None


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_gradients_are_those_of_the_library_in_float64(variant, calls):
    transform, y, context = drawn(variant)
    exact = copy.deepcopy(transform).double()
    y64, context64 = y.double().requires_grad_(), None if context is None else context.double().requires_grad_()
    torch.set_default_dtype(torch.float64)  # of pyro's first zeros
    expected = inverse(exact, y64, context64)
    torch.set_default_dtype(torch.float32)
    leaves = [t for t in (y64, context64) if t is not None] + list(exact.parameters())
    wanted = torch.autograd.grad(sum((t * t.detach().cos()).sum() for t in expected), leaves, materialize_grads=True)

    assert accelerate(transform) is transform
    assert [entry.fast for entry in accelerate.report(transform)] == [True]
    y.requires_grad_()
    if context is not None:
        context.requires_grad_()
    found = inverse(transform, y, context)
    assert len(calls) == (y.shape[1] >= FEWEST)
    assert_close(found[0], expected[0], scale=10.0)
    assert_close(found[1], expected[1], scale=10.0)
    leaves = [t for t in (y, context) if t is not None] + list(transform.parameters())
    grads = torch.autograd.grad(sum((t * t.detach().cos()).sum() for t in found), leaves, materialize_grads=True)
    for actual, gradient in zip(grads, wanted, strict=True):
        assert_close(actual, gradient, "gradient", scale=10.0)

    accelerate.restore(transform)
    assert [str(e).endswith("): not accelerated") for e in accelerate.report(transform)] == [True]
    before = len(calls)
    with torch.no_grad():
        plain = inverse(transform, y, context)
    assert len(calls) == before
    assert_close(plain[0], expected[0], scale=10.0)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("nflows")])
def test_log_dets_of_both_directions_cancel_where_gradients_are_wanted(variant):
    transform, y, context = drawn(variant)
    x, log_det = accelerate(transform).inverse(y, context)
    assert torch.equal(transform.forward(x, context)[1], -log_det)


@pytest.mark.parametrize("variant", ["nflows, as in sbi", "normflows", "zuko, context", "pyro, stable"])
def test_weights_are_read_at_each_call_and_masks_too(variant, calls):
    transform, y, context = drawn(variant)
    with torch.no_grad():
        accelerate(transform)
        before = inverse(transform, y, context)[0]
        for p in transform.parameters():
            p.data.mul_(0.5)
        after = inverse(transform, y, context)[0]
        assert not torch.equal(before, after)
        other, *_ = drawn(variant)
        state = other.state_dict()
        transform.load_state_dict(state)
        assert torch.equal(inverse(transform, y, context)[0], before)
    assert len(calls) == 3


def test_other_masks_in_a_state_are_noticed(calls):
    transform, y, _ = drawn("nflows, random masks")
    accelerate(transform)
    torch.manual_seed(7)
    other = nflows(use_residual_blocks=False, random_mask=True)
    transform.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert_close(inverse(transform, y, None)[0], inverse(other, y, None)[0], scale=10.0)
    assert len(calls) == 1


@pytest.mark.parametrize("variant", ["nflows, context", "normflows", "zuko", "pyro, stable", "pyro, context"])
def test_copies_and_pickles_are_fast_and_their_own(variant, calls):
    transform, y, context = drawn(variant)
    accelerate(transform)
    saved = io.BytesIO()
    torch.save(transform, saved)
    saved.seek(0)
    for other in (copy.deepcopy(transform), torch.load(saved, weights_only=False)):
        with torch.no_grad():
            before = inverse(transform, y, context)[0]
            assert torch.equal(inverse(other, y, context)[0], before)
            for p in other.parameters():
                p.zero_()
            assert not torch.equal(inverse(other, y, context)[0], before)
            assert torch.equal(inverse(transform, y, context)[0], before)
    assert len(calls) == 8


def test_nested_flows_draw_the_same_samples(calls):
    pytest.importorskip("nflows")
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import CompositeTransform, LULinear, RandomPermutation

    parts = [
        CompositeTransform([nflows(context_features=2), RandomPermutation(D), LULinear(D)]),
        nflows(context_features=2),
    ]
    flow = Flow(CompositeTransform(parts), StandardNormal([D])).eval()
    context = torch.randn(3, 2)
    torch.manual_seed(3)
    plain, log_prob = flow.sample_and_log_prob(50, context=context)
    accelerate({"any": [flow]})
    torch.manual_seed(3)
    fast, fast_log_prob = flow.sample_and_log_prob(50, context=context)
    assert_close(fast, plain, scale=10.0)
    assert_close(fast_log_prob, log_prob, scale=10.0)
    assert len(calls) == 2
    names = [entry.name for entry in accelerate.report(flow)]
    assert names == ["_transform._transforms.0._transforms.0", "_transform._transforms.1"]


def test_flows_within_the_objects_of_sbi_are_found():
    """A posterior holds its estimator, and the potential made of it, in plain attributes."""
    pytest.importorskip("nflows")
    posterior = type("Posterior", (), {"__module__": "sbi.inference"})()
    posterior.estimator = nn.Sequential(nflows())
    posterior.potential = {"of": (posterior.estimator, posterior)}
    accelerate(posterior)
    assert [(entry.name, entry.fast) for entry in accelerate.report(posterior)] == [("estimator.0", True)]


@pytest.mark.parametrize("shapes", [((), ()), ((), (2,)), ((5,), ()), ((4, 2), (2,)), ((3,), (2, 3)), ((0,), ())])
def test_batch_and_context_shapes_of_zuko(shapes, calls):
    pytest.importorskip("zuko")
    transform = zuko(context=2)
    y, c = (torch.randn(*shape, n) for shape, n in zip(shapes, (D, 2), strict=True))
    with torch.no_grad():
        expected = transform(c).inv(y)
        found = accelerate(transform)(c).inv(y)
    assert_close(found, expected, scale=10.0)
    assert len(calls) == 1


@pytest.mark.parametrize("shape", [(), (5,), (4, 2), (0,)])
def test_batch_shapes_of_pyro(shape, calls):
    pytest.importorskip("pyro")
    transform, y = pyro(context=2), torch.randn(*shape, D)
    with torch.no_grad():
        expected = inverse(transform, y, torch.ones(2))
        for a, e in zip(inverse(accelerate(transform), y, torch.ones(2)), expected, strict=True):
            assert_close(a, e, scale=10.0)
    assert len(calls) == 1


def changed(change):
    def make():
        transform = nflows(use_batch_norm=True, dropout_probability=0.1)
        return change(transform) or transform

    return make


def spline():
    from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform

    return MaskedPiecewiseRationalQuadraticAutoregressiveTransform(D, 20, tails="linear", tail_bound=5.0).eval()


def zuko_spline():
    from zuko.transforms import MonotonicRQSTransform

    return zuko(univariate=MonotonicRQSTransform, shapes=[(4,), (4,), (3,)])


def subclass():
    transform = nflows()
    transform.__class__ = type("Mine", (type(transform),), {})
    return transform


LEFT = {
    "training": (changed(lambda t: t.train() and None), "batch norm in training mode"),
    "dropout": (lambda: nflows(dropout_probability=0.1).train(), "dropout in training mode"),
    "float64": (changed(lambda t: t.double() and None), "weights of torch.float64"),
    "hooks": (changed(lambda t: t.autoregressive_net.register_forward_hook(print) and None), "hooks or methods"),
    "patched": (
        changed(lambda t: setattr(t.autoregressive_net, "forward", t.autoregressive_net.forward)),
        "hooks or methods",
    ),
    "activation": (lambda: nflows(activation=F.gelu), "activation gelu"),
    "spline": (
        spline,
        "MaskedPiecewiseRationalQuadraticAutoregressiveTransform is no affine transform",
    ),
    "zuko's spline": (zuko_spline, "univariate MonotonicRQSTransform is not affine"),
    "subclass": (subclass, "Mine is no affine transform of this library's own"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left_alone_is_reported_and_works(case, calls):
    for library in ("nflows", "zuko"):
        pytest.importorskip(library)
    make, reason = LEFT[case]
    transform = make()
    y = torch.rand(3, D, dtype=next(transform.parameters()).dtype)
    torch.manual_seed(2)
    expected = inverse(copy.deepcopy(transform), y, None)[0]
    accelerate(transform)
    (entry,) = accelerate.report(transform)
    assert (entry.fast, entry.name, entry.reason[: len(reason)]) == (False, "flow", reason)
    torch.manual_seed(2)
    torch.testing.assert_close(inverse(transform, y, None)[0], expected)
    assert not calls


def test_what_the_op_does_not_take_goes_the_librarys_way(calls):
    transform, y, _ = drawn("nflows")
    accelerate(transform)
    y[3, 2] = torch.nan
    x, _ = transform.inverse(y)
    assert x[3].isnan().any()
    assert not x[:3].isnan().any()
    assert transform.inverse(y.double()[:0].float())[0].shape == (0, D)
    with pytest.raises(Exception, match="dtype"):
        transform.inverse(y.double())


def test_nothing_is_imported_and_other_objects_are_let_be(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("nflows", "normflows", "zuko", "pyro", "sbi")]:
        monkeypatch.delitem(sys.modules, name)
    for thing in (nn.Linear(2, 2), [1, None], {"a": "flow"}, torch.distributions.Normal(0, 1)):
        assert accelerate(thing) is thing
        assert accelerate.restore(thing) is thing
        assert accelerate.report(thing) == []
    assert not {"nflows", "normflows", "zuko", "pyro", "sbi"} & sys.modules.keys()


def test_twice_is_once():
    transform, *_ = drawn("pyro, stable")
    for _ in range(2):
        accelerate(transform)
    accelerate.restore(accelerate.restore(transform))
    assert transform._inverse == transform._inverse_stable
    pickle.dumps(partial(accelerate.restore, transform))
