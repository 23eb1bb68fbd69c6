"""The ops as torch operators: fake bodies, gradients, torch.compile, backends, errors that name the argument."""

import random
from dataclasses import replace

import pytest
import torch
from conftest import TOLERANCE, assert_close, pixelcnn_params
from op_cases import BATCHED, CASES, DIFFERENTIABLE, mapped, outputs, stack_arguments, tensors_of, wiring_of

from vlae_fast import PixelCNNSpec, ops, reference, use_backend

F64 = torch.float64


GRADIENTS = [op for op in DIFFERENTIABLE if op != "exp"]
"""Of these ops they are operators; that of exp is its result."""

every_op = pytest.mark.parametrize("op", CASES)


@pytest.fixture
def operator_calls(monkeypatch):
    """Every call of a vlae_fast operator: (overload, arguments)."""
    calls = []
    for name in [*CASES, *(f"{op}_backward" for op in GRADIENTS)]:
        packet = getattr(torch.ops.vlae_fast, name)

        class Recorder:
            default = packet.default

            def __call__(self, *args):
                calls.append((self.default, args))
                return self.default(*args)

        monkeypatch.setattr(torch.ops.vlae_fast, name, Recorder())
    return calls


@every_op
@pytest.mark.usefixtures("device")
def test_opcheck(op, operator_calls, monkeypatch):
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_(op in DIFFERENTIABLE))
    getattr(ops, op)(**arguments)
    ((overload, args),) = operator_calls
    monkeypatch.undo()
    torch.library.opcheck(overload, args)


@pytest.mark.parametrize("op", GRADIENTS)
def test_opcheck_of_gradients(op, operator_calls, monkeypatch):
    """Without what is optional: gradients that are empty are not one tensor."""
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_())
    arguments |= {name: None for name in ("hidden_context", "gates") if name in arguments}
    if op in ("made_forward", "made_inverse"):
        layers = (layer._replace(context=False, gated=False) for layer in arguments["spec"].layers)
        arguments["spec"] = replace(arguments["spec"], layers=tuple(layers))
    sum(t.sum() for t in outputs(getattr(ops, op)(**arguments))).backward()
    calls = [call for call in operator_calls if "backward" in str(call[0])]
    monkeypatch.undo()
    for overload, args in calls:
        torch.library.opcheck(overload, args, test_utils=("test_schema", "test_faketensor"))
    assert len(calls) == 1


@every_op
@pytest.mark.usefixtures("device")
def test_compiles_without_graph_breaks(op):
    arguments = CASES[op]()
    compiled = torch.compile(getattr(ops, op), fullgraph=True, backend="aot_eager")
    for a, e in zip(outputs(compiled(**arguments)), outputs(getattr(ops, op)(**arguments)), strict=True):
        assert torch.equal(a, e)
    if op in ("pixelcnn_sample", "made_flow_inverse", "made_inverse"):  # the reference would be unrolled draw by draw
        return
    exact = mapped(arguments, torch.Tensor.double)
    with use_backend("reference"):  # compiled anew, not reused: the compiled body takes no float64
        for a, e in zip(outputs(compiled(**exact)), outputs(getattr(reference, op)(**exact)), strict=True):
            assert_close(a, e, "float64")


@pytest.mark.parametrize("op", ["pixelcnn_log_prob", "made_flow_inverse", "made_inverse"])
@pytest.mark.usefixtures("device")
def test_compiled_training_step_has_the_same_gradients(op):
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_())

    def loss(**arguments):
        return outputs(getattr(ops, op)(**arguments))[0].sum()

    eager = torch.autograd.grad(loss(**arguments), tensors_of(arguments))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for a, e in zip(torch.autograd.grad(compiled(**arguments), tensors_of(arguments)), eager, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize("op", [op for op in CASES if op != "weight_norms"])
@pytest.mark.usefixtures("device")
def test_empty_batch(op):
    arguments = CASES[op]()
    for name, value in arguments.items():
        if name in BATCHED | {"v", "g", "live"}:
            arguments[name] = value[:0]
    assert all(len(t) == 0 for t in outputs(getattr(ops, op)(**arguments)))


@every_op
@pytest.mark.usefixtures("device")
def test_other_layouts_give_the_same(op):
    arguments = CASES[op]()
    strided = mapped(arguments, lambda t: t.transpose(0, -1).contiguous().transpose(0, -1))
    for a, e in zip(outputs(getattr(ops, op)(**strided)), outputs(getattr(ops, op)(**arguments)), strict=True):
        assert torch.equal(a, e)


@every_op
def test_autocast_widens_half_precision(op):
    arguments = mapped(CASES[op](), lambda t: t.bfloat16())
    wide = mapped(arguments, lambda t: t.float())
    with pytest.raises(TypeError, match="float32 wanted, got torch.bfloat16"):
        getattr(ops, op)(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = getattr(ops, op)(**arguments)
    for actual, expected in zip(outputs(found), outputs(getattr(ops, op)(**wide)), strict=True):
        assert actual.dtype == torch.float32
        assert torch.equal(actual, expected)


def test_a_sample_is_a_constant():
    arguments = mapped(CASES["pixelcnn_sample"](), lambda t: t.clone().requires_grad_())
    for backend in ("auto", "reference"):
        with use_backend(backend):
            assert not ops.pixelcnn_sample(**arguments).requires_grad


# --- errors -----------------------------------------------------------------------------------------------------

NAN = float("nan")
BAD = [
    ("masked_conv3x3", "x", lambda x: x[0], ValueError, r"x: shape \[N, C, H, W\] wanted, got \[3, 5, 6\]"),
    ("masked_conv3x3", "x", lambda x: x.numpy(), TypeError, "x: a tensor wanted, got ndarray"),
    ("masked_conv3x3", "x", lambda x: x.half(), TypeError, "x: torch.float32 wanted, got torch.float16"),
    ("masked_conv3x3", "x", lambda x: x.to("meta"), ValueError, "x: no compiled body for the device meta"),
    ("masked_conv3x3", "weight", lambda w: w[:, :2], ValueError, r"weight: shape \[K, C=3, 3, 3\] wanted"),
    ("masked_conv3x3", "bias", lambda b: b[:2], ValueError, r"bias: shape \[K=4\] wanted, got \[2\]"),
    ("masked_conv3x3", "gain", lambda b: b.to("meta"), ValueError, "gain: device cpu .that of x. wanted, got meta"),
    ("masked_conv3x3", "residual", lambda r: r[:1], ValueError, r"residual: shape \[N=2, K=4, H=5, W=6\] wanted"),
    ("masked_conv3x3", "mask", lambda m: "C", ValueError, "mask: one of A, B wanted, got 'C'"),
    ("pixelcnn_logits", "x", lambda x: x.expand(-1, 2, -1, -1), ValueError, r"x: shape \[N, 1, H, W\] wanted"),
    ("pixelcnn_logits", "context", lambda c: None, ValueError, r"context: \[N, K=2, H, W\] wanted"),
    ("pixelcnn_logits", "params", lambda p: tuple(p), TypeError, "params: PixelCNNParams wanted, got tuple"),
    (
        "pixelcnn_logits",
        "params",
        lambda p: p._replace(hidden_gain=p.hidden_gain[:1]),
        ValueError,
        "params.hidden_bias",
    ),
    ("pixelcnn_logits", "spec", lambda s: PixelCNNSpec(1.0, 1, (0, 4)), ValueError, "spec: pointwise_after"),
    ("pixelcnn_logits", "spec", lambda s: None, TypeError, "spec: PixelCNNSpec wanted"),
    ("pixelcnn_sample", "given", lambda g: g.float(), TypeError, "given: torch.int8 wanted, got torch.float32"),
    ("made_flow_forward", "z", lambda z: z[:, :4], ValueError, r"params.weight1: shape \[T, M, D=4\] wanted"),
    ("made_flow_forward", "hidden_context", lambda h: h[:1], ValueError, r"hidden_context: shape \[N=3, T=2, M=12\]"),
    ("made_flow_forward", "params", lambda p: p._replace(degrees=p.degrees.int()), TypeError, "params.degrees: "),
    ("made_flow_forward", "params", lambda p: p._replace(bias3=p.bias3[:, :7]), ValueError, "params.bias3"),
    ("made_flow_inverse", "eps", lambda e: e.long(), TypeError, "eps: torch.float32 wanted, got torch.int64"),
    ("made_forward", "x", lambda x: x[:, :3], ValueError, r"params.positions: shape \[D=3\] wanted, got \[4\]"),
    ("made_forward", "params", lambda p: p._replace(weight=p.weight[1:]), ValueError, "params.weight: 242 numbers for"),
    ("made_forward", "params", lambda p: tuple(p), TypeError, "params: MADEParams wanted, got tuple"),
    ("made_forward", "hidden_context", lambda c: None, ValueError, "hidden_context: 16 numbers for this spec wanted"),
    ("made_forward", "gates", lambda g: g[:, 1:], ValueError, "gates: 7 numbers for this spec wanted, got 6"),
    ("made_inverse", "spec", lambda s: None, TypeError, "spec: MADESpec wanted, got NoneType"),
    (
        "made_inverse",
        "params",
        lambda p: p._replace(positions=p.positions.int()),
        TypeError,
        "params.positions: torch.i",
    ),
    ("weight_norm", "g", lambda g: g[:4], ValueError, r"g: shape \[R=5\] wanted, got \[4\]"),
    ("weight_norm", "live", lambda n: n.int(), TypeError, "live: torch.int64 wanted, got torch.int32"),
]


@pytest.mark.parametrize(("op", "name", "spoil", "error", "message"), BAD)
def test_bad_input_names_the_argument(op, name, spoil, error, message):
    arguments = CASES[op]()
    arguments[name] = spoil(arguments[name])
    with pytest.raises(error, match=message):
        getattr(ops, op)(**arguments)


def spoiled(value, rng):
    """Some other value in place of an argument."""
    if isinstance(value, tuple) and rng.random() < 0.9:
        field = rng.choice(value._fields)
        return value._replace(**{field: spoiled(getattr(value, field), rng)})
    if not isinstance(value, torch.Tensor):
        return rng.choice([None, -1, 0, 3, 10**9, NAN, "A", "x", [], {}, (1,), torch.zeros(2)])
    axis = rng.randrange(max(value.dim(), 1))
    changes = [
        lambda t: None,
        lambda t: 1.0,
        lambda t: t.double(),
        lambda t: t.long(),
        lambda t: t.bool(),
        lambda t: t.to("meta"),
        lambda t: t.to_sparse() if t.is_floating_point() else t,
        lambda t: t * NAN if t.is_floating_point() else t + 100,
        lambda t: t[None],
        lambda t: t.flatten(),
        lambda t: t.narrow(axis, 0, t.shape[axis] // 2),
        lambda t: torch.cat([t, t], axis),
        lambda t: t.transpose(0, -1),
        lambda t: t.new_zeros((*t.shape[:-1], 0)),
        lambda t: t.expand(3, *t.shape)[1],
        lambda t: t.flip(0),
    ]
    return rng.choice(changes)(value)


@every_op
def test_fuzz_raises_clear_errors_only(op):
    rng = random.Random(op)
    refused = 0
    for _ in range(200):
        arguments = CASES[op]()
        for name in rng.sample(sorted(arguments), min(rng.choice([1, 1, 2]), len(arguments))):
            arguments[name] = spoiled(arguments[name], rng)
        try:
            getattr(ops, op)(**arguments)
        except (ValueError, TypeError) as error:
            assert str(error)
            refused += 1
    assert refused > 50


def test_direct_operator_calls_never_reach_native_code_with_wrong_sizes():
    arguments = stack_arguments()
    params = list(arguments["params"]._replace(output_weight=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"wanted"):
        torch.ops.vlae_fast.pixelcnn_logits(
            arguments["x"], arguments["context"], params, *wiring_of(arguments["spec"], params)
        )


def test_the_default_device_is_left_alone():
    """A wiring that no call has had yet: its table is made on the device of the tensors."""
    arguments = stack_arguments(L=6, P=2) | {"spec": PixelCNNSpec(0.3, 2, (2, 1))}
    with torch.device("meta"):
        assert ops.pixelcnn_log_prob(**arguments).device.type == "cpu"


def test_sampler_agrees_with_log_prob_on_real_sizes():
    params = pixelcnn_params()
    context, uniforms = torch.randn(5, 4, 28, 28), torch.rand(5, 28, 28)
    x = ops.pixelcnn_sample(context, params, uniforms)
    with use_backend("reference"):
        exact = ops.pixelcnn_logits(x.double(), context.double(), mapped(params, torch.Tensor.double))
    p = torch.sigmoid(exact[:, 0])
    tie = (uniforms - p).abs() < TOLERANCE["tie"]
    assert ((x[:, 0] == (uniforms < p)) | tie).all()


def test_sampler_compiles_where_parameters_record_gradients():
    arguments = mapped(CASES["pixelcnn_sample"](), lambda t: t.clone().requires_grad_())
    compiled = torch.compile(ops.pixelcnn_sample, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(**arguments), ops.pixelcnn_sample(**arguments))


@pytest.mark.parametrize("op", [op for op in DIFFERENTIABLE if op != "exp"])  # whose gradient is plain torch
def test_second_derivatives_are_refused(op):
    arguments = mapped(CASES[op](), lambda t: t.clone().requires_grad_())
    leaves = tensors_of(arguments)
    value = sum(t.square().sum() for t in outputs(getattr(ops, op)(**arguments)))
    first = torch.autograd.grad(value, leaves, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        sum(g.sum() for g in first).backward()
