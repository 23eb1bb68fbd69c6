"""Inpainting draws from p(missing pixels | kept pixels): on images so small that this can be written down."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from vlae_fast import VLAE, VLAEConfig

SMALL = replace(
    VLAEConfig.preset("tiny"), height=2, width=3, latent_size=2, encoder_channels=(3,), dense_units=8, flow_hidden=8
)
MODELS = {
    "af prior": SMALL,
    "scaling flows": replace(SMALL, posterior="iaf", flow_scale=True),
    "gaussian prior": replace(SMALL, prior="gaussian"),
    "factorized": replace(SMALL, decoder="factorized"),
    "3x3": replace(SMALL, height=3),
    "1x1": replace(SMALL, height=1, width=1),
    "decoder alone": replace(SMALL, conditioning="none", height=3),
    "decoder with map": replace(SMALL, conditioning="map"),
}
CHAINS = 1024
NEAR = 0.1  # total variation: 0.02 to 0.07 measured
FAR = 0.25  # what keeping pixels alone must fail by, where the model lets it
WITHOUT = {"factorized", "1x1", "decoder with map"}  # pixels that have little to say to those before them


def made(config):
    """A model whose code and pixels have much to say to each other."""
    model = VLAE(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("g") and name.startswith(("decoder", "pixelcnn")):
                parameter.mul_(2.0)
            elif name.endswith("b"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def probabilities(model, images):
    """p(x), the code integrated out on a grid of the prior's noise."""
    eps, weight = torch.zeros(1, 0), torch.ones(1, dtype=torch.float64)
    if model.encoder is not None:
        axis = torch.linspace(-4.5, 4.5, 25)
        eps = torch.cartesian_prod(axis, axis)
        weight = (-0.5 * eps.double().square().sum(1)).exp()
    context = model._context(model._code_of_prior(eps), len(eps))
    codes, N = len(eps), len(images)
    contexts = None if context is None else context.repeat(N, 1, 1, 1)
    x = images.repeat_interleave(codes, 0)
    if model.pixelcnn is None:
        log_prob = (x * contexts - F.softplus(contexts)).flatten(1).sum(1)
    else:
        log_prob = model.pixelcnn(x, contexts)
    return log_prob.double().exp().view(N, codes) @ (weight / weight.sum())


def total_variation(model, given, drawn):
    """Of the images drawn from the exact conditional distribution."""
    H, W = given.shape
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=H * W))).view(-1, 1, H, W)
    possible = ((given < 0) | (images[:, 0] == given)).flatten(1).all(1)
    exact = probabilities(model, images) * possible
    counts = (drawn[:, None] == images).flatten(2).all(2).sum(0)
    assert counts.sum() == len(drawn)
    return 0.5 * (counts / len(drawn) - exact / exact.sum()).abs().sum().item()


@pytest.mark.parametrize("name", MODELS)
def test_draws_from_the_exact_conditional(name, monkeypatch):
    """The last pixels are kept, which those before them know nothing of while they are drawn."""
    monkeypatch.setattr("vlae_fast.networks.CHUNK", CHAINS)  # fewer calls
    model = made(MODELS[name])
    given = torch.full((model.config.height, model.config.width), -1, dtype=torch.int8)
    if name != "1x1":
        given.view(-1)[-2:] = torch.tensor([0, 1], dtype=torch.int8)
    kept = given.expand(CHAINS, -1, -1)
    assert total_variation(model, given, model.inpaint(kept, rounds=40)) < NEAR
    if name not in WITHOUT:
        assert total_variation(model, given, model.sample(CHAINS, given=kept)) > FAR
        assert total_variation(model, given, model.inpaint(kept, rounds=0)) > FAR


def test_some_pixels_of_an_image_of_some_images():
    """Kept pixels stay; image i depends on (seed, first + i) alone; nothing may be missing, or nobody."""
    model = made(SMALL)
    given = torch.randint(-1, 2, (6, 2, 3), dtype=torch.int8)
    drawn = model.inpaint(given, seed=3, first=1, rounds=5)
    assert ((given < 0) | (drawn[:, 0] == given)).all()
    assert torch.equal(model.inpaint(given[2:], seed=3, first=3, rounds=5), drawn[2:])
    assert not torch.equal(model.inpaint(given, seed=4, first=1, rounds=5), drawn)
    nothing_missing = torch.randint(0, 2, (2, 2, 3), dtype=torch.int8)
    assert torch.equal(model.inpaint(nothing_missing, rounds=2)[:, 0], nothing_missing.float())
    assert model.inpaint(given[:0], rounds=2).shape == (0, 1, 2, 3)


def test_larger_batches_are_drawn_in_parts():
    model = made(SMALL)
    given = torch.randint(-1, 2, (7, 2, 3), dtype=torch.int8)
    drawn = model.inpaint(given, rounds=3)
    model.chunk = 3
    assert torch.equal(model.inpaint(given, rounds=3), drawn)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (torch.zeros(2, 3), {}, ValueError, r"given: torch.int8 \[N, 2, 3\] wanted, got torch.float32 \[2, 3\]"),
        (torch.zeros(1, 3, 2, dtype=torch.int8), {}, ValueError, r"given: torch.int8 \[N, 2, 3\] wanted"),
        (torch.tensor(0, dtype=torch.int8), {}, ValueError, r"given: torch.int8 \[N, 2, 3\] wanted"),
        (torch.full((1, 2, 3), 2, dtype=torch.int8), {}, ValueError, "given: values -1, 0 or 1 wanted"),
        (torch.zeros(1, 2, 3, dtype=torch.int8, device="meta"), {}, ValueError, "given: device cpu .* got meta"),
        (None, {}, TypeError, "given: a tensor wanted, got NoneType"),
        (torch.zeros(1, 2, 3, dtype=torch.int8), {"rounds": -1}, ValueError, "rounds: a whole number"),
        (torch.zeros(1, 2, 3, dtype=torch.int8), {"rounds": 1.5}, TypeError, "rounds: a whole number"),
    ],
)
def test_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        VLAE(SMALL).inpaint(given, **options)
