"""Every body of `resnet` against the float64 meaning: all kinds of blocks, odd and tiny sizes, NaN around all."""

import pytest
import torch
from bodies import ISAS, TRITON, every, every_case
from conftest import assert_close, with_threads
from op_cases import block

from vlae_fast import ops, reference
from vlae_fast.ops.resnet.wiring import flat, wiring

BODIES = (*ISAS, TRITON)
# (N, C, H, W), then kind, M, K and size of every block
CASES = {
    "output": ((3, 5, 6, 7), [("output", 0, 3, None)]),
    "same": ((3, 5, 6, 7), [("same", 3, 5, None)]),
    "down": ((2, 5, 6, 7), [("down", 3, 6, None)]),
    "up": ((2, 5, 3, 4), [("up", 3, 6, None)]),
    "up to odd sizes": ((2, 5, 3, 4), [("up", 3, 6, (5, 7))]),
    "one pixel": (
        (1, 1, 1, 1),
        [("down", 2, 3, None), ("same", 1, 3, None), ("up", 4, 1, (1, 1)), ("output", 0, 1, None)],
    ),
    "one column": ((3, 2, 5, 1), [("up", 3, 2, (9, 2)), ("down", 3, 2, None), ("down", 2, 2, None)]),
    "no image": ((0, 2, 5, 1), [("up", 3, 2, (9, 2)), ("down", 3, 2, None)]),
    "no channel": ((3, 0, 5, 2), [("up", 3, 2, (9, 3)), ("down", 0, 4, None)]),
    "many channels": ((2, 33, 5, 4), [("same", 17, 33, None), ("up", 20, 18, None), ("down", 48, 31, None)]),
    "paper's encoder": (
        (7, 1, 28, 28),
        [(kind, K, K, None) for kind, K in (("down", 16), ("same", 16), ("down", 32), ("same", 32), ("down", 32))],
    ),
    "paper's decoder": (
        (5, 32, 4, 4),
        [
            ("up", 32, 32, (7, 7)),
            ("same", 32, 32, None),
            ("up", 16, 16, None),
            ("same", 16, 16, None),
            ("up", 16, 16, None),
            ("output", 0, 4, None),
        ],
    ),
}


def blocks_of(C, kinds):
    blocks = []
    for kind, M, K, size in kinds:
        blocks.append(block(kind, C, M, K, size))
        C = K
    return blocks


def operands(shape, kinds):
    """x, and what the bodies take of the blocks."""
    x, blocks = torch.randn(shape), blocks_of(shape[1], kinds)
    return x, blocks, *flat(blocks, wiring(shape, blocks))


@every_case(CASES, *BODIES)
def test_equals_the_reference(body, case):
    x, blocks, tensors, table = operands(*case)
    exact = [t.double().requires_grad_() for t in (x, *tensors)]
    rest = iter(exact[1:])
    doubles = [b._replace(**{k: next(rest) for k in b._fields[1:-1] if getattr(b, k) is not None}) for b in blocks]
    expected = reference.resnet(exact[0], doubles, residual_scale=0.3)
    dy = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, exact, dy.double())
    x, tensors, dy = body.put((x, tensors, dy))
    y, nothing = body.resnet(x, tensors, table, 0.3)
    assert_close(y, expected.detach())
    gradients = body.resnet_backward(dy, x, tensors, table, 0.3, nothing)
    for actual, gradient in zip(gradients, wanted, strict=True):
        assert_close(actual, gradient, "gradient")
    again, kept = body.resnet(x, tensors, table, 0.3, keep=True)
    assert torch.equal(again, y)
    assert not kept.isnan().any()  # all of it is written
    assert all(map(torch.equal, body.resnet_backward(dy, x, tensors, table, 0.3, kept), gradients))


@every(*BODIES)
@pytest.mark.parametrize("name", ["paper's encoder", "paper's decoder"])
def test_same_bits_for_any_batch_and_threads(body, name):
    (N, *shape), kinds = CASES[name]
    N = 19 if body.name in ISAS else N
    x, _, tensors, table = operands((N, *shape), kinds)
    x, tensors = body.put((x, tensors))
    whole, kept = body.resnet(x, tensors, table, 0.1, keep=True)
    dy = body.put(torch.randn(whole.shape))
    gradients = body.resnet_backward(dy, x, tensors, table, 0.1, kept)
    for _ in with_threads(body.threads):
        assert torch.equal(body.resnet(x, tensors, table, 0.1, keep=True)[0], whole)
        assert all(map(torch.equal, body.resnet_backward(dy, x, tensors, table, 0.1, kept), gradients))
    if body.name in ISAS:
        for part in (slice(0, 1), slice(1, 7), slice(7, N)):
            assert torch.equal(body.resnet(x[part], tensors, table, 0.1)[0], whole[part])
            part_of_dx = body.resnet_backward(dy[part], x[part], tensors, table, 0.1, kept[part])[0]
            assert torch.equal(part_of_dx, gradients[0][part])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b: b._replace(kind="sideways"), ValueError, r"blocks\[1\].kind: one of same, down, up, output wanted"),
        (lambda b: b._replace(conv2_bias=None), TypeError, r"blocks\[1\].conv2_bias: a tensor wanted, got NoneType"),
        (lambda b: b._replace(conv1_weight=b.conv1_weight[:, :1]), ValueError, r"blocks\[1\].conv1_weight: shape"),
        (lambda b: b._replace(conv2_bias=b.conv2_bias[:2]), ValueError, "C=4 channels as those of its input wanted"),
        (lambda b: b._replace(size=(3, 4)), ValueError, r"blocks\[1\].size: one of 3x3 wanted, got \(3, 4\)"),
        (lambda b: b._replace(size=3), ValueError, r"blocks\[1\].size: one of 3x3 wanted, got 3"),
        (lambda b: b._replace(conv1_bias=b.conv1_bias.double()), TypeError, r"blocks\[1\].conv1_bias: torch.float32"),
        (lambda b: None, TypeError, "blocks: a list of ResNetBlockParams wanted"),
    ],
)
def test_errors_name_the_block(change, error, message):
    blocks = blocks_of(3, [("down", 2, 4, None), ("same", 3, 4, None)])
    with pytest.raises(error, match=message):
        ops.resnet(torch.randn(2, 3, 5, 6), [blocks[0], change(blocks[1])])


def test_no_block_is_an_error():
    with pytest.raises(ValueError, match="blocks: one or more"):
        ops.resnet(torch.randn(2, 3, 5, 6), [])


def test_no_gradient_behind_it():
    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, dy):
            return None

    x, made = torch.randn(2, 3, 4, 4, requires_grad=True), block("same", K=3)
    made.conv1_weight.requires_grad_()
    (Constant.apply(ops.resnet(x, [made])).sum() + x.sum()).backward()
    assert made.conv1_weight.grad is None
    assert (x.grad == 1).all()
