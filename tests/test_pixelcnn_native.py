"""CPU bodies of the PixelCNN stack against the float64 meaning, on sizes off and on the fast path."""

import pytest
import torch
from conftest import assert_close, pixelcnn_params
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae_fast import _native, native, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.ops.pixelcnn import cpu
from vlae_fast.reference import PixelCNNParams

R1 = {"L": 5, "P": 4}
CASES = {
    "R1": (3, 28, 28, R1, PixelCNNSpec()),
    "R2": (2, 9, 10, {"L": 6, "P": 4}, PixelCNNSpec(block_convs=2, pointwise_after=(0, 0, 1, 1))),
    "R4": (2, 10, 9, {"L": 12, "P": 4}, PixelCNNSpec(residual_scale=0.5, block_convs=2)),
    "untied": (3, 17, 23, {"L": 4, "S": 4, "P": 2}, PixelCNNSpec(pointwise_after=(3, 1), visible_stride=2)),
    "input and output only": (3, 5, 4, {"L": 0, "P": 0, "K": 1}, PixelCNNSpec()),
    "no context": (33, 4, 5, {"L": 2, "P": 1, "K": 0}, PixelCNNSpec()),
    "one pixel": (17, 1, 1, {"C": 7, "L": 13, "P": 3}, PixelCNNSpec(residual_scale=0.3, pointwise_after=(12, 0, 5))),
    "one column": (1, 29, 1, {"C": 1, "L": 2, "P": 8, "S": 2}, PixelCNNSpec(pointwise_after=(0, 1) * 4)),
    "one row": (1, 1, 300, {"C": 16, "L": 2, "P": 1}, PixelCNNSpec(block_convs=2, visible_stride=3)),
    "narrow": (2, 29, 3, {"C": 20, "L": 3, "P": 2}, PixelCNNSpec()),
    "many channels": (1, 6, 7, {"C": 33, "K": 9, "L": 2, "P": 1}, PixelCNNSpec()),
    "many images": (257, 3, 3, {"C": 4, "L": 2, "P": 1}, PixelCNNSpec()),
    "no images": (0, 8, 8, R1, PixelCNNSpec()),
}


def arguments(N, H, W, sizes, spec):
    """(x, context, params) in float32, and the wiring as `native` takes it."""
    params = pixelcnn_params(**sizes)
    x = (torch.rand(N, 1, H, W) < 0.4).float()
    context = torch.randn(N, params.context_weight.shape[1], H, W)
    after = spec.pointwise_positions(len(params.pointwise_weight), len(params.hidden_gain))
    return (x, context, list(params)), (spec.residual_scale, spec.block_convs, list(after), spec.visible_stride)


def check(op: str, args, wiring, spec: PixelCNNSpec) -> None:
    """Values and all gradients of one op against autograd through the float64 reference."""
    x, context, params = args
    leaves = [t.double().requires_grad_() for t in (x, context, *params)]
    no_context = context.shape[1] == 0
    expected = getattr(reference, op)(leaves[0], None if no_context else leaves[1], PixelCNNParams(*leaves[2:]), spec)
    assert_close(getattr(native, op)(*args, *wiring), expected.detach())

    grad = torch.randn_like(expected).float()
    wanted = torch.autograd.grad(expected, leaves, grad.double(), allow_unused=True, materialize_grads=True)
    for actual, gradient in zip(getattr(native, f"{op}_backward")(grad, *args, *wiring), wanted, strict=True):
        assert_close(actual, gradient, "gradient")


@pytest.mark.parametrize("op", ["pixelcnn_logits", "pixelcnn_log_prob"])
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case, op):
    check(op, *arguments(*CASES[case]), CASES[case][-1])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_matches_reference_on_any_size(data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    block_convs = draw(1, 2)
    blocks = draw(0, 3)
    L = blocks * block_convs
    after = tuple(data.draw(st.lists(st.integers(0, blocks - 1), max_size=3))) if blocks else ()
    sizes = {"C": draw(1, 26), "K": draw(0, 3), "L": L, "P": len(after), "S": data.draw(st.sampled_from([1, L or 1]))}
    spec = PixelCNNSpec(data.draw(st.sampled_from([1.0, 0.5])), block_convs, after, draw(1, 3))
    check("pixelcnn_log_prob", *arguments(draw(1, 5), draw(1, 12), draw(1, 40), sizes, spec), spec)


def test_pixels_need_not_be_binary():
    spec = PixelCNNSpec()
    (x, *rest), wiring = arguments(2, 6, 6, R1, spec)
    check("pixelcnn_logits", (torch.randn_like(x), *rest), wiring, spec)


def test_large_logits():
    (x, context, params), wiring = arguments(2, 6, 6, {"L": 1, "P": 0}, PixelCNNSpec())
    params[8] *= 200.0
    check("pixelcnn_log_prob", (x, context, params), wiring, PixelCNNSpec())


def test_same_bits_for_any_batch_and_threads():
    (x, context, params), wiring = arguments(17, 11, 14, R1, PixelCNNSpec())
    dlog_prob = torch.randn(17)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradients = native.pixelcnn_log_prob_backward(dlog_prob, x, context, params, *wiring)
        values = [
            native.pixelcnn_logits(x, context, params, *wiring),
            native.pixelcnn_log_prob(x, context, params, *wiring),
        ]
        results.append((*values, *gradients))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    for part in (slice(0, 1), slice(1, 7), slice(7, 17)):
        split = x[part], context[part], params
        assert torch.equal(native.pixelcnn_logits(*split, *wiring), results[0][0][part])
        assert torch.equal(native.pixelcnn_log_prob(*split, *wiring), results[0][1][part])
        dx, dcontext, *_ = native.pixelcnn_log_prob_backward(dlog_prob[part], *split, *wiring)
        assert torch.equal(dx, results[0][2][part])
        assert torch.equal(dcontext, results[0][3][part])


@pytest.mark.parametrize("case", ["untied", "no context", "no images"])
def test_every_output_is_written(case):
    (x, context, params), wiring = arguments(*CASES[case])
    call = cpu._pixelcnn(params, wiring, x=x, context=context)
    outputs = [torch.full_like(t, float("nan")) for t in (x, x, context, *params)]
    log_prob = torch.full((len(x),), float("nan"))
    given = *call, x.data_ptr(), context.data_ptr()
    _native.pixelcnn_logits(*given, 1, outputs[0].data_ptr())
    _native.pixelcnn_log_prob(*given, 1, log_prob.data_ptr())
    addresses = [t.data_ptr() for t in outputs[1:]]
    dlogits = torch.randn_like(x)
    _native.pixelcnn_backward(*given, dlogits.data_ptr(), 0, 1, *addresses[:2], tuple(addresses[2:]))
    assert all(torch.isfinite(t).all() for t in (*outputs, log_prob))
