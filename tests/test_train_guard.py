"""What keeps a training on its way: NaN is skipped and told, gradients and first steps fit images of every size."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_training import CONFIG, TINY, metrics, trainer

from vlae_fast import VLAE, VLAEConfig, checkpoint, networks
from vlae_fast.checks import NonFiniteError
from vlae_fast.config import TrainConfig, from_dict, of_this_version
from vlae_fast.layers import FEW_INPUTS, Linear, plain_weights
from vlae_fast.model import Bound
from vlae_fast.objective import free_bits_loss
from vlae_fast.train import BAD_STEPS, DivergedError


def spoil(run, monkeypatch, steps):
    """NaN at these steps: in the bound at even ones, said by an op at odd ones."""
    elbo = run.model.elbo

    def spoilt(images, *, noise):
        bound, step = elbo(images, noise=noise), run.progress.step
        if step not in steps:
            return bound
        if step % 2:
            raise NonFiniteError("context: finite values wanted, got NaN or infinity")
        return Bound(*(t * math.nan for t in bound))

    monkeypatch.setattr(run.model, "elbo", spoilt)


def test_ten_bad_steps_in_a_row_end_it_with_the_last_good_state(bars, tmp_path, monkeypatch):
    run = trainer(bars, tmp_path / "run")
    run.run(epochs=1)
    before = {name: tensor.clone() for name, tensor in run._tensors().items()}
    spoil(run, monkeypatch, range(1000))
    with pytest.raises(DivergedError, match=f"{BAD_STEPS} steps in a row gave NaN"):
        run.run(epochs=5)
    resumed = trainer(bars, tmp_path / "run")
    assert all(torch.equal(x, before[name]) for name, x in resumed._tensors().items())


def test_skipped_steps_are_counted_and_a_tenth_is_a_failure(bars, tmp_path, monkeypatch):
    run = trainer(bars, tmp_path / "run", validation_epochs=2)
    spoil(run, monkeypatch, {3, 8})
    assert run.run(epochs=4)
    assert [row["skipped_steps"] for row in metrics(tmp_path / "run")] == [2, 2]
    again = trainer(bars, tmp_path / "run", validation_epochs=2)
    spoil(again, monkeypatch, {41, 44, 47})
    with pytest.raises(DivergedError, match="5 of 50 steps gave NaN or infinity and were skipped"):
        again.run(epochs=5)
    assert (
        metrics(tmp_path / "run")[-1]["skipped_steps"]
        == trainer(bars, tmp_path / "run", validation_epochs=2).progress.skipped_steps
    )


def test_only_what_is_not_finite_counts_as_that(bars, tmp_path):
    run = trainer(bars, tmp_path / "run")
    run.model = VLAE(replace(TINY, height=8))
    with pytest.raises(ValueError, match=r"images: shape \[N, 1, 8, 8\] wanted"):
        run.run(epochs=1)


def scaled(run, monkeypatch, factor):
    """Has the bound in another unit."""
    elbo = run.model.elbo
    monkeypatch.setattr(
        run.model, "elbo", lambda images, *, noise: Bound(*(t * factor() for t in elbo(images, noise=noise)))
    )


def test_the_guard_knows_no_unit(bars, tmp_path, monkeypatch):
    """A power of two changes nothing but the norm, however large the gradients are."""
    runs = []
    for name, factor in (("small", 1.0), ("large", 2.0**30)):
        run = trainer(bars, tmp_path / name, free_bits_nats_per_pixel=0.0, gradient_clip=1.2)
        scaled(run, monkeypatch, lambda f=factor: f)
        assert run.run(epochs=2)
        runs.append(run.progress)
    assert runs[0].clipped_steps == runs[1].clipped_steps > 0
    assert runs[1].gradient_norm == pytest.approx(2.0**30 * runs[0].gradient_norm, rel=1e-3)


def test_a_step_far_too_large_is_scaled_down_not_left_out(bars, tmp_path, monkeypatch):
    run = trainer(bars, tmp_path / "run")
    scaled(run, monkeypatch, lambda: 1e6 if run.progress.step == 5 else 1.0)
    moments = []
    run.optimizer.register_step_post_hook(
        lambda *_: moments.append(max(s["exp_inf"].max().item() for s in run.optimizer.state.values()))
    )
    assert run.run(epochs=1)
    assert len(moments) == 10
    assert run.progress.clipped_steps == 1
    assert moments[5] < 100 * moments[4]
    assert metrics(tmp_path / "run")[-1]["clipped_steps"] == 1


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_images_are_learnt(tmp_path, size):
    """Nearly all inputs of each convolution lie outside of them."""
    np.save(tmp_path / "bits.npy", (np.random.default_rng(0).random((200, size, size)) < 0.5).astype(np.uint8) * 255)
    small = replace(VLAEConfig(), height=size, width=size, flow_hidden=64)
    run = trainer(tmp_path / "bits.npy", tmp_path / "run", small)
    bounds = []
    for _ in range(20):
        bound = run._step(run.batches.of_step(run.progress.step))
        run.progress.step += 1
        bounds.append(math.inf if bound is None else -bound.elbo.mean().item())
    assert max(bounds[-5:]) < 5 + size**2, bounds


def test_a_step_moves_an_output_alike_however_many_inputs_it_has():
    """Adamax moves every entry by the learning rate; the images decide the number of inputs of the dense layer."""
    moved = []
    for inputs in (FEW_INPUTS, 64 * FEW_INPUTS):
        layer = Linear(inputs, 5)
        x = torch.rand(8, inputs)
        before = layer(x, plain_weights(layer))
        with torch.no_grad():
            layer.v += 0.002
        moved.append(((layer(x, plain_weights(layer)) - before).norm() / before.norm()).item())
    assert moved[1] == pytest.approx(moved[0], rel=0.5)


def test_free_bits_are_said_by_the_pixel():
    """Kingma et al. 2016, eq. 15: what is below the free nats costs nothing, the true KL is reported."""
    bound = Bound(torch.tensor(-6.0), torch.tensor(1.5), torch.tensor([1.0, 0.5]))

    def loss(nats, **changes):
        return free_bits_loss(bound, replace(CONFIG, free_bits_nats_per_pixel=nats / 4, **changes), 4, 1.0)[0].item()

    assert loss(0.0) == 7.5
    assert loss(1.0) == 7.5
    assert loss(4.0) == 10.0
    assert loss(1.6, free_bits_groups="dimension") == pytest.approx(6 + 1.0 + 0.8)
    assert TrainConfig().free_bits_nats_per_pixel * (28 * 28) == 7.84


def test_a_config_of_an_older_version_is_understood():
    now = {"model": dataclasses.asdict(VLAEConfig()), "training": dataclasses.asdict(TrainConfig())}
    old = json.loads(json.dumps(now))
    del old["training"]["free_bits_nats_per_pixel"], old["training"]["gradient_clip"]
    old["training"] |= {"free_bits_nats": 7.84, "gradient_limit": 100000.0}
    assert from_dict(TrainConfig, of_this_version(old)["training"], "config") == TrainConfig()
    for other in (
        now,
        [],
        {},
        {"model": 3, "training": []},
        {"model": {"height": 0, "width": 1}, "training": {"free_bits_nats": 1}},
    ):
        assert of_this_version(other) is other


def test_a_state_of_an_older_version_is_resumed(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    path = out / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    old = {name: progress[name] for name in ("step", "seconds", "kl_weight", "best_nats")}
    checkpoint.write_tensors(path, load_file(path), {"progress": json.dumps(old)})
    assert trainer(bars, out).run(epochs=2)


def test_a_resumed_run_writes_the_metrics_of_one_left_alone(bars, tmp_path):
    for name, parts in (("alone", (4,)), ("parts", (0.3, 1.1, 4))):
        for epochs in parts:
            run = trainer(bars, tmp_path / name, validation_epochs=2, checkpoint_minutes=1e-9)
            at = round(epochs * run.steps_per_epoch)
            validate = run._validate
            if at % 20:  # a kill between two validations
                run._validate = lambda bar: None
            run.run(epochs=epochs)
            run._validate = validate
    alone, parts = (
        [{k: v for k, v in row.items() if k != "seconds"} for row in metrics(tmp_path / name)]
        for name in ("alone", "parts")
    )
    assert alone == parts


def test_a_batch_is_at_most_the_split(bars, tmp_path):
    run = trainer(bars, tmp_path / "run", batch_size=2**16)
    assert run.steps_per_epoch == 1
    assert run.run(epochs=2)


def test_chunks_are_bounded_by_bytes(monkeypatch):
    """Whatever is drawn or scored in parts: as many images at once as fit, and the same ones."""
    assert [VLAE(VLAEConfig(height=side, width=side, dense_units=4)).chunk for side in (28, 64, 256)] == [256, 256, 16]
    torch.manual_seed(0)
    made = VLAE(TINY)
    images = (torch.rand(7, 1, 9, 8) < 0.5).float()
    whole = made.sample(7), made.reconstruct(images), made.log_likelihood(images, samples=5)
    monkeypatch.setattr(networks, "CHUNK_BYTES", 3 * 4 * 4 * 6 * 72)
    made.chunk = networks.images_at_once(TINY)
    assert made.chunk == 3
    seen = []
    context = made._context
    monkeypatch.setattr(made, "_context", lambda z, n: seen.append(n) or context(z, n))
    parts = made.sample(7), made.reconstruct(images), made.log_likelihood(images, samples=5)
    assert max(seen) == 3
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b)
