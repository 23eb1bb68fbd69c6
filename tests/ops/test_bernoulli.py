"""`bernoulli_log_prob` against its float64 meaning: any number of entries, logits of all sizes, NaN around all."""

import pytest
import torch
from bodies import ISAS, TRITON, every

from vlae_fast import reference

BODIES = (*ISAS, TRITON)


@every(*BODIES)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 33, 400])
def test_equals_the_reference(body, n):
    x, logits, dy = torch.rand(n).round(), torch.linspace(-30, 30, max(n, 1))[:n] ** 3 / 200, torch.randn(n)
    exact = [t.double().requires_grad_() for t in (x, logits)]
    expected = reference.bernoulli_log_prob(*exact)
    wanted = torch.autograd.grad(expected, exact, dy.double())
    x, logits, dy = body.put((x, logits, dy))
    size = logits.abs().clamp_min(1)
    assert ((body.bernoulli_log_prob(x, logits) - expected).abs() <= 3e-7 * size).all()
    for actual, gradient in zip(body.bernoulli_log_prob_backward(dy, x, logits), wanted, strict=True):
        assert ((actual - gradient).abs() <= 5e-7 * dy.abs() * size).all()


@every(*BODIES)
def test_nan_stays_nan(body):
    x, logits = body.put((torch.tensor([0.0, 1.0, torch.nan]), torch.tensor([torch.nan, torch.nan, 0.0])))
    assert body.bernoulli_log_prob(x, logits).isnan().all()
