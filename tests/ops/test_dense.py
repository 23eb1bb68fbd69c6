"""Every body of `dense` and of `exp` against the float64 meaning, on sizes off and on the fast path, NaN around all."""

import pytest
import torch
from bodies import ISAS, TRITON, every
from conftest import assert_close, with_threads

from vlae_fast import reference

BODIES = (*ISAS, TRITON)
SIZES = [
    (1, 1, 1),
    (0, 3, 2),
    (5, 0, 3),
    (3, 4, 0),
    (7, 37, 13),
    (70, 450, 128),
    (33, 16, 6),
    (4, 512, 450),
    (3, 15, 31),
]


@every(*BODIES)
@pytest.mark.parametrize("pre_elu", [False, True])
@pytest.mark.parametrize(("N", "C", "K"), SIZES)
def test_dense_equals_the_reference(body, N, C, K, pre_elu):
    tensors = torch.randn(N, C), torch.randn(K, C) / max(C, 1) ** 0.5, torch.randn(K)
    leaves = [t.double().requires_grad_() for t in tensors]
    expected = reference.dense(*leaves, pre_elu=pre_elu)
    dy = torch.randn(N, K)
    wanted = torch.autograd.grad(expected, leaves, dy.double())
    (x, weight, bias), dy = body.put(tensors), body.put(dy)
    assert_close(body.dense(x, weight, bias, pre_elu), expected.detach())
    for actual, gradient in zip(body.dense_backward(dy, x, weight, pre_elu), wanted, strict=True):
        assert_close(actual, gradient, "gradient")


@every(*ISAS)
def test_dense_same_bits_for_any_batch_and_threads(body):
    N, C, K = 70, 100, 37
    x, weight, bias, dy = body.put((torch.randn(N, C), torch.randn(K, C), torch.randn(K), torch.randn(N, K)))
    whole, gradients = body.dense(x, weight, bias, True), body.dense_backward(dy, x, weight, True)
    for _ in with_threads(body.threads):
        assert torch.equal(body.dense(x, weight, bias, True), whole)
        assert all(map(torch.equal, body.dense_backward(dy, x, weight, True), gradients))
    for part in (slice(0, 1), slice(1, 7), slice(7, N)):
        assert torch.equal(body.dense(x[part], weight, bias, True), whole[part])
        assert torch.equal(body.dense_backward(dy[part], x[part], weight, True)[0], gradients[0][part])


@every(*BODIES)
@pytest.mark.parametrize("n", [0, 1, 3, 4, 15, 16, 17, 1000])
def test_exp_equals_the_reference(body, n):
    x = torch.linspace(-85, 85, n) if n > 1 else torch.randn(n)
    expected = x.double().exp()
    error = (body.exp(body.put(x)).cpu().double() - expected) / expected
    assert (error.abs() < 1e-5).all()


@every(*BODIES)
def test_exp_at_its_ends(body):
    x = torch.tensor([float("-inf"), -1e9, -200.0, 200.0, 1e9, float("inf"), float("nan"), 0.0])
    expected = torch.tensor([0.0, 0.0, 0.0, float("inf"), float("inf"), float("inf"), float("nan"), 1.0])
    assert torch.equal(body.exp(body.put(x)).cpu().nan_to_num(nan=-1), expected.nan_to_num(nan=-1))
