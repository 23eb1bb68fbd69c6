"""Posterior and prior are distributions as torch's own are, and `decode` draws from a chosen code."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import assert_close
from torch.distributions import Independent, Normal, kl_divergence

from vlae_fast import VLAE, VLAEConfig, use_backend

CONFIG = replace(VLAEConfig.preset("tiny"), height=5, width=4, encoder_channels=(4,), latent_size=3)
D = CONFIG.latent_size


def made(**fields):
    model = VLAE(replace(CONFIG, **fields))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "flow" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(n):
    return (torch.rand(n, 1, CONFIG.height, CONFIG.width) < 0.4).float()


def distributions():
    """Each distribution, its like among torch's own, and the flow's direction that gives its density."""
    for scale in (False, True):
        posterior = made(posterior="iaf", flow_scale=scale)
        yield "posterior", posterior.encode(images(2))
        yield "prior", posterior.prior
    yield "gaussian posterior", made().encode(images(2))
    yield "gaussian prior", made(prior="gaussian").prior


@pytest.mark.parametrize("case", range(6))
def test_shapes_as_those_of_a_gaussian(case):
    _, q = list(distributions())[case]
    like = Independent(Normal(torch.zeros(*q.batch_shape, D), 1.0), 1)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == (like.batch_shape, like.event_shape, True)
    assert q.support.event_dim == 1
    for shape in ((), (4,), (2, 0), (3, 2)):
        assert q.sample(shape).shape == like.sample(shape).shape
    for shape in ((D,), (1, D), (2, D), (5, 1, D), (4, 2, D)):
        assert q.log_prob(torch.randn(shape)).shape == like.log_prob(torch.randn(shape)).shape
    for batch in ((2,), (3, 2)):
        larger = q.expand(batch)
        assert larger.batch_shape == torch.Size(batch)
        assert larger.sample((4,)).shape == (4, *batch, D)
        value = torch.randn(D)
        assert_close(larger.log_prob(value), q.log_prob(value).expand(batch))
    for value in (torch.randn(D + 1), torch.full((D,), math.nan)):
        with pytest.raises(ValueError, match=r"shape|support"):
            q.log_prob(value)


@pytest.mark.parametrize("case", range(4))
def test_density_is_that_of_the_draws(case):
    """log p(z) = log N(eps) - log |dz / deps|, the Jacobian taken by brute force."""
    name, q = list(distributions())[case]
    base = Normal(torch.zeros(D), 1.0)
    if name == "prior":
        z = q.sample()
        jacobian = torch.autograd.functional.jacobian(lambda z: q.flow(z[None])[0][0], z)
        expected = base.log_prob(q.flow(z[None])[0][0]).sum() + jacobian.det().abs().log()
        assert_close(q.log_prob(z), expected)
    else:
        z0 = q.base.sample()
        z, _ = q.flow(z0, q.hidden_context)
        for i in range(2):
            context = q.hidden_context[i : i + 1]
            jacobian = torch.autograd.functional.jacobian(lambda v, c=context: q.flow(v[None], c)[0][0], z0[i])
            expected = q.base.log_prob(z0)[i] - jacobian.det().abs().log()
            assert_close(q.log_prob(z)[i].detach(), expected.detach(), "gradient")


def gradients(loss, model, x):
    """Of all parameters."""
    return torch.autograd.grad(loss(model, x), list(model.parameters()), allow_unused=True)


def log_q_of_codes(model, x):
    return model.encode(x).log_prob(torch.linspace(-1, 1, 2 * D, dtype=x.dtype).view(2, D)).sum()


def log_q_of_draws(model, x):
    torch.manual_seed(1)
    q = model.encode(x)
    return q.log_prob(q.rsample((2,))).sum()


def draws_of_the_prior(model, x):
    torch.manual_seed(1)
    return model.prior.rsample((2,)).square().sum()


def log_p_of_codes(model, x):
    return model.prior.log_prob(torch.linspace(-1, 1, 2 * D, dtype=x.dtype).view(2, D)).sum()


@pytest.mark.parametrize("loss", [log_q_of_codes, log_q_of_draws, draws_of_the_prior, log_p_of_codes])
@pytest.mark.parametrize("scale", [False, True])
def test_gradients_are_the_same_however_they_are_computed(loss, scale):
    """Compared with float64, where the reference differentiates through its own inversion."""
    model, x = made(posterior="iaf", flow_scale=scale), images(2)
    with use_backend("reference"):
        expected = gradients(loss, copy.deepcopy(model).double(), x.double())
        reference = gradients(loss, model, x)
    ways = [gradients(loss, model, x), reference]
    if scale and loss in (log_q_of_codes, draws_of_the_prior):  # 2 s each: the two that invert the flow
        ways.append(gradients(torch.compile(loss, backend="aot_eager"), model, x))
    for way in ways:
        for actual, wanted in zip(way, expected, strict=True):
            assert (actual is None) == (wanted is None)
            if wanted is not None:
                assert_close(actual, wanted, "network gradient")
    assert sum(g is not None and bool(g.any()) for g in expected) > 3


def test_what_has_no_closed_form_says_so():
    for _, q in list(distributions())[:4]:
        for name, ask in {
            "mean": lambda q: q.mean,
            "mode": lambda q: q.mode,
            "variance": lambda q: q.stddev,
            "entropy": lambda q: q.entropy(),
            "cdf": lambda q: q.cdf(torch.zeros(D)),
            "icdf": lambda q: q.icdf(torch.zeros(D)),
        }.items():
            with pytest.raises(NotImplementedError, match=f"^{name}: not available after an autoregressive flow; "):
                ask(q)
        with pytest.raises(NotImplementedError):
            kl_divergence(q, Independent(Normal(torch.zeros(D), 1.0), 1))
    model = made(prior="gaussian")
    assert (kl_divergence(model.encode(images(2)), model.prior.expand((2,))) > 0).all()


@pytest.mark.parametrize("prior", ["af", "gaussian"])
def test_the_bound_is_made_of_these_densities(prior):
    model = made(prior=prior, posterior="iaf")
    x = images(2)
    q = model.encode(x)
    noise = torch.randn(2, D)
    mean, log_std, context = model.encoder(x)
    z, _ = model.posterior_flow(mean + log_std.exp() * noise, context)
    assert_close((q.log_prob(z) - model.prior.log_prob(z)).detach(), model.elbo(x, noise=noise).kl.detach(), "gradient")


def test_no_code_no_distribution_of_it():
    model = VLAE(replace(CONFIG, conditioning="none"))
    for call in (lambda: model.prior, lambda: model.decode(torch.zeros(1, D)), lambda: model.encode(images(1))):
        with pytest.raises(ValueError, match="conditioning: this model has no latent code"):
            call()


@pytest.mark.parametrize("fields", [{}, {"prior": "gaussian"}, {"decoder": "factorized"}])
def test_decode_draws_what_sample_draws(fields):
    model = made(**fields)
    codes = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: codes.append(inputs[0]))
    expected = model.sample(6, seed=3, first=2, temperature=0.8)
    z = codes[0]
    assert torch.equal(model.decode(z, seed=3, first=2, temperature=0.8), expected)
    assert torch.equal(model.decode(z[4:], seed=3, first=6, temperature=0.8), expected[4:])
    given = torch.full((6, CONFIG.height, CONFIG.width), -1, dtype=torch.int8)
    given[:, 1] = 1
    assert (model.decode(z, given=given)[:, 0, 1] == 1).all()
    assert model.decode(z[:0]).shape == (0, 1, CONFIG.height, CONFIG.width)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(2, D + 1), ValueError, r"z: torch.float32 \[N, 3\] cpu wanted, got torch.float32 \[2, 4\] cpu"),
        (torch.zeros(D), ValueError, r"z: torch.float32 \[N, 3\] cpu wanted"),
        (torch.zeros(2, D, dtype=torch.float64), ValueError, "wanted, got torch.float64"),
        (torch.zeros(2, D, device="meta"), ValueError, "wanted, got torch.float32 .* meta"),
        (torch.full((2, D), math.nan), ValueError, "z: finite values wanted"),
        ([[0.0] * D], TypeError, "z: a tensor wanted, got list"),
    ],
)
def test_codes_that_are_refused(z, error, message):
    with pytest.raises(error, match=message):
        made().decode(z)
