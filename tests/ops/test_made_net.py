"""Every body of the op of one MADE of any wiring against the float64 reference, NaN around all memory."""

from array import array
from functools import partial

import pytest
import torch
from bodies import ISAS, every, every_case
from conftest import assert_close, with_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import net_params, residual_spec

from vlae_fast import MADEParams, MADESpec, gpu, native, ops, reference
from vlae_fast.ops import MADELayer
from vlae_fast.ops.arguments import addresses
from vlae_fast.ops.made import cpu
from vlae_fast.ops.made.net import layers_of
from vlae_fast.ops.made.spec import ACTIVATIONS, SCALES, spec_of, wiring_of

NUMBERS = {"softplus": (1e-3,), "sigmoid": (2.0, 1e-3), "soft_clip": (6.9,), "clamped": (-0.5, 0.3), "gated": (2.0,)}


def batch(N, D, spec):
    sizes = spec.sizes(D)
    return torch.randn(N, D), torch.randn(N, sizes["C"]), torch.rand(N, sizes["G"])


def double(value):
    return MADEParams(*(t.double() if t.is_floating_point() else t for t in value))


def check(body, spec, N, D):
    """Values of both directions, and the gradient back through the inverse.

    The inverse is taken at what the forward direction gave, so that it is well conditioned.
    """
    params = net_params(spec, D)
    x, context, gates = batch(N, D, spec)
    exact = double(params), spec, context.double(), gates.double()
    wiring = wiring_of(spec)
    x_put, params_put, context, gates = body.put([x, params, context, gates])
    y, log_det = body.made_forward(x_put, params_put, context, gates, *wiring)
    y64, log_det64 = reference.made_forward(x.double(), *exact)
    scales = 1e-2 + 10 * D  # log_det is a sum of D numbers of about 1 that may cancel
    assert_close(y, y64)
    assert_close(log_det, log_det64, scale=scales)
    back, log_det = body.made_inverse(y, params_put, context, gates, *wiring)
    x64, log_det64 = reference.made_inverse(y.double(), *exact)
    assert_close(back, x64, scale=10.0)
    assert_close(log_det, log_det64, scale=scales)
    given = y.double().requires_grad_()
    gradients = body.put([torch.randn(N, D), torch.randn(N)])
    loss = sum((t * g.double()).sum() for t, g in zip(reference.made_inverse(given, *exact), gradients, strict=True))
    dy, *_ = body.made_inverse_backward(*gradients, back, params_put, context, gates, *wiring)
    assert_close(dy, torch.autograd.grad(loss, given)[0], "gradient", scale=10.0)


@every(*ISAS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_the_reference(body, activation, scale):
    check(body, residual_spec(6, 9, activation, scale, NUMBERS.get(scale, ()), gated=True), 19, 6)


# N, D, and the widths of a feed-forward net
CASES = {
    "one sample": (1, 30, (40, 40)),
    "one variable": (5, 1, (6,)),
    "no hidden layer": (5, 4, ()),
    "widths that differ": (70, 7, (3, 50, 11, 20)),
    "more units than registers": (67, 3, (100, 100)),
    "no samples": (0, 4, (5,)),
    "no variables": (3, 0, (5,)),
    "no units": (3, 4, (0,)),
}


@every_case(CASES, *ISAS)
def test_equals_the_reference_at_any_shape(body, case):
    N, D, hidden = case
    check(body, MADESpec.feed_forward(D, hidden, "elu", "exp"), N, D)


@every(*ISAS)
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_equals_the_reference_at_any_wiring(body, data):
    D, M = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    layers = [MADELayer(M, context=data.draw(st.booleans()))]
    for i in range(1, data.draw(st.integers(1, 5))):
        source, adds = data.draw(st.integers(-1, i - 1)), data.draw(st.integers(-1, i - 1))
        flags = (data.draw(st.booleans()) for _ in range(3))
        activated, context, gated = flags
        layers.append(MADELayer(M, source, activated and source >= 0, adds, context, gated))
    scale = data.draw(st.sampled_from([*SCALES]))
    outputs = MADELayer(D if scale == "none" else 2 * D, data.draw(st.integers(-1, len(layers) - 1)))
    spec = MADESpec((*layers, outputs), "tanh", scale, NUMBERS.get(scale, ()))
    assert spec_of(*wiring_of(spec)) == spec
    check(body, spec, data.draw(st.integers(0, 40)), D)


@every(*ISAS)
def test_same_bits_for_any_split_and_threads(body):
    N, D = 300, 11
    spec = residual_spec(D, 40, "elu", "soft_clip", (6.9,), gated=True)
    x, context, gates = batch(N, D, spec)
    params, wiring = net_params(spec, D), wiring_of(spec)
    dx, dlog_det = torch.randn(N, D), torch.randn(N)

    def run(op, rows=slice(None)):
        return getattr(body, op)(*body.put([x[rows], params, context[rows], gates[rows]]), *wiring)

    def back(rows=slice(None)):
        """The gradient of y, of which each sample has its own."""
        given = body.put([dx[rows], dlog_det[rows], x[rows], params, context[rows], gates[rows]])
        return body.made_inverse_backward(*given, *wiring)[:1]

    for op in (partial(run, "made_forward"), partial(run, "made_inverse"), back):
        whole = op()
        for _ in with_threads(body.threads):
            assert all(map(torch.equal, op(), whole))
        for begin, end in ((0, 1), (299, 300), (3, 20), (60, 200)):
            rows = slice(begin, end)
            assert all(torch.equal(part, t[rows]) for part, t in zip(op(rows), whole, strict=True))


@every(*ISAS)
@pytest.mark.parametrize("N", [0, 1, 45, 300])
def test_several_steps_in_one_call_have_the_bits_of_one_after_the_other(body, N):
    """Permutations around them; rows of output weights in another order, wider than is read, some forbidden."""
    D, steps, layers, alive = 9, array("q"), array("q"), []
    y = x = torch.randn(N, D)
    log_det = torch.zeros(N)
    form = "softplus", (0.7,)
    for spec in (residual_spec(D, 20, "tanh", *form, gated=True), MADESpec.feed_forward(D, (30,), "elu", *form)):
        params, permutation = body.put(net_params(spec, D)), body.put(torch.randperm(D))
        _, context, gates = body.put(batch(N, D, spec))
        rows, columns = spec.layers[-1].rows, spec.columns(len(spec.layers) - 1, D)
        order, forbidden = body.put(torch.randperm(rows)), body.put((torch.rand(rows, columns) < 0.2).byte())
        wide, bias = body.put(torch.full((rows, columns + 3), torch.nan)), body.put(torch.empty(rows))
        weight = params[0][-rows * columns :].view(rows, columns)
        wide[order, 2:-1], bias[order] = weight.masked_fill(forbidden == 1, torch.nan), params[1][-rows:]
        weight.masked_fill_(forbidden == 1, 0.0)
        table = cpu.layers_of_call(spec, MADEParams(*params), D, context, gates)
        table[-15:-11] = array("q", addresses(wide[:, 2:], bias, order, forbidden))
        table[-7] = columns + 3
        steps.extend((params[3].data_ptr(), permutation.data_ptr(), len(spec.layers), *cpu.form(spec)))
        layers.extend(table)
        x, part = body.made_inverse(body.put(x[:, permutation]), params, context, gates, *wiring_of(spec))
        log_det = log_det + part
        alive += [params, permutation, context, gates, order, forbidden, wide, bias]
    order = body.put(torch.randperm(D))
    for _ in with_threads(body.threads):
        found, found_log_det = cpu.transform(body.put(y), steps, layers, order, inverse=True)
        assert torch.equal(found, x[:, order])
        assert_close(found_log_det, log_det, scale=10 * D)


def test_same_bits_on_every_instruction_set_with_fused_multiply_add():
    spec = residual_spec(9, 30, "tanh", "softplus", (1e-3,), gated=True)
    (x, context, gates), params = batch(50, 9, spec), net_params(spec, 9)
    found = []
    for name in ISAS:
        if name != "baseline":
            with native.use_isa(name):
                found.append(ops.made_inverse(x, params, spec, context, gates))
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))


@every(*ISAS)
def test_forbidden_weights_are_ignored_and_nan_stays_in_its_sample(body):
    spec = residual_spec(5, 12)
    (x, context, _), params = batch(20, 5, spec), net_params(spec, 5)
    mask = torch.cat([layer.mask.flatten() for layer in layers_of(params, spec)])
    spoiled = params._replace(weight=torch.where(mask == 0, torch.nan, params.weight))
    arguments = [x, context]
    for op in (body.made_forward, body.made_inverse):
        x, wanted = arguments[0], op(x, list(params), context, None, *wiring_of(spec))
        assert all(map(torch.equal, op(x, list(spoiled), context, None, *wiring_of(spec)), wanted))


def test_far_values_of_every_scale():
    """Outputs from -80 to 80: scales that are tiny or huge keep their relative precision."""
    raw = torch.linspace(-80, 80, 41)
    for scale in SCALES:
        if scale == "none":
            continue
        spec = MADESpec((MADELayer(82),), "identity", scale, NUMBERS.get(scale, ()))
        bias = torch.cat([torch.zeros(41), raw])
        params = MADEParams(torch.zeros(82 * 41), bias, torch.zeros(0).long(), torch.arange(41))
        y, log_det = ops.made_forward(torch.ones(1, 41), params, spec)
        y64, log_det64 = reference.made_forward(torch.ones(1, 41).double(), double(params), spec)
        torch.testing.assert_close(y.double(), y64, rtol=2e-5, atol=0)
        torch.testing.assert_close(log_det.double(), log_det64, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(layers=()), "layers: one or more wanted"),
        (dict(layers=(MADELayer(3, 0),)), r"layers\[0\].source: a whole number in -1..-1 wanted, got 0"),
        (dict(layers=(MADELayer(3), MADELayer(4, 0, True, 0))), r"layers\[1\].adds: a layer of 4 rows wanted, got 3"),
        (dict(layers=(MADELayer(3, activated=True),)), r"layers\[0\]: the variables have no activations"),
        (dict(activation="gelu"), "activation: one of identity, relu"),
        (dict(scale="cubic"), "scale: one of none, exp"),
        (dict(scale="softplus"), r"numbers: 1 for the scale softplus wanted, got \(\)"),
        (dict(scale="soft_clip", numbers=(-1.0,)), "numbers: 1 for the scale soft_clip"),
    ],
)
def test_wrong_specs_are_clear_errors(change, message):
    with pytest.raises(ValueError, match=message):
        MADESpec(**{"layers": (MADELayer(8),)} | change)


def test_no_cuda_body_is_a_clear_error():
    with pytest.raises(NotImplementedError, match="made_inverse: no CUDA body for nets of any wiring: move"):
        gpu.made_inverse()
