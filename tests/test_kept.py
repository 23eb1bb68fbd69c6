"""What a result keeps for its gradient: the memory of what went in and came out, until the result is dropped."""

import weakref
from contextlib import contextmanager

import pytest
import torch
from op_cases import CASES, DIFFERENTIABLE, mapped, outputs
from torch.autograd.graph import saved_tensors_hooks

from vlae_fast import ops
from vlae_fast.layers import MADEFlow
from vlae_fast.ops.resnet.wiring import flat, kept_floats, wiring

every_op = pytest.mark.parametrize("op", DIFFERENTIABLE)


class Kept:
    """A tensor that a graph holds on to."""

    def __init__(self, tensor):
        self.tensor = tensor


@contextmanager
def keeping():
    """The Kept of what is computed inside, as long as their graphs live."""
    alive = weakref.WeakSet()

    def pack(tensor):
        kept = Kept(tensor.detach())  # an output itself would be a circle
        alive.add(kept)
        return kept

    with saved_tensors_hooks(pack, lambda kept: kept.tensor):
        yield alive


def memory(tensors):
    """Bytes of each piece of memory, by address."""
    return {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}


def argument_tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return argument_tensors(tuple(value.values()))
    return [t for v in value for t in argument_tensors(v)] if isinstance(value, tuple | list) else []


def worked_out(op, arguments):
    """Bytes of what a graph keeps by intent, so that the backward pass need not compute it again."""
    if op != "resnet":
        return []
    shape = arguments["x"].shape
    _, table = flat(arguments["blocks"], wiring(shape, arguments["blocks"]))
    return [4 * shape[0] * kept_floats(shape, table)]


@every_op
def test_a_graph_keeps_arguments_and_outputs_alone(op):
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_())
    with keeping() as alive:
        results = outputs(getattr(ops, op)(**arguments))
    assert alive
    kept = memory(k.tensor for k in alive)
    others = kept.items() - memory([*argument_tensors(arguments), *results]).items()
    assert [size for _, size in others] == worked_out(op, arguments)
    torch.autograd.backward(results, [torch.ones_like(t) for t in results])
    assert not alive


@every_op
@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode, "constant"])
def test_nothing_is_kept_where_no_gradient_is_wanted(op, how):
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_(how != "constant"))
    with keeping() as alive, torch.enable_grad() if how == "constant" else how():
        results = outputs(getattr(ops, op)(**arguments))
        assert not alive
    assert not any(t.requires_grad for t in results)


def test_a_flow_fed_back_on_itself_keeps_one_latent_a_call():
    flow = MADEFlow(64, 640, 4, scale=False)  # of the preset
    with torch.no_grad():
        flow.output_g.mul_(0.01)  # as z is not to grow from call to call
    params = flow.params()
    eps = torch.randn(1, 64)
    before = memory([eps, *params])
    with keeping() as alive:
        z = eps
        for _ in range(20):
            z = ops.made_flow_inverse(z, params)
    kept = memory(k.tensor for k in alive)
    assert sum(kept[address] for address in kept.keys() - before.keys()) == 20 * 64 * 4
    del z
    assert not alive


def test_a_module_keeps_the_weights_of_its_call():
    flow = MADEFlow(8, 24, 2, scale=True)
    before = memory([*flow.parameters(), *(getattr(flow, name) for name in flow.constants())])
    with keeping() as alive:
        z = flow.inverse(torch.randn(1, 8))
    kept = memory(k.tensor for k in alive)
    wanted = memory([z, flow.hidden1_v, flow.hidden2_v, flow.output_v]).values()
    assert sorted(kept[address] for address in kept.keys() - before.keys()) == sorted(wanted)
    flow.requires_grad_(False)
    with keeping() as alive:
        assert not flow.inverse(torch.randn(1, 8)).requires_grad
        assert not alive
