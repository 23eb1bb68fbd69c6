"""Which body runs: `use_backend` in threads and in itself, and the transforms that compiled bodies refuse."""

import threading

import pytest
import torch
from conftest import assert_close
from op_cases import CASES, DIFFERENTIABLE, flow_arguments, mapped, norm_arguments, outputs, stack_arguments, tensors_of
from torch.autograd import forward_ad

from vlae_fast import ops, use_backend
from vlae_fast.ops.backend import reference_chosen

F64 = torch.float64
every_differentiable_op = pytest.mark.parametrize("op", DIFFERENTIABLE)


def test_backend_nests_and_is_restored_after_an_error():
    arguments = mapped(flow_arguments(), torch.Tensor.double)
    with use_backend("reference"):
        with pytest.raises(TypeError, match=r"z: torch.float32 wanted, got torch.float64.*use_backend"):
            with use_backend("auto"):
                ops.made_flow_forward(**arguments)
        ops.made_flow_forward(**arguments)
    with pytest.raises(TypeError, match="z: torch.float32 wanted"):
        ops.made_flow_forward(**arguments)


def test_backend_holds_in_its_thread_alone():
    errors = []

    def run():
        try:
            ops.made_flow_forward(**mapped(flow_arguments(), torch.Tensor.double))
        except TypeError as error:
            errors.append(error)

    with use_backend("reference"):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(errors) == 1


def test_backward_runs_on_the_body_of_the_forward():
    arguments = mapped(stack_arguments(), lambda t: t.double().requires_grad_())
    with use_backend("reference"):
        result = ops.pixelcnn_logits(**arguments).sum()
    assert all(g.dtype == F64 for g in torch.autograd.grad(result, tensors_of(arguments)))


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend: one of auto, reference wanted, got 'fast'"):
        use_backend("fast")


def test_one_backend_object_in_itself():
    backend, auto = use_backend("reference"), use_backend("auto")
    with backend, auto, backend:
        assert reference_chosen()
        with auto:
            assert not reference_chosen()
        assert reference_chosen()
    assert not reference_chosen()


def test_one_backend_object_in_two_threads():
    """Each leaves it in another order than it entered it, with another backend around."""
    shared, found, turn = use_backend("reference"), [], threading.Barrier(2, timeout=10)

    def run(outer):
        with use_backend(outer):
            if outer == "auto":
                turn.wait()
            with shared:
                if outer == "reference":
                    turn.wait()
                turn.wait()
                if outer == "auto":
                    turn.wait()
            found.append((outer, "reference" if reference_chosen() else "auto"))
            if outer == "reference":
                turn.wait()

    threads = [threading.Thread(target=run, args=(outer,)) for outer in ("auto", "reference")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [("auto", "auto"), ("reference", "reference")]


# --- transforms -------------------------------------------------------------------------------------------------


def scalar(op, arguments):
    """The sum of an op's results as a function of its first float tensor."""
    name, tensor = next((name, tensors_of(value)[0]) for name, value in arguments.items() if tensors_of(value))

    def function(tensor):
        value = [tensor, *arguments[name][1:]] if isinstance(arguments[name], list) else tensor
        return sum(t.sum() for t in outputs(getattr(ops, op)(**arguments | {name: value})))

    return function, tensor


def dual(function, tensor):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(tensor, torch.ones_like(tensor)))).tangent


TRANSFORMS = {
    "forward_ad": dual,
    "jvp": lambda f, t: torch.func.jvp(f, (t,), (torch.ones_like(t),))[1],
    "jacfwd": lambda f, t: torch.func.jacfwd(f)(t).sum(),
    "grad": lambda f, t: torch.func.grad(f)(t).sum(),
    "vjp": lambda f, t: torch.func.vjp(f, t)[1](torch.ones(()).to(t))[0].sum(),
    "jvp of vmap": lambda f, t: torch.func.jvp(torch.func.vmap(f), (t[None],), (torch.ones_like(t[None]),))[1].sum(),
    "grad of vmap": lambda f, t: torch.func.grad(lambda t: torch.func.vmap(f)(t[None]).sum())(t).sum(),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@every_differentiable_op
def test_transforms_run_in_the_reference_and_are_refused_elsewhere(op, transform):
    """Each gives the derivative in the direction of ones."""
    function, tensor = scalar(op, CASES[op]())
    with pytest.raises(NotImplementedError, match=r"[\w\]]: compiled bodies .*use_backend\('reference'\)"):
        TRANSFORMS[transform](function, tensor)
    leaf = tensor.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(leaf), leaf)
    with use_backend("reference"):
        assert_close(TRANSFORMS[transform](function, tensor), expected.sum(), "gradient", scale=1)


def test_compiled_forward_mode_is_refused_too():
    function, tensor = scalar("weight_norm", norm_arguments())
    compiled = torch.compile(lambda t: torch.func.jvp(function, (t,), (t,)), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="v: compiled bodies"):
        compiled(tensor)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@every_differentiable_op
def test_vmap_runs_and_has_gradients(op, backend):
    function, tensor = scalar(op, CASES[op]())
    leaf = torch.stack([tensor.flip(0), tensor]).requires_grad_()
    with use_backend(backend):
        both = torch.func.vmap(function)(leaf)
        assert_close(both[1], function(tensor), scale=1)
        (batched,) = torch.autograd.grad(both[1], leaf)
        (single,) = torch.autograd.grad(function(leaf[1]), leaf)
        assert_close(batched, single, "gradient")


def test_a_sample_is_a_constant_to_transforms():
    arguments = CASES["pixelcnn_sample"]()
    context = arguments["context"]
    drawn = ops.pixelcnn_sample(**arguments).sum()

    def product(context):
        return (ops.pixelcnn_sample(**arguments | {"context": context}) * context[:, :1]).sum()

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(context, torch.ones_like(context))
        assert_close(forward_ad.unpack_dual(product(dual)).tangent, drawn)
    assert_close(torch.func.grad(product)(context).sum(), drawn)
