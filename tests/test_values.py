"""Values that every op refuses, ignores or lets show, in every body."""

import numpy as np
import pytest
import torch
from bodies import TRITON, every
from conftest import made_params, pixelcnn_params
from op_cases import (
    CASES,
    DIFFERENTIABLE,
    conv_arguments,
    mapped,
    outputs,
    sample_arguments,
    tensors_of,
    wiring_of,
)
from torch._subclasses import FakeTensorMode

from vlae_fast import masks, ops, use_backend
from vlae_fast.checks import NonFiniteError
from vlae_fast.ops.made.net import layers_of

NAN, INF = float("nan"), float("inf")
pytestmark = [pytest.mark.native, pytest.mark.usefixtures("isa")]
BACKENDS = ("auto", "reference")
both_backends = pytest.mark.parametrize("backend", BACKENDS)

# Arguments of an op, what becomes of one of them, and what is said of it.
BAD_VALUES = [
    ("masked_conv3x3", "x", lambda x: x * NAN, NonFiniteError, "x: finite values wanted, got NaN or infinity"),
    ("masked_conv3x3", "residual", lambda r: r / 0, NonFiniteError, "residual: finite values wanted"),
    ("masked_conv3x3", "residual_scale", lambda s: NAN, ValueError, "residual_scale: a finite number wanted, got nan"),
    ("masked_conv3x3", "residual_scale", lambda s: "1", TypeError, "residual_scale: a number wanted, got '1'"),
    ("masked_conv3x3", "residual_scale", lambda s: None, TypeError, "residual_scale: a number wanted, got None"),
    ("masked_conv3x3", "residual_scale", lambda s: True, TypeError, "residual_scale: a number wanted, got True"),
    ("pixelcnn_logits", "x", lambda x: x * INF, NonFiniteError, "x: finite values wanted"),
    ("pixelcnn_logits", "context", lambda c: c * NAN, NonFiniteError, "context: finite values wanted"),
    ("pixelcnn_log_prob", "x", lambda x: x + 0.5, ValueError, r"x: binary pixels \(0 or 1\) wanted, got 0.5 to 1.5"),
    ("pixelcnn_log_prob", "x", lambda x: x * NAN, NonFiniteError, r"x: binary pixels \(0 or 1\) wanted, got nan"),
    ("pixelcnn_log_prob", "context", lambda c: c / 0, NonFiniteError, "context: finite values wanted"),
    ("pixelcnn_sample", "context", lambda c: c * NAN, NonFiniteError, "context: finite values wanted"),
    ("pixelcnn_sample", "uniforms", lambda u: u * 0 + 7, ValueError, r"uniforms: values in \[0, 1\) wanted, got 7.0"),
    ("pixelcnn_sample", "uniforms", lambda u: u * 0 + 1, ValueError, r"uniforms: values in \[0, 1\) wanted, got 1.0"),
    ("pixelcnn_sample", "uniforms", lambda u: u - 1, ValueError, r"uniforms: values in \[0, 1\) wanted, got -"),
    ("pixelcnn_sample", "uniforms", lambda u: u * NAN, NonFiniteError, r"uniforms: values in \[0, 1\) wanted, got nan"),
    ("pixelcnn_sample", "given", lambda g: g * 0 + 5, ValueError, "given: values -1, 0 or 1 wanted, got 5 to 5"),
    ("pixelcnn_sample", "given", lambda g: g * 0 - 2, ValueError, "given: values -1, 0 or 1 wanted, got -2"),
    ("pixelcnn_sample", "temperature", lambda t: 0.0, ValueError, "temperature: a positive number wanted, got 0"),
    ("pixelcnn_sample", "temperature", lambda t: NAN, ValueError, "temperature: a positive number wanted, got nan"),
    ("pixelcnn_sample", "temperature", lambda t: INF, ValueError, "temperature: a positive number wanted, got inf"),
    ("pixelcnn_sample", "temperature", lambda t: "1", TypeError, "temperature: a number wanted, got '1'"),
    ("pixelcnn_sample", "temperature", lambda t: None, TypeError, "temperature: a number wanted, got None"),
    ("pixelcnn_sample", "temperature", lambda t: torch.ones(2), TypeError, "temperature: a number wanted, got tensor"),
    ("made_flow_forward", "z", lambda z: z * NAN, NonFiniteError, "z: finite values wanted"),
    ("made_flow_forward", "hidden_context", lambda h: h / 0, NonFiniteError, "hidden_context: finite values wanted"),
    (
        "made_flow_forward",
        "params",
        lambda p: p._replace(degrees=p.degrees.flip(0)),
        ValueError,
        "params.degrees: non-",
    ),
    ("made_flow_forward", "params", lambda p: p._replace(degrees=p.degrees + 1), ValueError, "degrees in 0..4 wanted"),
    ("made_flow_inverse", "params", lambda p: p._replace(degrees=p.degrees - 1), ValueError, "degrees in 0..4 wanted"),
    ("made_flow_inverse", "eps", lambda e: e * NAN, NonFiniteError, "eps: finite values wanted"),
    ("made_forward", "x", lambda x: x * NAN, NonFiniteError, "x: finite values wanted"),
    ("made_inverse", "gates", lambda g: g / 0, NonFiniteError, "gates: finite values wanted"),
    (
        "made_inverse",
        "params",
        lambda p: p._replace(degrees=p.degrees + 1),
        ValueError,
        r"params.degrees: degrees in 0..4",
    ),
    (
        "made_forward",
        "params",
        lambda p: p._replace(positions=p.positions.clamp(max=2)),
        ValueError,
        "params.positions: 0..3, each once, wanted",
    ),
    ("weight_norm", "live", lambda n: n + 1, ValueError, "live: values in 0..9 wanted, got 1 to 10"),
    ("weight_norm", "live", lambda n: n - 1, ValueError, "live: values in 0..9 wanted, got -1 to 8"),
]


@both_backends
@pytest.mark.parametrize(("op", "name", "spoil", "error", "message"), BAD_VALUES)
def test_bad_values_are_refused_in_every_body(op, name, spoil, error, message, backend):
    arguments = CASES[op]()
    arguments[name] = spoil(arguments[name])
    with use_backend(backend), pytest.raises(error, match=message) as caught:
        getattr(ops, op)(**arguments)
    assert "\n" not in str(caught.value)


def test_uniforms_just_below_one_in_float64():
    arguments = mapped(sample_arguments(), torch.Tensor.double)
    arguments["uniforms"] = torch.full_like(arguments["uniforms"], 1 - 2.0**-53)
    with use_backend("reference"):
        ops.pixelcnn_sample(**arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_uniforms_that_half_precision_rounds_to_one(dtype):
    arguments = mapped(sample_arguments(), lambda t: t.to(dtype))
    with use_backend("reference"):
        ops.pixelcnn_sample(**arguments | {"uniforms": torch.ones_like(arguments["uniforms"])})
        with pytest.raises(ValueError, match="uniforms: values in"):
            ops.pixelcnn_sample(**arguments | {"uniforms": 1.1 * torch.ones_like(arguments["uniforms"])})


def test_a_compiled_graph_still_looks_at_values():
    compiled = torch.compile(ops.pixelcnn_log_prob, fullgraph=True, backend="aot_eager")
    arguments = CASES["pixelcnn_log_prob"]()
    compiled(**arguments)
    with pytest.raises(ValueError, match="x: binary pixels"):
        compiled(**arguments | {"x": arguments["x"] + 0.5})


@both_backends
def test_tensors_without_values_are_not_looked_at(backend):
    with FakeTensorMode(), use_backend(backend):
        for op in DIFFERENTIABLE:
            getattr(ops, op)(**CASES[op]())


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, torch.tensor], ids=lambda kind: kind.__name__)
@both_backends
def test_numbers_of_every_kind(kind, backend):
    with use_backend(backend):
        arguments = sample_arguments()
        drawn = ops.pixelcnn_sample(**arguments | {"temperature": kind(0.5)})
        assert torch.equal(drawn, ops.pixelcnn_sample(**arguments | {"temperature": 0.5}))
        arguments = conv_arguments()
        y = ops.masked_conv3x3(**arguments | {"residual_scale": kind(0.5)})
        assert torch.equal(y, ops.masked_conv3x3(**arguments | {"residual_scale": 0.5}))


@both_backends
@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e40, 1e300])
def test_temperatures_that_float32_does_not_hold(temperature, backend):
    """As cold as can be: the likelier value. As hot: a fair coin."""
    arguments = sample_arguments() | {"temperature": temperature, "given": None}
    with use_backend(backend):
        drawn = ops.pixelcnn_sample(**arguments)
        if temperature > 1:
            assert torch.equal(drawn[:, 0], (arguments["uniforms"] < 0.5).float())
        else:
            logits = ops.pixelcnn_logits(drawn, arguments["context"], arguments["params"], arguments["spec"])
            assert torch.equal(drawn, (logits > 0).float())


# --- what a mask forbids ----------------------------------------------------------------------------------------


MASKED = ("masked_conv3x3", "weight_norm", *(op for op in CASES if op.startswith(("pixelcnn", "made"))))


def forbidden(op, arguments):
    """The arguments' float tensors, each with a mask that is 1 where the tensor counts."""
    if op == "masked_conv3x3":
        return {"weight": masks.causal3x3(arguments["mask"], like=arguments["weight"])}
    if op == "weight_norm":
        return {"v": torch.arange(9) < arguments["live"][:, None]}
    params = arguments["params"]
    if "spec" in arguments and op.startswith("made"):
        layers = layers_of(params, arguments["spec"])
        return {"weight": torch.cat([layer.mask.flatten() for layer in layers])}
    if op.startswith("made"):
        first, second, third = masks.made_masks(params.degrees, params.weight1.shape[2], like=params.weight1)
        return {"weight1": first, "weight2": second, "weight3": third.repeat(2, 1)}
    return {
        name: masks.causal3x3(kind, like=params[0]) for name, kind in (("image_weight", "A"), ("hidden_weight", "B"))
    }


def with_tensors(arguments, change):
    """The arguments, and every tensor of theirs or of their params, changed by name."""
    changed = {k: change(k, v) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    if "params" in changed:
        params = changed["params"]
        changed["params"] = type(params)(*(change(k, v) for k, v in zip(params._fields, params, strict=True)))
    return changed


@both_backends
@pytest.mark.parametrize("op", MASKED)
def test_what_a_mask_forbids_is_ignored_even_nan(op, backend):
    arguments = CASES[op]()
    allowed = forbidden(op, arguments)

    def run(fill):
        def change(name, value):
            if name in allowed:
                value = torch.where(allowed[name] == 1, value, fill)
            return value.clone().requires_grad_() if value.is_floating_point() and op in DIFFERENTIABLE else value

        spoiled = with_tensors(arguments, change)
        with use_backend(backend):
            found = outputs(getattr(ops, op)(**spoiled))
        if op not in DIFFERENTIABLE:
            return [*found]
        return [*found, *torch.autograd.grad(sum(t.sum() for t in found), tensors_of(spoiled))]

    for actual, expected in zip(run(NAN), run(0.0), strict=True):
        assert torch.equal(actual, expected)


# --- parameters that are NaN ------------------------------------------------------------------------------------


def float_parameters(op):
    """Names of those that no body looks at, but which must show."""
    arguments = CASES[op]()
    names = arguments["params"]._fields if "params" in arguments else ("weight", "bias", "gain", "v", "g")
    return [
        name
        for name in names
        if name not in ("degrees", "positions")
        and ("params" in arguments or isinstance(arguments.get(name), torch.Tensor))
    ]


NAN_CASES = [(op, name) for op in CASES for name in float_parameters(op)]


def spoiled_arguments(op, spoiled):
    return with_tensors(CASES[op](), lambda name, value: value * NAN if name == spoiled else value)


@both_backends
@pytest.mark.parametrize(("op", "name"), NAN_CASES)
def test_nan_in_a_parameter_shows(op, name, backend):
    arguments = spoiled_arguments(op, name)
    with use_backend(backend):
        if op == "pixelcnn_sample":
            with pytest.raises(NonFiniteError, match="params: they make logits that are NaN"):
                ops.pixelcnn_sample(**arguments)
            return
        found = outputs(getattr(ops, op)(**arguments))
    per_item = torch.stack([t.flatten(1).isnan().any(1) if t.dim() > 1 else t.isnan() for t in found]).any(0)
    rows = arguments["live"] > 0 if op == "weight_norm" else slice(None)
    assert per_item[rows].all()


@every(TRITON)
@pytest.mark.parametrize(
    ("op", "name"),
    [("pixelcnn_logits", "hidden_weight"), ("pixelcnn_log_prob", "output_bias"), ("pixelcnn_sample", "hidden_weight")],
)
def test_nan_in_a_parameter_shows_in_a_gpus_body(body, op, name):
    arguments = spoiled_arguments(op, name)
    params, context = arguments["params"], arguments["context"]
    wiring = wiring_of(arguments["spec"], params)
    if op != "pixelcnn_sample":
        found = getattr(body, op)(*body.put((arguments["x"], context, params)), *wiring)
        assert found.isnan().view(2, -1).any(1).all()
        return
    context, uniforms, given = (
        t[..., :2, :3].contiguous() for t in (context, arguments["uniforms"], arguments["given"])
    )
    drawn = body.pixelcnn_sample(*body.put((context, params, uniforms)), *wiring, 1.0, body.put(given))[:, 0].cpu()
    assert drawn[given < 0].isnan().all()
    assert torch.equal(drawn[given >= 0], given[given >= 0].float())


@both_backends
def test_an_image_with_nan_logits_leaves_the_others_alone(backend):
    """A huge context overflows in one image of three; its given pixels are kept."""
    params = pixelcnn_params(C=3, K=2, L=2, P=1)._replace(output_weight=torch.tensor([1.0, -1.0, 1.0]))
    context, uniforms = torch.randn(3, 2, 5, 6), torch.rand(3, 5, 6)
    with use_backend(backend):
        expected = ops.pixelcnn_sample(context, params, uniforms)
        context[1] = 3e38
        given = torch.full((3, 5, 6), -1, dtype=torch.int8)
        with pytest.raises(NonFiniteError):
            ops.pixelcnn_sample(context, params, uniforms, given=given)
        given[1] = 1
        drawn = ops.pixelcnn_sample(context, params, uniforms, given=given)
    assert torch.equal(drawn[0], expected[0])
    assert torch.equal(drawn[2], expected[2])
    assert (drawn[1] == 1).all()


def test_nan_scale_shows_in_both_directions():
    """exp(NaN) is no number."""
    params = made_params(D=3, M=6, T=1, scale=True)
    bias3 = params.bias3.clone()
    bias3[:, 3:] = NAN
    params = params._replace(bias3=bias3)
    eps, log_det = ops.made_flow_forward(torch.randn(2, 3), params)
    assert eps.isnan().all()
    assert log_det.isnan().all()
    assert ops.made_flow_inverse(torch.randn(2, 3), params).isnan().all()


def test_gradients_show_nan_logits():
    arguments = spoiled_arguments("pixelcnn_log_prob", "output_bias")
    leaves = mapped(arguments, lambda t: t.clone().requires_grad_())
    for gradient in torch.autograd.grad(ops.pixelcnn_log_prob(**leaves).sum(), leaves["params"]):
        assert gradient.isnan().any()
