"""A training that learns on from a model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlae_fast import VLAE, TrainConfig, VLAEConfig, cli
from vlae_fast.data import load
from vlae_fast.train import Trainer

TINY = replace(VLAEConfig.preset("tiny"), height=9, width=8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, (np.random.default_rng(0).random((60, 9, 8)) < 0.3).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def first(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    trainer(images, out).run(epochs=2)
    return out


def trainer(images, out, model=TINY, **changes):
    return Trainer(model, TrainConfig(batch_size=16, validation_images=6, **changes), load(str(images)), out)


def equal(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def test_begins_with_the_weights_and_resumes_with_its_own(images, first, tmp_path):
    start = VLAE.from_pretrained(first)
    run = trainer(images, tmp_path / "run", start_from=str(first))
    assert run.progress.step == 0
    assert equal(start, run.model)
    assert equal(start, run.average)
    run.run(epochs=1)
    assert not equal(start, run.model)
    resumed = trainer(images, tmp_path / "run", start_from=str(first))
    assert resumed.progress.step == run.progress.step
    assert equal(run.model, resumed.model)


def test_the_command_takes_the_model_along(images, first, tmp_path, capsys):
    flags = ["train", "--data", str(images), "--epochs", "1", "--batch-size", "16", "--start-from", str(first)]
    assert cli.main([*flags, "--out", str(tmp_path / "on"), "--learning-rate", "1e-12"]) == 0
    configs = [json.loads((folder / "config.json").read_text())["model"] for folder in (first, tmp_path / "on")]
    assert configs[0] == configs[1]
    moved = VLAE.from_pretrained(tmp_path / "on").state_dict()
    assert all(torch.allclose(t, moved[n], atol=1e-6) for n, t in VLAE.from_pretrained(first).state_dict().items())
    assert cli.main([*flags, "--out", str(tmp_path / "wide"), "--model.no-tied"]) == 2
    assert f"model.tied: True, as in {first}, wanted, got False" in capsys.readouterr().err
    assert not (tmp_path / "wide").exists()


def test_no_model_to_start_from(images, tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder, and no weights of that name"):
        trainer(images, tmp_path / "run", start_from="nowhere")
    assert not (tmp_path / "run").exists()
