"""The model and its variants: sizes, initialisation, bounds, sampling, files."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from conftest import assert_close

from vlae_fast import VLAE, PixelCNNSpec, VLAEConfig, checkpoint, use_backend
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.config import from_dict

TINY = VLAEConfig.preset("tiny")
VARIANTS = {
    "paper-like": TINY,
    "gaussian-prior": replace(TINY, prior="gaussian"),
    "iaf-posterior": replace(TINY, prior="gaussian", posterior="iaf"),
    "af-and-iaf-with-scale": replace(TINY, posterior="iaf", flow_scale=True),
    "factorized": replace(TINY, decoder="factorized"),
    "untied": replace(TINY, tied=False),
    "R4-wiring": replace(
        TINY, pixelcnn_layers=4, pointwise_blocks=2, wiring=PixelCNNSpec(0.1, 2, pointwise_after=(0, 0))
    ),
    "strided": replace(TINY, wiring=PixelCNNSpec(visible_stride=2)),
    "decoder-alone": replace(TINY, conditioning="none"),
    "decoder-with-map": replace(TINY, conditioning="map"),
    "odd-size": replace(TINY, height=17, width=23, encoder_channels=(4, 8, 8)),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def images(config, n=6):
    return (torch.rand(n, 1, config.height, config.width) < 0.3).float()


def initialized(variant):
    model = VLAE(VARIANTS[variant])
    model.initialize(images(model.config, 64))
    return model


def parameters(module, masked=0):
    return sum(p.numel() for p in module.parameters()) - masked


def test_paper_sizes():
    model = VLAE(VLAEConfig.preset("paper"))
    assert parameters(model.prior_flow) == 4 * 494_208
    # 60 taps of the image's and 576 of each hidden weight are forbidden by the masks
    assert parameters(model.pixelcnn, masked=60 + 12 * 576) == 10_790
    assert parameters(model.encoder.blocks) == 72_384
    assert parameters(model.encoder.dense) + parameters(model.encoder.moments) == 289_156
    assert parameters(model.decoder.dense1) + parameters(model.decoder.dense2) == 261_124


@pytest.mark.parametrize(("tied", "active"), [(True, 2_702), (False, 5_582)])
def test_sizes_of_six_masked_layers(tied, active):
    six = replace(VLAEConfig.preset("paper"), pixelcnn_layers=5, tied=tied, wiring=PixelCNNSpec())
    assert parameters(VLAE(six).pixelcnn, masked=60 + (1 if tied else 5) * 576) == active


@every_variant
def test_training_step_reaches_every_parameter(variant):
    model = initialized(variant)
    bound = model.elbo(images(model.config))
    assert bound.elbo.shape == bound.kl.shape == bound.reconstruction.shape == (6,)
    assert torch.isfinite(bound.elbo).all()
    assert_close(bound.kl_dimensions.sum(1), bound.kl)
    (-bound.elbo.mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@every_variant
def test_compiled_bodies_give_what_the_reference_gives(variant):
    model = initialized(variant)
    x, noise = images(model.config), torch.randn(6, model.config.latent_size)
    results = []
    for backend in ("auto", "reference"):
        with use_backend(backend):
            bound = model.elbo(x, noise=noise)
            results.append((bound, torch.autograd.grad(bound.elbo.sum(), list(model.parameters()))))
    (bound, gradients), (expected, expected_gradients) = results
    for actual, wanted in zip(bound, expected, strict=True):
        assert_close(actual, wanted, "gradient")  # the encoder's float32 rounding stands before both
    for actual, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(actual, wanted, "network gradient")


@every_variant
def test_samples_depend_on_seed_and_number_alone(variant):
    model = initialized(variant)
    drawn = model.sample(7, seed=3)
    assert drawn.shape == (7, 1, model.config.height, model.config.width)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(model.sample(3, seed=3, first=4), drawn[4:])
    assert not torch.equal(model.sample(7, seed=4), drawn)
    assert model.sample(0).shape == (0, *drawn.shape[1:])


@every_variant
def test_inpainting_and_temperature(variant):
    model = initialized(variant)
    given = torch.full((4, model.config.height, model.config.width), -1, dtype=torch.int8)
    given[:, :9] = (torch.rand(4, 9, model.config.width) < 0.5).to(torch.int8)
    drawn = model.sample(4, seed=1, given=given)
    assert (drawn[:, 0, :9] == given[:, :9]).all()
    if model.encoder is not None:
        again = model.reconstruct(drawn, seed=1, given=given)
        assert (again[:, 0, :9] == given[:, :9]).all()
        assert not torch.equal(again, drawn)
    certain = model.sample(4, seed=1, temperature=1e-3)
    assert torch.equal(certain, model.sample(4, seed=1, temperature=1e-3))
    assert not torch.equal(certain, drawn)
    if model.encoder is not None:
        certain = model.reconstruct(drawn, temperature=1e-3)
        assert torch.equal(certain, model.reconstruct(drawn, temperature=1e-3))
        assert not torch.equal(certain, model.reconstruct(drawn))


@every_variant
def test_importance_sampling_tightens_the_bound(variant):
    model = initialized(variant)
    x = images(model.config, 3)
    reconstruction, kl = model.sampled_bounds(x, 50, seed=1)
    likelihood = model.log_likelihood(x, samples=50, seed=1)
    assert likelihood.dtype == torch.float64
    weights = reconstruction - kl
    assert (likelihood >= weights.mean(1) - 1e-9).all()
    assert_close(likelihood, weights.exp().mean(1).log() if weights.min() > -600 else likelihood, "float64")
    assert_close(model.log_likelihood(x[1:], samples=50, seed=1, first=1), likelihood[1:])
    if model.encoder is None:
        assert_close(likelihood, model.elbo(x).elbo)


@pytest.mark.parametrize("scale", [False, True])
def test_af_prior_and_iaf_posterior_agree_sample_by_sample(scale):
    """The paper's eq. 14: with equal weights and noise, and no context, log q - log p is the same."""
    af = VLAE(replace(TINY, prior="af", flow_scale=scale))
    iaf = VLAE(replace(TINY, prior="gaussian", posterior="iaf", flow_scale=scale))
    af.initialize(images(TINY, 32))
    iaf.encoder.load_state_dict(af.encoder.state_dict(), strict=False)
    iaf.posterior_flow.load_state_dict(af.prior_flow.state_dict())
    for parameter in (iaf.encoder.context.g, iaf.encoder.context.b):
        torch.nn.init.zeros_(parameter)
    x, noise = images(TINY), torch.randn(6, TINY.latent_size)
    assert_close(iaf.elbo(x, noise=noise).kl, af.elbo(x, noise=noise).kl)


def test_initialization_normalises_every_layer():
    model = VLAE(VARIANTS["af-and-iaf-with-scale"])
    x = images(TINY, 256)
    seen = {}

    def record(name):
        def hook(module, inputs, output):
            seen[name] = (output.mean(0).abs().max().item(), output.std().item())

        return hook

    for name, module in model.named_modules():
        if name in ("encoder.dense", "encoder.moments", "decoder.dense1", "decoder.dense2", "decoder"):
            module.register_forward_hook(record(name))
    model.initialize(x)
    assert len(seen) == 5
    for name, (_, std) in seen.items():
        assert 0.05 < std < 0.11, name
    with torch.no_grad():
        eps, log_det = model.prior_flow(z := torch.randn(256, TINY.latent_size))
        assert (eps - z).std() < 0.1  # even number of reversals: a flow near the identity
        logits = model.pixelcnn.logits(x, model.decoder(z))
    assert logits.abs().mean() < 1
    assert torch.isfinite(log_det).all()
    first = {name: p.clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    model.initialize(x)
    torch.manual_seed(0)
    again = VLAE(model.config)
    again.load_state_dict(first)
    again.initialize(x)  # gains and biases do not depend on those before
    assert all(torch.isfinite(p).all() for p in again.parameters())


def test_new_model_is_usable_at_once():
    model = VLAE(TINY)
    assert torch.isfinite(model.elbo(images(TINY)).elbo).all()
    assert all((p == 1).all() for name, p in model.named_parameters() if name.endswith("g"))
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith(".b") or name.endswith("_b"))


def test_posterior_is_a_distribution():
    for variant in ("paper-like", "iaf-posterior"):
        model = initialized(variant)
        x = images(TINY)
        q = model.encode(x)
        assert (q.batch_shape, q.event_shape) == ((6,), (TINY.latent_size,))
        z = q.rsample((5,))
        assert z.shape == (5, 6, TINY.latent_size)
        assert q.log_prob(z).shape == (5, 6)
    # The flow's density agrees with what the bound reports for the same codes.
    noise = torch.randn(6, TINY.latent_size)
    mean, log_std, context = model.encoder(x)
    z0 = mean + log_std.exp() * noise
    z, log_det = model.posterior_flow(z0, context)
    direct = torch.distributions.Normal(mean, log_std.exp()).log_prob(z0).sum(1) - log_det
    assert_close(q.log_prob(z).detach(), direct.detach(), "gradient")


def test_expected_kl_of_a_gaussian_vae_is_the_closed_form():
    model = initialized("gaussian-prior")
    x = images(TINY, 2)
    _, kl = model.sampled_bounds(x, 4000, seed=0)
    with torch.no_grad():
        q = model.encode(x)
        prior = torch.distributions.Normal(torch.zeros_like(q.mean), 1.0)
        exact = torch.distributions.kl_divergence(q, torch.distributions.Independent(prior, 1))
    assert ((kl.mean(1) - exact).abs() < 5 * kl.std(1) / math.sqrt(4000)).all()


def test_reconstruction():
    model = initialized("paper-like")
    x = images(TINY)
    again = model.reconstruct(x, seed=2)
    assert again.shape == x.shape
    assert torch.equal(model.reconstruct(x[2:], seed=2, first=2), again[2:])
    with pytest.raises(ValueError, match="conditioning: this model has no latent code"):
        initialized("decoder-alone").reconstruct(x)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x: x[0], ValueError, r"images: shape \[N, 1, 28, 28\] wanted, got \[1, 28, 28\]"),
        (lambda x: x[..., :27], ValueError, "images: shape"),
        (lambda x: x + 0.5, ValueError, "images: binary pixels"),
        (lambda x: x * float("nan"), ValueError, "images: binary pixels"),
        (lambda x: x.double(), TypeError, "images: torch.float32 wanted"),
        (lambda x: x.numpy(), TypeError, "images: a tensor wanted"),
    ],
)
def test_bad_images(spoil, error, message):
    model = VLAE(TINY)
    for method in (model.elbo, model.encode, model.reconstruct, model.log_likelihood, model.initialize):
        with pytest.raises(error, match=message):
            method(spoil(images(TINY)))


# --- files ------------------------------------------------------------------------------------------------------


@every_variant
def test_saved_and_loaded(variant, tmp_path):
    model = initialized(variant)
    model.save_pretrained(tmp_path / "m")
    loaded = VLAE.from_pretrained(tmp_path / "m")
    assert loaded.config == model.config
    assert torch.equal(loaded.sample(2, seed=1), model.sample(2, seed=1))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_weights_are_widened(tmp_path):
    model = initialized("paper-like").half()
    model.save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    size = path.stat().st_size
    checkpoint.write_tensors(path, model.state_dict())
    assert path.stat().st_size < 0.6 * size
    loaded = VLAE.from_pretrained(tmp_path / "m")
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()
        assert torch.equal(tensor, model.state_dict()[name].to(tensor.dtype))


def spoil_config(change):
    def spoil(folder):
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


def spoil_weights(change):
    def spoil(folder):
        content = bytearray((folder / "model.safetensors").read_bytes())
        (folder / "model.safetensors").write_bytes(change(content))

    return spoil


HOSTILE = {
    "no folder": lambda f: f.rename(f.with_name("gone")),
    "no config": lambda f: (f / "config.json").unlink(),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "config no JSON": lambda f: (f / "config.json").write_text("{"),
    "config deep": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config a list": lambda f: (f / "config.json").write_text("[]"),
    "config huge": lambda f: (f / "config.json").write_text(" " * (1 << 21)),
    "config a folder": lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
    "unknown field": spoil_config(lambda c: c["model"].update(colour=1)),
    "wrong type": spoil_config(lambda c: c["model"].update(latent_size="8")),
    "wrong choice": spoil_config(lambda c: c["model"].update(prior="uniform")),
    "bool for int": spoil_config(lambda c: c["model"].update(latent_size=True)),
    "negative": spoil_config(lambda c: c["model"].update(latent_size=-1)),
    "NaN": spoil_config(lambda c: c["model"]["wiring"].update(residual_scale="NaN")),
    "other sizes": spoil_config(lambda c: c["model"].update(latent_size=9)),
    "enormous": spoil_config(lambda c: c["model"].update(flow_hidden=10**9)),
    "other tensors": spoil_config(lambda c: c["model"].update(prior="gaussian")),
    "weights cut": spoil_weights(lambda b: b[: len(b) // 2]),
    "weights empty": spoil_weights(lambda b: b""),
    "header enormous": spoil_weights(lambda b: b"\xff" * 8 + b[8:]),
    "header no JSON": spoil_weights(lambda b: b[:8] + b"x" * 50 + b[58:]),
    "weights NaN": spoil_weights(lambda b: b[:-4] + b"\xff\xff\xff\xff"),
    "weights a pickle": spoil_weights(lambda b: b"\x80\x04cos\nsystem\n(S'false'\ntR."),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_model_folders_give_one_clear_line(case, tmp_path):
    folder = tmp_path / "m"
    VLAE(TINY).save_pretrained(folder)
    HOSTILE[case](folder)
    with pytest.raises(ValueError, match=str(folder)) as error:
        VLAE.from_pretrained(folder)
    assert isinstance(error.value, CheckpointError | ValueError)
    assert "\n" not in str(error.value)


def test_trains_under_autocast():
    model = initialized("paper-like")
    x = model.sample(6)
    expected = model.elbo(x, noise=torch.zeros(6, model.config.latent_size)).elbo
    with torch.autocast("cpu", torch.bfloat16):
        bound = model.elbo(x, noise=torch.zeros(6, model.config.latent_size))
        loss = -bound.elbo.mean()
    loss.backward()
    assert bound.elbo.dtype == torch.float32
    torch.testing.assert_close(bound.elbo, expected, rtol=0.02, atol=0.5)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_config_survives_json():
    for config in VARIANTS.values():
        assert from_dict(VLAEConfig, json.loads(json.dumps(asdict(config))), "here") == config


def test_unknown_preset():
    with pytest.raises(ValueError, match="preset: one of paper, tiny wanted, got 'big'"):
        VLAEConfig.preset("big")


def test_float64_model_under_the_reference_backend(tmp_path):
    model = initialized("paper-like").double()
    with use_backend("reference"):
        x = model.sample(2)
        assert x.dtype == torch.float64
        assert model.reconstruct(x).shape == x.shape
        assert torch.isfinite(model.log_likelihood(x, samples=3)).all()
    model.save_pretrained(tmp_path / "m")
    assert VLAE.from_pretrained(tmp_path / "m").sample(2).dtype == torch.float32


@pytest.mark.parametrize("variant", ["paper-like", "factorized"])
def test_sample_refuses_bad_temperature_and_given(variant):
    model = VLAE(VARIANTS[variant])
    with pytest.raises(ValueError, match=r"temperature: a positive number wanted, got 0"):
        model.sample(2, temperature=0)
    with pytest.raises(ValueError, match=r"temperature: a positive number wanted, got 0"):
        model.reconstruct(torch.zeros(1, 1, 28, 28), temperature=0)
    for given in (
        torch.zeros(3, 28, 28, dtype=torch.int8),
        torch.zeros(28, 28, dtype=torch.int8),
        torch.zeros(2, 28, 28),
    ):
        with pytest.raises(ValueError, match=r"given: torch.int8 \[2, 28, 28\] wanted"):
            model.sample(2, given=given)
        with pytest.raises(ValueError, match=r"given: torch.int8 \[2, 28, 28\] wanted"):
            model.reconstruct(torch.zeros(2, 1, 28, 28), given=given)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise: torch.float32 \[6, 8\] cpu wanted, got torch.float32 \[2, 3\]"):
        VLAE(TINY).elbo(images(TINY), noise=torch.zeros(2, 3))
