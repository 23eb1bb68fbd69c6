"""What people hand to the model's methods: numbers of every kind, odd batches, and whole methods to torch.compile."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import assert_close

from vlae_fast import VLAE, PixelCNNSpec, VLAEConfig, evaluate, use_backend
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.data import Split

TINY = VLAEConfig.preset("tiny")
WHOLE = [np.int64, np.uint8, torch.tensor, np.array]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = VLAE(TINY)
    model.initialize(images(64))
    return model


def images(n=3):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(n, 1, 28, 28, generator=generator) < 0.3).float()


def split():
    return Split(np.packbits(images(9).flatten(1).numpy().astype(bool), axis=1), 28, 28, dynamic=False)


CALLS = {
    "sample": (lambda m, **k: m.sample(**k), {"n": 3, "seed": 2, "first": 1}),
    "reconstruct": (lambda m, **k: m.reconstruct(images(), **k), {"seed": 2, "first": 1}),
    "log_likelihood": (lambda m, **k: m.log_likelihood(images(), **k), {"samples": 5, "seed": 2, "first": 1}),
    "sampled_bounds": (lambda m, **k: m.sampled_bounds(images(), **k)[1], {"samples": 5, "seed": 2, "first": 1}),
    "evaluate": (
        lambda m, **k: evaluate.evaluate(m, split(), **k).image_nll_nats,
        {"samples": 3, "seed": 1, "subset": 4},
    ),
}
every_argument = pytest.mark.parametrize(("call", "name"), [(call, name) for call in CALLS for name in CALLS[call][1]])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_of_every_kind(call, kind, model):
    do, arguments = CALLS[call]
    assert torch.equal(do(model, **{name: kind(value) for name, value in arguments.items()}), do(model, **arguments))


@every_argument
@pytest.mark.parametrize("value", ["3", True, 1.5, torch.tensor([1, 2]), None], ids=repr)
def test_what_is_no_whole_number_is_refused_by_name(call, name, value, model):
    do, arguments = CALLS[call]
    if (name, value) == ("subset", None):
        pytest.skip("subset=None is all images")
    with pytest.raises(TypeError, match=f"^{name}: a whole number wanted, got"):
        do(model, **{**arguments, name: value})


@every_argument
@pytest.mark.parametrize("value", [-1, 2**64])
def test_whole_numbers_out_of_range_are_refused_by_name(call, name, value, model):
    do, arguments = CALLS[call]
    if (name, value) == ("subset", 2**64):
        pytest.skip("more than all images are all images")
    with pytest.raises(ValueError, match=f"^{name}: a whole number in .* wanted, got {value}"):
        do(model, **{**arguments, name: value})


@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), np.array(0.5)], ids=repr)
def test_temperatures_of_every_kind(value, model):
    assert torch.equal(model.sample(2, temperature=value), model.sample(2, temperature=0.5))
    assert torch.equal(model.sample(2, temperature=2), model.sample(2, temperature=2.0))


@pytest.mark.parametrize("value", ["1", None, True, torch.ones(2)], ids=repr)
def test_temperature_that_is_no_number(value, model):
    with pytest.raises(TypeError, match=r"^temperature: a number wanted, got"):
        model.sample(2, temperature=value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_temperature_out_of_range(value, model):
    with pytest.raises(ValueError, match=r"^temperature: a positive number wanted, got"):
        model.sample(2, temperature=value)


# --- noise ------------------------------------------------------------------------------------------------------


def test_more_samples_go_on_where_fewer_end(model):
    x = images()
    for many, few in zip(model.sampled_bounds(x, 300, seed=4), model.sampled_bounds(x, 270, seed=4), strict=True):
        torch.testing.assert_close(many[:, :270], few, rtol=1e-5, atol=1e-3)
    for one, all_of_them in zip(model.sampled_bounds(x[1:2], 7, first=1), model.sampled_bounds(x, 300), strict=True):
        torch.testing.assert_close(one, all_of_them[1:2, :7], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("call", ["sample", "reconstruct", "log_likelihood"])
def test_under_torch_compile(call):
    model = VLAE(replace(TINY, encoder_channels=(2,), flow_steps=1))  # it is the tracing that takes seconds
    arguments = {"sample": (3,), "reconstruct": (images(),), "log_likelihood": (images(),)}[call]
    options = {"samples": 5} if call == "log_likelihood" else {}
    method = partial(getattr(model, call), *arguments, **options)
    torch.compiler.reset()
    compiled = torch.compile(getattr(model, call), backend="aot_eager", fullgraph=True)
    for seed in (2**64 - 1, 3) if call == "sample" else (3,):
        torch.testing.assert_close(compiled(*arguments, **options, seed=seed), method(seed=seed), rtol=1e-5, atol=1e-3)


# --- new models -------------------------------------------------------------------------------------------------

SCALED = VLAEConfig(flow_scale=True, posterior="iaf")
NEW = {
    "paper": VLAEConfig(),
    "scale": SCALED,
    "scale, other seed": SCALED,
    "scale, Gaussian prior": replace(SCALED, prior="gaussian"),
    "scale, Gaussian posterior": replace(SCALED, posterior="gaussian"),
    "scale, factorized": replace(SCALED, decoder="factorized"),
    "many steps": replace(SCALED, flow_steps=24, flow_hidden=128),
    "many dimensions": replace(SCALED, latent_size=300, flow_hidden=301),
    "one dimension": replace(SCALED, latent_size=1, flow_hidden=1),
    "wide": replace(SCALED, flow_hidden=1500, flow_steps=2),
    "deep": VLAEConfig(pixelcnn_layers=60, wiring=PixelCNNSpec()),
    "other image": replace(SCALED, height=3, width=70),
}


@pytest.mark.parametrize("case", NEW)
def test_a_new_model_is_usable_at_once(case):
    """Finite before any initialisation, and so trainable: scales upon scales of a flow once gave NaN."""
    torch.manual_seed(list(NEW).index(case))
    config = NEW[case]
    new = VLAE(config)
    x = (torch.rand(2, 1, config.height, config.width) < 0.3).float()
    bound = new.elbo(x)
    assert all(part.isfinite().all() for part in bound)
    (-bound.elbo.mean()).backward()
    assert all(p.grad.isfinite().all() for p in new.parameters())
    for drawn in (new.sample(2), new.reconstruct(x)):
        assert 0.02 < drawn.mean() < 0.98, "NaN logits would give blank images"
    assert new.prior.sample((2,)).isfinite().all()


# --- odd batches and values --------------------------------------------------------------------------------------


def test_reconstructions_of_nothing_are_not_the_images_themselves(model):
    nothing = images(0)
    again = model.reconstruct(nothing)
    assert again.shape == nothing.shape
    assert again is not nothing


@pytest.mark.parametrize("call", ["sample", "log_likelihood"])
def test_progress_is_reported(call, model):
    """After every chunk, whether or not it is full; it changes nothing."""
    model, told = copy.deepcopy(model), []
    model.chunk = 6
    do = partial(model.sample, 15) if call == "sample" else partial(model.log_likelihood, images(7), samples=2)
    assert torch.equal(do(report=lambda *progress: told.append(progress)), do())
    assert told == ([(6, 15), (12, 15), (15, 15)] if call == "sample" else [(3, 7), (6, 7), (7, 7)])


def test_initialization_from_nothing_is_refused(model):
    fresh = VLAE(TINY)
    before = {name: t.clone() for name, t in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=r"images: one or more wanted, got shape \[0, 1, 28, 28\]"):
        fresh.initialize(images(0))
    assert all(torch.equal(t, before[name]) for name, t in fresh.state_dict().items())
    fresh.initialize(images(1))
    assert torch.isfinite(fresh.elbo(images()).elbo).all()


@pytest.mark.parametrize("decoder", ["pixelcnn", "factorized"])
@pytest.mark.parametrize("value", [2, -2, 127])
def test_given_pixels_of_another_value_are_refused(decoder, value):
    model = VLAE(replace(TINY, decoder=decoder))
    given = torch.full((3, 28, 28), -1, dtype=torch.int8)
    given[1, 2, 3] = value
    for draw in (partial(model.sample, 3), partial(model.reconstruct, images())):
        with pytest.raises(ValueError, match="given: values -1, 0 or 1 wanted"):
            draw(given=given)


def test_loading_depends_on_no_default_of_torch(model, tmp_path):
    """float32 whatever torch's default dtype is, and no random number is drawn."""
    model.save_pretrained(tmp_path / "m")
    x, state = images(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = VLAE.from_pretrained(tmp_path / "m")
        drawn, bound = loaded.sample(3, seed=1), loaded.log_likelihood(x, samples=3)
        assert {t.dtype for t in (*loaded.parameters(), drawn)} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn, model.sample(3, seed=1))
    assert torch.equal(bound, model.log_likelihood(x, samples=3))


def test_evaluation_of_a_float64_model(model):
    """Under the reference backend, which runs any dtype: the figures of the float32 model."""
    with use_backend("reference"):
        found = evaluate.evaluate(copy.deepcopy(model).double(), split(), samples=4)
    wanted = evaluate.evaluate(model, split(), samples=4)
    assert_close(found.image_nll_nats, wanted.image_nll_nats)
    assert found.active_units == wanted.active_units
    assert abs(found.mutual_information_nats - wanted.mutual_information_nats) < 1e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_nan_is_not_saved_over_a_good_one(value, model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    spoilt = VLAE(replace(TINY, pixelcnn_layers=4))
    with torch.no_grad():
        spoilt.prior_flow.hidden1_g[0, 3] = value
    with pytest.raises(CheckpointError, match=r"prior_flow.hidden1_g: NaN or infinity"):
        spoilt.save_pretrained(tmp_path / "m")
    assert torch.equal(VLAE.from_pretrained(tmp_path / "m").sample(2), model.sample(2))
