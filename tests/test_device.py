"""Which device is picked, and that a training there sees the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlae_fast import TrainConfig, VLAEConfig, device
from vlae_fast.data import load
from vlae_fast.train import Trainer


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs on which the ops run, as far as torch says."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(device, "_try", lambda where: None)


def broken(where):
    raise RuntimeError("vlae_fast: no CUDA extension\nat all")


def test_picked_where_it_works(gpus, monkeypatch, capsys):
    assert device.pick("auto") == device.pick("cuda") == torch.device("cuda")
    assert device.pick(torch.device("cuda", 1)) == device.pick("cuda:1") == torch.device("cuda:1")
    assert device.pick("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device: cuda:2 wanted, but there are 2 GPUs here"):
        device.pick("cuda:2")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(device, "_try", broken)
    assert device.pick("auto") == torch.device("cpu")
    assert (
        capsys.readouterr().err == "device: the CPU, as the GPU does not work (vlae_fast: no CUDA extension at all)\n"
    )
    with pytest.raises(ValueError, match=r"^device: cuda does not work \(vlae_fast: no CUDA extension at all\)$"):
        device.pick("cuda")


def test_the_try_runs_the_ops():
    device._try(torch.device("cpu"))
    with pytest.raises(Exception, match=r"(?i)cuda|nvidia|cpu|build"):
        device._try(torch.device("cuda"))


@pytest.mark.parametrize("values", [2, 256], ids=["static", "dynamic"])
def test_images_on_the_device_are_the_same(tmp_path, values):
    pixels = np.random.default_rng(0).integers(0, values, (60, 6, 5), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    model = replace(VLAEConfig.preset("tiny"), height=6, width=5)
    config = TrainConfig(data="images", batch_size=16)
    ends = []
    for name in ("resident", "not"):
        t = Trainer(model, config, load(str(tmp_path / "images.npy")), tmp_path / name, device="cpu")
        assert t.batches.resident is None, "on a CPU they are there anyway"
        if name == "resident":
            t.batches.resident = t.batches.pixels()
        t.run(epochs=1)
        ends.append(t.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_large_data_sets_stay_where_they_are(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", np.eye(30, dtype=np.uint8).reshape(5, 6, 30))
    t = Trainer(
        replace(VLAEConfig.preset("tiny"), height=6, width=30),
        TrainConfig(data="images", batch_size=2),
        load(str(tmp_path / "images.npy")),
        str(tmp_path / "run"),
    )
    assert t.batches.pixels().shape == (3, 1, 6, 30)
    monkeypatch.setattr("vlae_fast.batches.RESIDENT_BYTES", 4 * 3 * 6 * 30 - 1)
    assert t.batches.pixels() is None
