"""Every body of the PixelCNN stack against the float64 meaning, on sizes off and on the fast path, NaN around all."""

import pytest
import torch
from bodies import ISAS, TRITON, every, every_case
from conftest import assert_close, with_threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from op_cases import stack_tensors

from vlae_fast import PixelCNNParams, PixelCNNSpec, reference

BODIES = (*ISAS, TRITON)
R1 = {"L": 5, "P": 4}
# N, H, W, sizes, wiring. An interpreter's time goes by operations: C * C of them for each layer, few programs.
CASES = {
    "R1": (1, 28, 28, {"C": 12, **R1}, PixelCNNSpec()),
    "R2": (3, 9, 10, {"C": 3, "L": 6, "P": 4}, PixelCNNSpec(block_convs=2, pointwise_after=(0, 0, 1, 1))),
    "R4": (2, 10, 9, {"C": 2, "L": 12, "P": 4}, PixelCNNSpec(residual_scale=0.5, block_convs=2)),
    "several rounds": (5, 28, 28, {"C": 1, "K": 1, "L": 2, "P": 1}, PixelCNNSpec()),
    "untied": (3, 17, 23, {"C": 4, "L": 4, "S": 4, "P": 2}, PixelCNNSpec(pointwise_after=(3, 1), visible_stride=2)),
    "image in blocks": (3, 34, 40, {"C": 3, "K": 2, "L": 2, "P": 2}, PixelCNNSpec(0.7, 1, (0, 1), 2)),
    "input and output only": (3, 5, 4, {"L": 0, "P": 0, "K": 1}, PixelCNNSpec()),
    "no context": (33, 4, 5, {"C": 4, "L": 2, "P": 1, "K": 0}, PixelCNNSpec()),
    "one pixel": (17, 1, 1, {"C": 2, "L": 5, "P": 3}, PixelCNNSpec(residual_scale=0.3, pointwise_after=(4, 0, 2))),
    "one column": (1, 29, 1, {"C": 1, "L": 2, "P": 8, "S": 2}, PixelCNNSpec(pointwise_after=(0, 1) * 4)),
    "one row": (1, 1, 1100, {"C": 3, "L": 2, "P": 1}, PixelCNNSpec(block_convs=2, visible_stride=3)),
    "many channels": (1, 6, 7, {"C": 25, "K": 9, "L": 2, "P": 1}, PixelCNNSpec()),
    "many images": (601, 3, 3, {"C": 2, "L": 1, "P": 0}, PixelCNNSpec()),
    "no images": (0, 8, 8, {"C": 12, **R1}, PixelCNNSpec()),
}
LARGE = {
    "R1 of many": (3, 28, 28, R1, PixelCNNSpec()),
    "wide R2": (2, 9, 10, {"L": 6, "P": 4}, PixelCNNSpec(block_convs=2, pointwise_after=(0, 0, 1, 1))),
    "wide R4": (2, 10, 9, {"L": 12, "P": 4}, PixelCNNSpec(residual_scale=0.5, block_convs=2)),
    "wide untied": (3, 17, 23, {"L": 4, "S": 4, "P": 2}, PixelCNNSpec(pointwise_after=(3, 1), visible_stride=2)),
    "wide, no context": (33, 4, 5, {"L": 2, "P": 1, "K": 0}, PixelCNNSpec()),
    "13 layers, one pixel": (17, 1, 1, {"C": 7, "L": 13, "P": 3}, PixelCNNSpec(0.3, pointwise_after=(12, 0, 5))),
    "wide row": (1, 1, 300, {"C": 16, "L": 2, "P": 1}, PixelCNNSpec(block_convs=2, visible_stride=3)),
    "narrow": (2, 29, 3, {"C": 20, "L": 3, "P": 2}, PixelCNNSpec()),
    "33 channels": (1, 6, 7, {"C": 33, "K": 9, "L": 2, "P": 1}, PixelCNNSpec()),
    "257 images": (257, 3, 3, {"C": 4, "L": 2, "P": 1}, PixelCNNSpec()),
}
LOG_PROB = ("R2", "image in blocks", "no context", "one pixel", "no images")
"""Where the kernels of Triton differ from those of the logits."""


def check(body, op, args, wiring, spec):
    """Values and all gradients of one op against autograd through the float64 reference."""
    x, context, params = args
    leaves = [t.double().requires_grad_() for t in (x, context, *params)]
    no_context = context.shape[1] == 0
    expected = getattr(reference, op)(leaves[0], None if no_context else leaves[1], PixelCNNParams(*leaves[2:]), spec)
    args = body.put(args)
    assert_close(getattr(body, op)(*args, *wiring), expected.detach())

    grad = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, leaves, grad.double(), allow_unused=True, materialize_grads=True)
    gradients = getattr(body, f"{op}_backward")(body.put(grad), *args, *wiring)
    for actual, gradient in zip(gradients, wanted, strict=True):
        assert_close(actual, gradient, "gradient")
        assert actual.is_contiguous()
    assert (gradients[2].flatten(2)[..., 4:] == 0).all()
    assert (gradients[5].flatten(3)[..., 5:] == 0).all()


@every_case(CASES, *BODIES, large=LARGE)
def test_logits_equal_the_reference(body, case):
    check(body, "pixelcnn_logits", *stack_tensors(*case), case[-1])


@every_case(
    {name: CASES[name] for name in LOG_PROB},
    *BODIES,
    large=LARGE | {name: case for name, case in CASES.items() if name not in LOG_PROB},
)
def test_log_prob_equals_the_reference(body, case):
    check(body, "pixelcnn_log_prob", *stack_tensors(*case), case[-1])


@every(*ISAS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_equals_the_reference_at_any_size(body, data):
    def draw(low, high):
        return data.draw(st.integers(low, high))

    block_convs = draw(1, 2)
    blocks = draw(0, 3)
    L = blocks * block_convs
    after = tuple(data.draw(st.lists(st.integers(0, blocks - 1), max_size=3))) if blocks else ()
    sizes = {"C": draw(1, 26), "K": draw(0, 3), "L": L, "P": len(after), "S": data.draw(st.sampled_from([1, L or 1]))}
    spec = PixelCNNSpec(data.draw(st.sampled_from([1.0, 0.5])), block_convs, after, draw(1, 3))
    check(body, "pixelcnn_log_prob", *stack_tensors(draw(1, 5), draw(1, 12), draw(1, 40), sizes, spec), spec)


@every(*ISAS)
def test_pixels_need_not_be_binary(body):
    spec = PixelCNNSpec()
    (x, *rest), wiring = stack_tensors(2, 6, 6, R1, spec)
    check(body, "pixelcnn_logits", (torch.randn_like(x), *rest), wiring, spec)


@every(*ISAS)
def test_large_logits(body):
    (x, context, params), wiring = stack_tensors(2, 6, 6, {"L": 1, "P": 0}, PixelCNNSpec())
    params[8] *= 200.0
    check(body, "pixelcnn_log_prob", (x, context, params), wiring, PixelCNNSpec())


def same_bits(body, N, H, W, sizes):
    (x, context, params), wiring = stack_tensors(N, H, W, sizes, PixelCNNSpec())
    x, context, params, dlog_prob = body.put([x, context, params, torch.randn(N)])

    def run(part=slice(None)):
        split = x[part], context[part], params
        return [
            body.pixelcnn_logits(*split, *wiring),
            body.pixelcnn_log_prob(*split, *wiring),
            *body.pixelcnn_log_prob_backward(dlog_prob[part], *split, *wiring),
        ]

    whole = run()
    for _ in with_threads(body.threads):
        assert all(map(torch.equal, run(), whole))
    for part in (slice(0, 1), slice(1, 7), slice(7, N)) if N > 7 else (slice(2, 5),):
        assert all(torch.equal(a, b[part]) for a, b in zip(run(part)[:4], whole, strict=False))


@every(*BODIES)
@pytest.mark.parametrize("size", [(3, 4), (13, 17)])
def test_same_bits_for_any_batch_and_threads(body, size):
    same_bits(body, 7, *size, {"C": 2, "L": 1, "P": 1})


@every(*ISAS)
def test_same_bits_in_all_vectors(body):
    same_bits(body, 17, 11, 14, R1)
