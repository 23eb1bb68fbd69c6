"""What is asked first: where a module is, what a data set is, how a run from tensors in memory goes on."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from vlae_fast import Dataset, TrainConfig, Trainer, VLAEConfig, cli


def images_of(n):
    return (torch.rand(n, 6, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def test_every_module_of_the_docs_is_an_attribute():
    code = "import vlae_fast as v; print(v.explore.page, v.codec.compress, v.accelerate, v.evaluate, v.plots.pairs)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_data_set_prints_in_a_line():
    text = repr(Dataset.from_tensors(images_of(30)))
    assert "train=Split(24 static images of 6x5)" in text
    assert "\n" not in text


@pytest.mark.parametrize("command", ["train {} --epochs 2", "evaluate {}", "reconstruct {} --out r.png"])
def test_a_run_from_tensors_in_memory_asks_for_its_data(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.common, "load", None)  # the published data may be there: they are not what is meant
    data = Dataset.from_tensors(images_of(30))
    config = replace(VLAEConfig.preset("tiny"), height=6, width=5)
    Trainer(config, TrainConfig(), data, tmp_path / "run", quiet=True).run(epochs=1)
    assert cli.main(command.format("run").split()) == 2
    assert "run/config.json: the model learned from tensors in memory; say --data" in capsys.readouterr().err


def test_a_file_is_no_run_folder(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "x.npy").write_text("")
    assert cli.main(["train", str(tmp_path / "x.npy"), "--data", "digits"]) == 2
    assert "x.npy: a folder for the run wanted, this is a file" in capsys.readouterr().err
