"""Triton kernels of the PixelCNN stack, interpreted, against the float64 meaning; NaN around all memory."""

import subprocess
import sys

import pytest
import torch
from conftest import assert_close
from test_pixelcnn_native import arguments
from triton_interpreter import poison  # noqa: F401 - a fixture

from vlae_fast import gpu, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.reference import PixelCNNParams

# N, H, W, sizes, wiring. The interpreter's time goes by operations: C * C of them for each layer, few programs.
CASES = {
    "R1": (1, 28, 28, {"C": 12, "L": 5, "P": 4}, PixelCNNSpec()),
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
    "no images": (0, 8, 8, {"C": 12, "L": 5, "P": 4}, PixelCNNSpec()),
}


def check(op, case, poison):  # noqa: F811
    """Values and all gradients of one op against autograd through the float64 reference."""
    N, H, W, sizes, spec = case
    (x, context, params), wiring = arguments(N, H, W, sizes, spec)
    leaves = [t.double().requires_grad_() for t in (x, context, *params)]
    no_context = context.shape[1] == 0
    expected = getattr(reference, op)(leaves[0], None if no_context else leaves[1], PixelCNNParams(*leaves[2:]), spec)
    x, context, *params = (poison.copy(t) for t in (x, context, *params))
    assert_close(getattr(gpu, op)(x, context, params, *wiring), expected.detach())

    grad = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, leaves, grad.double(), allow_unused=True, materialize_grads=True)
    gradients = getattr(gpu, f"{op}_backward")(poison.copy(grad), x, context, params, *wiring)
    for actual, gradient in zip(gradients, wanted, strict=True):
        assert_close(actual, gradient, "gradient")
        assert actual.is_contiguous()
    assert (gradients[2].flatten(2)[..., 4:] == 0).all()
    assert (gradients[5].flatten(3)[..., 5:] == 0).all()
    poison.check()


@pytest.mark.parametrize("case", CASES)
def test_logits_match_reference(case, poison):  # noqa: F811
    check("pixelcnn_logits", CASES[case], poison)


@pytest.mark.parametrize("case", ["R2", "image in blocks", "no context", "one pixel", "no images"])
def test_log_prob_matches_reference(case, poison):  # noqa: F811
    check("pixelcnn_log_prob", CASES[case], poison)


@pytest.mark.parametrize("size", [(3, 4), (13, 17)])
def test_same_bits_for_any_batch(size):
    (x, context, params), wiring = arguments(7, *size, {"C": 2, "L": 1, "P": 1}, PixelCNNSpec())
    dlog_prob = torch.randn(7)
    results = [
        gpu.pixelcnn_logits(x, context, params, *wiring),
        gpu.pixelcnn_log_prob(x, context, params, *wiring),
        *gpu.pixelcnn_log_prob_backward(dlog_prob, x, context, params, *wiring)[:2],
    ]
    part = slice(2, 5)
    split = x[part], context[part], params
    again = [
        gpu.pixelcnn_logits(*split, *wiring),
        gpu.pixelcnn_log_prob(*split, *wiring),
        *gpu.pixelcnn_log_prob_backward(dlog_prob[part], *split, *wiring)[:2],
    ]
    assert all(torch.equal(a, b[part]) for a, b in zip(again, results, strict=True))


def test_weight_norm_matches_reference():
    v, g, live = torch.randn(6, 9), torch.randn(6), torch.tensor([0, 9, 3, 8, 1, 5])
    v[5, :5] = 0
    leaves = [t.double().requires_grad_() for t in (v, g)]
    expected = reference.weight_norm(*leaves, live)
    assert_close(gpu.weight_norm(v, g, live), expected.detach())
    dw = torch.randn(6, 9)
    wanted = torch.autograd.grad(expected, leaves, dw.double())
    for actual, gradient in zip(gpu.weight_norm_backward(dw, v, g, live), wanted, strict=True):
        assert_close(actual, gradient, "gradient")


def message_of(code):
    """What a process of its own, with no interpreter and maybe no Triton, says last."""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env={})
    return result.stderr.strip().splitlines()[-1]


CALL = "import torch; from vlae_fast import gpu; x = torch.zeros(1, 1, 3, 3); b = torch.zeros(1)\n"
CALL += "gpu.masked_conv3x3(x, x, b, None, None, 'A', False, 1.0)"


def test_without_triton_the_mend_is_named():
    blocked = "import os, sys; sys.modules['triton'] = None; os.environ['TRITON_INTERPRET'] = '1'\n"
    message = message_of(blocked + CALL)
    assert message.startswith("RuntimeError: vlae_fast: CUDA tensors need Triton, which is not installed: pip install")


def test_without_a_gpu_the_mend_is_named():
    message = message_of(CALL)
    assert message.startswith("RuntimeError: vlae_fast: the CUDA kernels cannot run on the device cpu: move the")
    assert torch.version.cuda is not None or "a CUDA build of torch" in message
