"""Training on small real-format data: it learns, resumes bit for bit, survives signals, guards against divergence."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlae_fast import VLAE, TrainConfig, VLAEConfig
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.data import load
from vlae_fast.model import Bound
from vlae_fast.train import BAD_STEPS, DivergedError, Trainer

TINY = replace(VLAEConfig.preset("tiny"), height=9, width=8)
CONFIG = TrainConfig(
    data="bars", batch_size=16, polyak=0.8, validation_images=20, validation_epochs=4, free_bits_nats=1.0
)


@pytest.fixture
def bars(tmp_path):
    """Images of one to three vertical bars, grey at their edges: there is something to learn."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 9, 8), np.uint8)
    for image in images:
        for column in rng.integers(0, 8, rng.integers(1, 4)):
            image[:, column] = rng.choice([130, 255])
    np.save(tmp_path / "bars.npy", images)
    return tmp_path / "bars.npy"


def trainer(bars, out, model=TINY, **changes):
    return Trainer(model, replace(CONFIG, **changes), load(str(bars)), out)


def digest(folder):
    return hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"free_bits": "soft"},
        {"free_bits_groups": "dimension"},
    ],
    ids=["hard", "soft", "dimension"],
)
def test_learns_and_writes_the_run_folder(bars, tmp_path, changes):
    out = tmp_path / "run"
    assert trainer(bars, out, **changes).run(epochs=9)
    rows = metrics(out)
    assert [row["epoch"] for row in rows] == [4, 8, 9]
    assert rows[-1]["valid_negative_elbo_nats"] < 30  # an even guess costs 72 * log(2) = 50
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
        "samples.png",
        "state.safetensors",
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "samples.png"))
    model = VLAE.from_pretrained(out)
    assert model.sample(3).shape == (3, 1, 9, 8)


def test_decoder_alone_trains(bars, tmp_path):
    assert trainer(bars, tmp_path / "run", replace(TINY, conditioning="map")).run(epochs=2)
    assert metrics(tmp_path / "run")[-1]["valid_kl_nats"] == 0


def test_resumed_run_ends_bit_identical(bars, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(bars, whole).run(epochs=3)
    for epochs in (0.5, 1.3, 1.3, 3):  # the third has nothing to do
        trainer(bars, parts).run(epochs=epochs)
    a, b = trainer(bars, whole), trainer(bars, parts)
    assert a.progress.step == b.progress.step == 30
    for (name, x), (_, y) in zip(sorted(a._tensors().items()), sorted(b._tensors().items()), strict=True):
        assert torch.equal(x, y), name


def test_minutes_count_over_resumptions(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(minutes=0.02)
    first = trainer(bars, out)
    assert first.progress.seconds >= 1.2
    step = first.progress.step
    assert first.run(minutes=0.02)
    assert first.progress.step == step


COMMAND = [sys.executable, "-m", "vlae_fast", "train", "--preset", "tiny", "--batch-size", "16"]


def start(bars, out, *flags):
    return subprocess.Popen(
        [*COMMAND, "--data", str(bars), "--out", str(out), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state(bars, tmp_path, number):
    out = tmp_path / "run"
    process = start(bars, out)
    wait_for(out / "metrics.jsonl", process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "saved at step" in output
    assert "Traceback" not in output
    saved = Trainer(replace(TINY, height=9, width=8), TrainConfig(data=str(bars), batch_size=16), load(str(bars)), out)
    assert saved.progress.step > 0


def test_guard_skips_bad_steps_then_ends_with_the_last_good_state(bars, tmp_path, monkeypatch):
    out = tmp_path / "run"
    t = trainer(bars, out)
    t.run(epochs=1)
    before = {name: tensor.clone() for name, tensor in t._tensors().items()}
    nan = Bound(*(torch.full((16, 3)[:n], float("nan")) for n in (1, 1, 2)))
    monkeypatch.setattr(t.model, "elbo", lambda images, noise: Bound(*(x + t.model.encoder.dense.g[0] for x in nan)))
    with pytest.raises(DivergedError, match=f"{BAD_STEPS} steps in a row gave NaN"):
        t.run(epochs=5)
    resumed = trainer(bars, out)
    assert all(torch.equal(x, before[name]) for name, x in resumed._tensors().items())


def test_large_gradients_are_skipped(bars, tmp_path):
    with pytest.raises(DivergedError, match="gradient norm above 1e-06"):
        trainer(bars, tmp_path / "run", gradient_limit=1e-6).run(epochs=5)


def test_another_config_is_refused_and_the_run_left_alone(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    before = digest(out)
    with pytest.raises(CheckpointError, match=r"config.training.seed: 0 there, 1 here"):
        trainer(bars, out, seed=1)
    with pytest.raises(CheckpointError, match=r"config.model.latent_size: 8 there, 9 here"):
        trainer(bars, out, replace(TINY, latent_size=9))
    assert digest(out) == before


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 100, b"\xff" * 8 + b"{}"],
    ids=["empty", "no header", "enormous header"],
)
def test_damaged_state_is_refused(bars, tmp_path, content):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    (out / "state.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.safetensors: "):
        trainer(bars, out)


def test_free_bits_readings():
    """Kingma et al. 2016, eq. 15: what is below the free nats costs nothing, the true KL is reported."""
    bound = Bound(torch.tensor([-5.0, -7.0]), torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))

    def loss(**changes):
        t = Trainer.__new__(Trainer)
        t.config = replace(CONFIG, **changes)
        return t._loss(bound).item()

    assert loss(free_bits_nats=0.0) == 7.5
    assert loss(free_bits_nats=1.0) == 7.5
    assert loss(free_bits_nats=4.0) == 10.0
    assert loss(free_bits_nats=1.6, free_bits_groups="dimension") == pytest.approx(6 + 1.0 + 0.8)
