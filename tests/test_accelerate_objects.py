"""Objects of other libraries as their owners treat them: own methods, pickles, and calls that do not fit."""

import copy
import io
import pickle
import types

import pytest
import torch
from conftest import assert_close
from flows import D, calls, maf, nflows, pyro, zuko, zuko_maf
from torch import nn

from vlae_fast import accelerate, use_backend

__all__ = ["calls"]


def mine(*arguments):
    return "mine"


@pytest.mark.parametrize("make", [nflows, zuko, pyro, maf, zuko_maf], ids=lambda make: make.__name__)
@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_a_method_of_the_owner_s_stays(make, when, calls):
    """Set before or after, on a transform or a composite, also where the fast one is kept under another name."""
    name = {"zuko": "forward", "zuko_maf": "forward", "pyro": "_inverse"}.get(make.__name__, "inverse")
    pytest.importorskip({"maf": "nflows", "zuko_maf": "zuko"}.get(make.__name__, make.__name__))
    flow = make()
    part = flow.transform if make is zuko_maf else flow
    if when != "before":
        accelerate(flow)
    if when == "between":
        part.fast = getattr(part, name)
    setattr(part, name, mine)
    if when == "before":
        accelerate(flow)
    for act in (lambda: None, lambda: accelerate.restore(flow), lambda: accelerate(flow)):
        act()
        assert getattr(part, name)() == "mine"
        if make in (nflows, zuko, pyro):
            (entry,) = accelerate.report(flow)
            assert (entry.fast, entry.reason) == (False, f"{name} set on the object itself")
        else:
            assert len(accelerate.report(flow)) == 3
    delattr(part, name)
    assert all(entry.fast for entry in accelerate.report(accelerate(flow)))


def test_another_method_of_the_owner_s_is_seen_too():
    pytest.importorskip("nflows")
    flow = nflows()
    flow._elementwise_inverse = lambda inputs, params: (inputs, inputs.sum(1))
    y = torch.randn(3, D)
    assert torch.equal(accelerate(flow).inverse(y)[0], y)
    (entry,) = accelerate.report(flow)
    assert entry.reason == "_elementwise_inverse set on the object itself"


@pytest.mark.parametrize("transforms", [1, 3])
def test_distributions_of_zuko_pickle(transforms, calls):
    pytest.importorskip("zuko")
    flow, context = accelerate(zuko_maf(context=2, transforms=transforms)), torch.randn(4, 2)
    distribution = flow(context)
    y = torch.randn(4, 7)
    saved = io.BytesIO()
    torch.save(distribution, saved)
    saved.seek(0)
    undo = distribution.transform.inv
    copies = [
        copy.deepcopy(distribution).transform.inv,
        pickle.loads(pickle.dumps(distribution)).transform.inv,
        torch.load(saved, weights_only=False).transform.inv,
        copy.deepcopy(undo),
        pickle.loads(pickle.dumps(undo)),
    ]
    with torch.no_grad():
        expected = undo(y)
        for p in flow.parameters():
            p.zero_()
        assert not torch.equal(flow(context).transform.inv(y), expected)
        for inverse in copies:
            assert torch.equal(inverse(y), expected)
    assert len(calls) == 2 + len(copies)


THINGS = [None, 5, "x", b"x", 1.5, {1}, nn.Linear, lambda: 0, types.SimpleNamespace(a=1)]


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: type(thing).__name__)
def test_what_cannot_hold_a_flow_is_refused(thing):
    wanted = (
        "flow: an object of nflows, normflows, zuko, pyro, sbi, torch, or a list, tuple or dict of such wanted, got "
    )
    for function in (accelerate, accelerate.restore, accelerate.report):
        with pytest.raises(TypeError) as raised:
            function(thing)
        assert str(raised.value).startswith(wanted)
        assert "\n" not in str(raised.value)


def test_a_class_made_of_a_librarys_is_looked_into():
    pytest.importorskip("nflows")
    posterior = type("Mine", (type("Posterior", (), {"__module__": "sbi.inference"}),), {"__module__": "mine"})()
    posterior.estimator = nflows()
    assert [entry.name for entry in accelerate.report(accelerate(posterior))] == ["estimator"]


def outcome(call):
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", ["zuko", "nflows"])
@pytest.mark.parametrize(
    ("variables", "context"),
    [
        (7, torch.ones(3, 4, dtype=torch.int64)),
        (7, torch.ones(3, 4, dtype=torch.float64)),
        (6, torch.ones(3, 4)),
        (8, torch.ones(3, 4)),
        (7, torch.ones(2, 4)),
    ],
    ids=["integers", "float64", "six variables", "eight variables", "two contexts"],
)
def test_what_does_not_fit_is_the_librarys_own_affair(name, variables, context, gradients):
    """The same values or the same error as without us."""
    pytest.importorskip(name)
    y = torch.randn(3, variables)
    flow = zuko_maf(context=4) if name == "zuko" else maf(context=4)

    def call():
        if name == "zuko":
            return flow(context).transform.inv(y)
        return flow._transforms[1]._transforms[0].inverse(y, context)[0]

    with torch.set_grad_enabled(gradients):
        wanted = outcome(call)
        accelerate(flow)
        found = outcome(call)
    if isinstance(wanted, tuple):
        assert found == wanted
    else:
        assert_close(found, wanted, scale=30.0)


def test_second_derivatives_say_who_has_them():
    pytest.importorskip("nflows")
    flow, y = accelerate(nflows()), torch.randn(3, D, requires_grad=True)

    def second():
        (dy,) = torch.autograd.grad(flow.inverse(y)[0].square().sum(), y, create_graph=True)
        return torch.autograd.grad(dy.sum(), y)[0]

    with pytest.raises(NotImplementedError, match=r"no second derivatives; use_backend\('reference'\) has them"):
        second()
    with use_backend("reference"):
        found = second()
    accelerate.restore(flow)
    assert_close(found, second(), "gradient", scale=10.0)


class Whole(nn.Module):
    """The slow side of a flow as a module."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, y):
        return self.flow.inverse(y)[0] if hasattr(self.flow, "inverse") else self.flow.transform().inv(y)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [maf, zuko_maf], ids=lambda make: make.__name__)
def test_what_torch_writes_down_is_the_librarys(make):
    pytest.importorskip({maf: "nflows", zuko_maf: "zuko"}[make])
    whole, y = Whole(make()), torch.randn(3, 7)
    with torch.no_grad():
        wanted = whole(y)
        accelerate(whole)(y)
        exported, traced = torch.export.export(whole, (y,)), torch.jit.trace(whole, y)
        for written, call in ((exported.graph, exported.module()), (traced.inlined_graph, traced)):
            assert "made_inverse" not in str(written)
            assert_close(call(y), wanted, scale=30.0)
