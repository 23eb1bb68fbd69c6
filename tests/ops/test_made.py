"""Every body of the MADE flow against the float64 reference, NaN around all memory."""

import pytest
import torch
from bodies import CUDA, ISAS, SIMULATED, every, every_case
from conftest import TOLERANCE, assert_close, made_params, with_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import flow_tensors
from torch import Tensor

from vlae_fast import MADEFlowParams, masks, reference

BODIES = (*ISAS, *CUDA)


class Conditions:
    """What bounds the accuracy of float32 in a pass of the reference: `visit` of `reference.made_flow_forward`.

    Notes the samples that have a hidden unit so close to 0 that float32 may switch it on or off otherwise, and the
    largest sum over a sample of what log_det is made of, which may cancel.
    """

    def __init__(self, params: MADEFlowParams, context: Tensor | None) -> None:
        self.params, self.context = params, context
        self.kinks = torch.tensor(False)
        self.sum_of_scales = 0.0

    def __call__(self, name: str, t: int, h: Tensor) -> Tensor:
        if name == "output":
            scales = (h + self.params.bias3[t])[:, self.params.weight1.shape[2] :]
            self.sum_of_scales += scales.abs().sum(1).amax().item() if scales.numel() else 0.0
            return h
        units = h + (self.params.bias1 if name == "hidden1" else self.params.bias2)[t]
        if name == "hidden1" and self.context is not None:
            units = units + self.context[:, t]
        self.kinks = self.kinks | (units.abs() < 1e-5).any(1)
        return h


def doubled(tensors):
    """float64 leaves that take gradients; int64 tensors and None stay."""
    return [t if t is None or not t.is_floating_point() else t.double().requires_grad_() for t in tensors]


def check(body, N, params, with_context):
    """Values and gradients of both directions."""
    z, context = flow_tensors(N, params, with_context)
    z64, context64, *params64 = doubled((z, context, *params))
    params64 = MADEFlowParams(*params64)
    conditions = Conditions(params64, context64)
    eps64, log_det64 = reference.made_flow_forward(z64, params64, context64, conditions)

    smooth = ~conditions.kinks
    deps, dlog_det = torch.randn_like(z) * smooth[..., None], torch.randn(N) * smooth
    loss = (deps * eps64).sum() + (dlog_det * log_det64).sum()
    wanted = [t for t in (z64, context64, *params64[:6]) if t is not None]
    expected = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)

    z, context, params, deps, dlog_det = body.put([z, context, params, deps, dlog_det])
    eps, log_det = body.made_flow_forward(z, params, context)
    assert_close(eps, eps64)
    assert_close(log_det, log_det64, scale=conditions.sum_of_scales)

    dz, dcontext, *dparams = body.made_flow_forward_backward(deps, dlog_det, z, params, context)
    for actual, gradient in zip([dz, *([dcontext] if with_context else []), *dparams], expected, strict=True):
        assert_close(actual, gradient, "gradient")
        assert (actual.cpu()[gradient == 0] == 0).all(), "a forbidden connection has a gradient"

    drawn, eps = body.made_flow_inverse(eps, params, context), eps.cpu().double()
    expected = reference.made_flow_inverse(eps, params64, context64)
    # Drawn parameters may blow up a rounding of eps a hundred thousand times.
    rounded = eps * (1 + 2.0**-24 * torch.randn(eps.shape).sign().double())
    moved = reference.made_flow_inverse(rounded, params64, context64) - expected
    moved_most = moved.abs().max().item() if moved.numel() else 0.0
    assert_close(drawn, expected, scale=4 * moved_most / TOLERANCE["value"])


# N, D, M, T, degrees
CASES = {
    "paper-like": (33, 64, 160, 2, None),
    "one sample": (1, 64, 100, 2, None),
    "units no multiple of dimensions": (3, 5, 33, 3, None),
    "one dimension": (3, 1, 40, 2, None),
    "wide": (3, 130, 70, 1, None),
    "all units of degree 0": (33, 6, 70, 2, [0] * 70),
    "one crowded degree": (5, 9, 150, 2, [1] * 2 + [4] * 140 + [7] * 8),
    "absent degrees": (17, 80, 12, 2, [3] * 5 + [20] + [78] * 6),
    "units that no output sees": (4, 4, 6, 2, [3] * 6),
    "no samples": (0, 4, 6, 2, None),
    "no steps": (3, 4, 6, 0, None),
    "no units": (3, 4, 0, 2, None),
}
LARGE = {
    "four steps": (33, 64, 160, 4, None),
    "one sample, 160 units": (1, 64, 160, 2, None),
    "17 samples, units no multiple of dimensions": (17, 13, 45, 3, None),
    "several chunks": (257, 5, 33, 1, None),
    "several batches of the backward": (513, 3, 8, 2, None),
    "17 samples, all units of degree 0": (17, 6, 70, 2, [0] * 70),
    "a degree a little crowded": (5, 9, 77, 2, [1] * 2 + [4] * 70 + [7] * 5),
    "absent degrees of 40": (17, 40, 12, 2, [3] * 5 + [20] + [38] * 6),
}


def params_of(case, scale):
    _, D, M, T, degrees = case
    return made_params(D, M, T, scale, None if degrees is None else torch.tensor(degrees))


@every_case(CASES, *BODIES, large=LARGE)
@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_equals_the_reference(body, case, scale, with_context):
    check(body, case[0], params_of(case, scale), with_context)


@every(*ISAS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_equals_the_reference_at_any_size(body, data):
    N, D, T = (data.draw(st.integers(low, high)) for low, high in ((0, 40), (1, 70), (0, 3)))
    degrees = sorted(data.draw(st.lists(st.integers(0, D - 1), max_size=80)))
    params = made_params(D, len(degrees), T, data.draw(st.booleans()), torch.tensor(degrees, dtype=torch.int64))
    check(body, N, params, data.draw(st.booleans()))


# The inverse's ways, by what a simulated chip has.
WAYS = {
    "latency": {},
    "throughput": {"CUDA_SIM_MULTIPROCESSORS": "0"},
    "16 samples a block": {"CUDA_SIM_MULTIPROCESSORS": "0", "CUDA_SIM_SHARED_BYTES": "100000"},
    "activations in global memory": {"CUDA_SIM_SHARED_BYTES": "49152"},
}


@every_case({name: CASES[name] for name in ("units no multiple of dimensions", "one crowded degree")}, *CUDA)
@pytest.mark.parametrize("order", ["falling", "shuffled"])
@pytest.mark.parametrize("way", WAYS)
def test_equals_the_reference_in_any_order_and_way(body, case, way, order, monkeypatch):
    for name, value in ({"CUDA_SIM_ORDER": order} | WAYS[way]).items():
        monkeypatch.setenv(name, value)
    check(body, 35, params_of(case, True), True)


@every(*BODIES)
@pytest.mark.parametrize("scale", [False, True])
def test_same_bits_for_any_split_way_and_threads(body, scale, monkeypatch):
    N, M = (600, 77) if body.name in ISAS else (70, 150)
    params = made_params(D=20, M=M, T=3 if body.name in ISAS else 2, scale=scale)
    z, context = flow_tensors(N, params, True)
    z, context, params, deps, dlog_det = body.put([z, context, params, torch.randn_like(z), torch.randn(N)])

    def run(rows=slice(None)):
        """Everything that has a row for each sample, then the rest."""
        dz, dcontext, *dparams = body.made_flow_forward_backward(
            deps[rows], dlog_det[rows], z[rows], params, context[rows]
        )
        drawn = body.made_flow_inverse(z[rows], params, context[rows])
        return [*body.made_flow_forward(z[rows], params, context[rows]), drawn, dz, dcontext, *dparams]

    def same(rows):
        return all(map(torch.equal, run(rows)[:5], (t[rows] for t in whole)))

    whole = run()
    for _ in with_threads(body.threads):
        assert all(map(torch.equal, run(), whole))
    if body.name in ISAS:
        for begin, end in ((0, 1), (599, 600), (3, 20), (250, 275), (100, 357)):
            assert same(slice(begin, end))
    for environment in WAYS.values() if body.name in SIMULATED else ():
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for begin, end in ((0, 70), (0, 1), (3, 40)):
                assert same(slice(begin, end))


@every(*BODIES)
@pytest.mark.parametrize("way", ["latency", "throughput"])
def test_forbidden_weights_are_ignored(body, way, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setenv(name, value)
    params = made_params(D=9, M=141, T=2, scale=True)
    z, _ = flow_tensors(5, params, False)
    first, second, third = masks.made_masks(params.degrees, 9, like=z)
    spoiled = list(params)
    for i, mask in ((0, first), (2, second), (4, third.repeat(2, 1))):
        spoiled[i] = torch.where(mask == 0, torch.nan, params[i])
    z, spoiled, params = body.put([z, spoiled, params])
    for function in (body.made_flow_forward, lambda *a: (body.made_flow_inverse(*a),)):
        for actual, wanted in zip(function(z, spoiled, None), function(z, params, None), strict=True):
            assert torch.equal(actual, wanted)


@every(*BODIES)
def test_scale_far_from_zero(body):
    params = made_params(D=4, M=8, T=1, scale=True)
    params.bias3[0, 4:] = torch.tensor([30.0, -30.0, 60.0, -60.0])
    z, _ = flow_tensors(5, params, False)
    eps, _ = body.made_flow_forward(*body.put([z, params]), None)
    expected, _ = reference.made_flow_forward(z.double(), MADEFlowParams(*doubled(params)))
    torch.testing.assert_close(eps.cpu(), expected.float(), rtol=1e-4, atol=0)
