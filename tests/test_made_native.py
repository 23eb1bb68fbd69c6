"""The compiled CPU bodies of the MADE flow against the float64 reference."""

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from conftest import TOLERANCE, assert_close, made_params
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlae_fast import _native, masks, native, reference
from vlae_fast.reference import MADEFlowParams


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products of the reference wait for their threads longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(N, params: MADEFlowParams, with_context: bool) -> tuple[Tensor, Tensor | None]:
    T, M = params.bias1.shape
    return torch.randn(N, params.weight1.shape[2]), torch.randn(N, T, M) if with_context else None


def doubled(tensors) -> list[Tensor | None]:
    """float64 leaves that take gradients; int64 tensors and None stay."""
    return [t if t is None or not t.is_floating_point() else t.double().requires_grad_() for t in tensors]


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


def check_against_reference(N, params: MADEFlowParams, with_context: bool, body: ModuleType = native) -> None:
    """Values and gradients of the compiled bodies that a module holds."""
    z, context = arguments(N, params, with_context)
    z64, context64, *params64 = doubled((z, context, *params))
    params64 = MADEFlowParams(*params64)
    conditions = Conditions(params64, context64)
    eps64, log_det64 = reference.made_flow_forward(z64, params64, context64, conditions)

    eps, log_det = body.made_flow_forward(z, list(params), context)
    assert_close(eps, eps64)
    assert_close(log_det, log_det64, scale=conditions.sum_of_scales)

    smooth = ~conditions.kinks
    deps, dlog_det = torch.randn_like(z) * smooth[..., None], torch.randn(N) * smooth
    dz, dcontext, *dparams = body.made_flow_forward_backward(deps, dlog_det, z, list(params), context)
    wanted = [t for t in (z64, context64, *params64[:6]) if t is not None]
    loss = (deps * eps64).sum() + (dlog_det * log_det64).sum()
    expected = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    got = [dz, *([dcontext] if with_context else []), *dparams]
    for actual, gradient in zip(got, expected, strict=True):
        assert_close(actual, gradient, "gradient")
        assert (actual[gradient == 0] == 0).all(), "a forbidden connection has a gradient"

    drawn = body.made_flow_inverse(eps, list(params), context)
    expected = reference.made_flow_inverse(eps.double(), params64, context64)
    # Drawn parameters may blow up a rounding of eps a hundred thousand times.
    rounded = eps.double() * (1 + 2.0**-24 * torch.randn(eps.shape).sign().double())
    moved = reference.made_flow_inverse(rounded, params64, context64) - expected
    moved_most = moved.abs().max().item() if moved.numel() else 0.0
    assert_close(drawn, expected, scale=4 * moved_most / TOLERANCE["value"])


CASES = {  # N, D, M, T, degrees
    "paper-like": (33, 64, 160, 4, None),
    "one sample": (1, 64, 160, 2, None),
    "units no multiple of dimensions": (17, 13, 45, 3, None),
    "several chunks": (257, 5, 33, 1, None),
    "several batches of the backward": (513, 3, 8, 2, None),
    "one dimension": (3, 1, 40, 2, None),
    "wide": (3, 130, 70, 1, None),
    "all units of degree 0": (17, 6, 70, 2, [0] * 70),
    "one crowded degree": (5, 9, 77, 2, [1] * 2 + [4] * 70 + [7] * 5),
    "absent degrees": (17, 40, 12, 2, [3] * 5 + [20] + [38] * 6),
    "units that no output sees": (4, 4, 6, 2, [3] * 6),
    "no samples": (0, 4, 6, 2, None),
    "no steps": (3, 4, 6, 0, None),
    "no units": (3, 4, 0, 2, None),
}


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case: str, scale: bool, with_context: bool) -> None:
    N, D, M, T, degrees = CASES[case]
    degrees = None if degrees is None else torch.tensor(degrees)
    check_against_reference(N, made_params(D, M, T, scale, degrees), with_context)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_equals_reference_at_any_size(data: st.DataObject) -> None:
    N, D, T = (data.draw(st.integers(low, high)) for low, high in ((0, 40), (1, 70), (0, 3)))
    degrees = sorted(data.draw(st.lists(st.integers(0, D - 1), max_size=80)))
    params = made_params(D, len(degrees), T, data.draw(st.booleans()), torch.tensor(degrees, dtype=torch.int64))
    check_against_reference(N, params, data.draw(st.booleans()))


@pytest.mark.parametrize("scale", [False, True])
def test_same_bits_for_any_split_and_threads(scale: bool) -> None:
    params = list(made_params(D=20, M=77, T=3, scale=scale))
    z, context = arguments(600, made_params(D=20, M=77, T=3, scale=scale), True)
    deps, dlog_det = torch.randn_like(z), torch.randn(len(z))

    def run(rows: slice) -> list[Tensor]:
        """Everything that has a row for each sample."""
        dz, dcontext, *_ = native.made_flow_forward_backward(deps[rows], dlog_det[rows], z[rows], params, context[rows])
        drawn = native.made_flow_inverse(z[rows], params, context[rows])
        return [*native.made_flow_forward(z[rows], params, context[rows]), drawn, dz, dcontext]

    def gradients() -> list[Tensor]:
        return native.made_flow_forward_backward(deps, dlog_det, z, params, context)[2:]

    whole, dparams = run(slice(None)), gradients()
    for begin, end in ((0, 1), (599, 600), (3, 20), (250, 275), (100, 357)):
        assert all(map(torch.equal, run(slice(begin, end)), (t[begin:end] for t in whole)))
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert all(map(torch.equal, run(slice(None)), whole))
        assert all(map(torch.equal, gradients(), dparams))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("N", [0, 3])
def test_every_element_of_the_outputs_is_written(N: int, scale: bool) -> None:
    D, M, T = 7, 40, 2
    params = made_params(D, M, T, scale)
    z, context = arguments(N, params, True)
    deps, dlog_det = torch.randn(N, D), torch.randn(N)
    sizes, inputs = (N, D, M, T, scale), tuple(t.data_ptr() for t in params)

    def outputs(*shapes: torch.Size) -> list[Tensor]:
        return [torch.full(shape, torch.nan) for shape in shapes]

    forward, inverse = outputs(z.shape, (N,)), outputs(z.shape)
    rows, dparams = outputs(z.shape, context.shape), outputs(*(p.shape for p in params[:6]))
    common = (sizes, inputs, z.data_ptr(), context.data_ptr())
    _native.made_flow_forward(*common, 1, *(t.data_ptr() for t in forward))
    _native.made_flow_inverse(*common, 1, *(t.data_ptr() for t in inverse))
    _native.made_flow_backward(
        *common, deps.data_ptr(), dlog_det.data_ptr(), 1, *(t.data_ptr() for t in rows),
        tuple(t.data_ptr() for t in dparams),
    )  # fmt: skip
    assert all(t.isfinite().all() for t in (*forward, *inverse, *rows, *dparams))


def test_forbidden_weights_are_ignored() -> None:
    params = made_params(D=9, M=41, T=2, scale=True)
    z, _ = arguments(5, params, False)
    expected = native.made_flow_forward(z, list(params), None)
    first, second, third = masks.made_masks(params.degrees, 9, like=z)
    spoiled = list(params)
    for i, mask in ((0, first), (2, second), (4, third.repeat(2, 1))):
        spoiled[i] = torch.where(mask == 0, torch.nan, params[i])
    for actual, wanted in zip(native.made_flow_forward(z, spoiled, None), expected, strict=True):
        assert torch.equal(actual, wanted)
    assert torch.equal(native.made_flow_inverse(z, spoiled, None), native.made_flow_inverse(z, list(params), None))


def test_scale_far_from_zero() -> None:
    params = made_params(D=4, M=8, T=1, scale=True)
    params.bias3[0, 4:] = torch.tensor([30.0, -30.0, 60.0, -60.0])
    z, _ = arguments(5, params, False)
    eps, _ = native.made_flow_forward(z, list(params), None)
    expected, _ = reference.made_flow_forward(z.double(), MADEFlowParams(*doubled(params)))
    torch.testing.assert_close(eps, expected.float(), rtol=1e-4, atol=0)
