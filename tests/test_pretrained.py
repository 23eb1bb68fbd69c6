"""The weights that ship with the package."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vlae_fast import VLAE, VLAEConfig, checkpoint, cli, codec, pretrained, use_backend
from vlae_fast.data import load

NAME = "static-mnist"


def stated(field):
    """A figure of the weights' metadata."""
    folder = pretrained.folder_of(NAME)
    model = VLAE.from_pretrained(folder)
    return checkpoint.read_tensors(folder / "model.safetensors", model.state_dict())[1][field]


def test_loaded_by_name_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert NAME in pretrained.shipped()
    model = VLAE.from_pretrained(NAME)
    drawn = model.sample(50, seed=0)
    assert 0.08 < drawn.mean() < 0.2, "as much ink as MNIST's digits have"
    with torch.no_grad():
        assert 60 < -model.elbo(drawn).elbo.mean() < 110, "its own samples are likely"
    shuffled = drawn.flatten(2)[:, :, torch.randperm(784)].view_as(drawn)
    with torch.no_grad():
        assert -model.elbo(shuffled).elbo.mean() > 200, "noise is not"


def test_a_folder_of_that_name_hides_the_weights_only_with_a_word(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    assert VLAE.from_pretrained(NAME).config == VLAEConfig.preset("paper"), "no model in it: the weights that ship"
    assert not recwarn
    VLAE(VLAEConfig.preset("tiny")).save_pretrained(NAME)
    with pytest.warns(UserWarning, match=f"^{NAME}: the model in this folder, not the weights of that name that ship"):
        assert VLAE.from_pretrained(NAME).config == VLAEConfig.preset("tiny")
    recwarn.clear()
    assert VLAE.from_pretrained(tmp_path / NAME).config == VLAEConfig.preset("tiny")
    assert not recwarn


def test_small_and_of_stated_origin():
    folder = pretrained.folder_of(NAME)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 2**20
    assert stated("data") == NAME
    assert stated("command").startswith("vlae-fast train --out")
    assert float(stated("test_nll_nats").split()[0]) < 85


def test_unknown_name():
    with pytest.raises(checkpoint.CheckpointError, match=r"nothing: no such folder, and no weights"):
        VLAE.from_pretrained("nothing")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(checkpoint.CheckpointError, match=r"model.safetensors: the folder of a model wanted, this is a"):
        VLAE.from_pretrained(tmp_path / "model.safetensors")


def test_command_line_takes_the_name(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["info", NAME]) == 0
    assert "prior_flow" in capsys.readouterr().out
    assert cli.main(["sample", NAME, "--num", "4", "--out", "s.png"]) == 0
    assert Path("s.png").exists()


def test_a_file_by_shipped_weights_is_read_beside_a_folder_of_their_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = VLAE.from_pretrained(NAME)
    Path("x.vlae").write_bytes(codec.compress(model, torch.zeros(2, 1, 28, 28)))
    VLAE(VLAEConfig.preset("tiny")).save_pretrained(NAME)
    assert cli.main(["decompress", "x.vlae", "--out", "x.npy"]) == 0
    assert not np.load("x.npy").any()


NLL_NATS = {
    "caltech101": [174.097, 118.012, 112.684, 74.464],
    "dynamic-mnist": [35.052, 112.649, 69.008, 76.187],
    "static-mnist": [31.407, 108.549, 66.39, 71.208],
}
"""Of the first four images that each model draws, 16 importance samples, seed 0."""


@pytest.mark.parametrize("name", pretrained.shipped())
def test_figures_stay_to_five_thousandths_of_a_nat(name):
    """They are those of weights and noise, in every version, and of the float64 reference."""
    model = VLAE.from_pretrained(name)
    images = model.sample(4, seed=0)
    figures = -model.log_likelihood(images, samples=16)
    assert (figures - torch.tensor(NLL_NATS[name])).abs().max() < 0.005
    with use_backend("reference"):
        exact = -model.double().log_likelihood(images.double(), samples=16)
    assert (figures - exact).abs().max() < 0.005


@pytest.mark.skipif("VLAE_DATA" not in os.environ, reason="VLAE_DATA names no folder of image files")
def test_bound_on_test_images_is_near_the_stated_nll(tmp_path, capsys):
    images = load(NAME).test.fixed()[::20]
    nll, error = (float(part) for part in stated("test_nll_nats").split(" ± "))
    found = -VLAE.from_pretrained(NAME).log_likelihood(images, samples=8)
    slack = 4 * error * (10_000 / len(images)) ** 0.5
    assert nll - slack < found.mean() < nll + slack + 3, "few samples cost a nat or two"
    before = sorted(pretrained.folder_of(NAME).iterdir())
    assert cli.main(["evaluate", NAME, "--samples", "2", "--subset", "20"]) == 0
    assert sorted(pretrained.folder_of(NAME).iterdir()) == before, "nothing is written into the package"
