"""A run goes on from its folder alone, with the same images wherever they now lie; what may change and what may not."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlae_fast import VLAE, TrainConfig, VLAEConfig, cli, plots
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.data import load
from vlae_fast.train import Trainer

TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)


def bits(seed=0):
    return (np.random.default_rng(seed).random((60, 6, 5)) < 0.3).astype(np.uint8)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "curves", lambda rows, path: None)  # most of the time of so short a training
    np.save("images.npy", bits())
    return tmp_path / "images.npy"


def command(*words):
    return cli.main([str(word) for word in words])


FLAGS = ("--data", "images.npy", "--preset", "tiny", "--batch-size", 16, "--model.latent-size", 5, "--seed", 3)


def config(run="run"):
    with open(f"{run}/config.json") as file:
        return json.load(file)


def test_the_folder_alone_is_enough(images, capsys):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    before = config()
    for words in (("run",), ("--epochs", 9, "--out", "run")):
        assert command("train", *words, "--epochs", 2) == 0
    assert config() == before
    assert before["model"]["latent_size"] == 5
    assert (before["training"]["seed"], before["training"]["batch_size"]) == (3, 16)
    assert "run: resumed at step 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed", 4), "config.training.seed: 3 there, 4 here"),
        (("--preset", "tiny"), "config.model.latent_size: 5 there, 8 here"),
        (("--model.latent-size", 6), "config.model.latent_size: 5 there, 6 here"),
        (("--out", "other"), "out: one run folder wanted, got run and other"),
        (("--start-from", "static-mnist"), "config.training.start_from: '' there, 'static-mnist' here"),
    ],
)
def test_what_makes_another_run_is_refused(images, capsys, words, message):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    state = (images.parent / "run" / "state.safetensors").read_bytes()
    assert command("train", "run", *words, "--epochs", 2) == 2
    assert message in capsys.readouterr().err
    assert (images.parent / "run" / "state.safetensors").read_bytes() == state


def test_no_folder_is_named(images, capsys):
    assert command("train", *FLAGS) == 2
    assert "out: the name of a run folder wanted: vlae-fast train RUN" in capsys.readouterr().err


def test_how_it_is_run_may_change_and_is_remembered(images):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    flags = ("--checkpoint-minutes", 7, "--validation-epochs", 2, "--device", "cpu", "--minutes", 9)
    assert command("train", "run", *flags, "--epochs", 2) == 0
    assert command("train", "run", "--epochs", 3) == 0
    training = config()["training"]
    assert (training["checkpoint_minutes"], training["validation_epochs"]) == (7, 2)


def test_data_may_move_but_not_change(images, capsys):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    moved = images.rename(images.parent / "moved.npy")
    assert command("train", "run", "--data", "moved.npy", "--epochs", 2) == 0
    assert config()["training"]["data"] == config()["data"] == "moved.npy"
    state = (images.parent / "run" / "state.safetensors").read_bytes()
    np.save(moved, bits(1))
    assert command("train", "run", "--epochs", 3) == 2
    assert "run: learned from other images than moved.npy has now" in capsys.readouterr().err
    assert (images.parent / "run" / "state.safetensors").read_bytes() == state
    for verb in (("evaluate", "run", "--samples", 1), ("reconstruct", "run", "--out", "r.png")):
        assert command(*verb) == 2
        assert "run: the images of moved.npy are not those that it learned from" in capsys.readouterr().err
        assert command(*verb, "--data", "moved.npy") == 0


def test_an_older_run_without_a_digest_gets_one(images):
    def trainer(name):
        return Trainer(TINY, TrainConfig(data=name, batch_size=16), load(name), "run")

    trainer("images.npy").run(epochs=1)
    old = config()
    digest = old.pop("data_sha256")
    with open("run/config.json", "w") as file:
        json.dump(old, file)
    np.save("other.npy", bits())
    with pytest.raises(CheckpointError, match=r"config.data: 'images.npy' there, 'other.npy' here"):
        trainer("other.npy")
    assert trainer("images.npy").progress.step == 3
    assert config()["data_sha256"] == digest
    assert trainer("other.npy").progress.step == 3


def test_killed_before_its_first_state_it_begins_anew(images, capsys):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    before = config()
    (images.parent / "run" / "state.safetensors").unlink()
    assert command("train", "run", "--epochs", 1) == 0
    assert "run: no state of step 3 there; the training begins anew" in capsys.readouterr().err
    for path in (images.parent / "run").iterdir():
        if path.name != "config.json":
            path.unlink()
    assert command("train", "run", "--epochs", 1) == 0
    assert config() == before
    for name in ("state", "model"):
        (images.parent / "run" / f"{name}.safetensors").unlink()
    assert command("train", "run", "--seed", 5, "--epochs", 1) == 2, "metrics would be lost"
    for name in ("metrics.jsonl", "samples.png"):
        (images.parent / "run" / name).unlink()
    assert command("train", "run", "--seed", 5, "--epochs", 1) == 0
    assert config()["training"]["seed"] == 5


def test_a_stranger_s_config_is_no_beginning(images, capsys):
    (images.parent / "run").mkdir()
    (images.parent / "run" / "config.json").write_text('{"model_type": "bert"}')
    assert command("train", "run", *FLAGS, "--epochs", 1) == 2
    assert "run/config.json: not that of a run; choose another folder" in capsys.readouterr().err
    assert config() == {"model_type": "bert"}


def test_a_data_file_that_has_moved_is_asked_for(images, capsys):
    assert command("train", "run", *FLAGS, "--epochs", 1) == 0
    os.rename("images.npy", "moved.npy")
    capsys.readouterr()
    for verb in (("evaluate", "run", "--samples", 2), ("train", "run", "--epochs", 2)):
        assert command(*verb) == 2
        gone = f"run: it learned from images.npy, which is not there in {os.getcwd()}; say --data and where it is"
        assert gone in capsys.readouterr().err
        assert command(*verb, "--data", "moved.npy") == 0
    assert command("train", "run", "--data", "typo.npy", "--epochs", 3) == 2
    assert "'typo.npy': no such file or folder" in capsys.readouterr().err


def test_what_it_started_from_may_be_gone(images):
    VLAE(TINY).save_pretrained("m")
    flags = ("run", "--data", "images.npy", "--start-from", "m")
    assert command("train", *flags, "--epochs", 1) == 0
    shutil.rmtree("m")
    assert command("train", *flags, "--epochs", 2) == command("train", "run", "--epochs", 3) == 0
    assert config()["training"]["start_from"] == "m"


def test_without_file_locks_it_trains_and_says_so(images):
    code = (
        "import sys\n"
        "sys.modules['fcntl'] = None  # as on Windows\n"
        "from vlae_fast.folder_lock import FolderLock\n"
        "import pathlib, vlae_fast.cli\n"
        "lock = FolderLock.of(pathlib.Path('.'))\n"
        "assert lock.in_process.acquire(blocking=False)\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ".: no file locks on this system: keep other trainings out of it yourself\n"


def test_data_dir_is_remembered(images, tmp_path, monkeypatch):
    monkeypatch.delenv("VLAE_DATA", raising=False)
    seen = []

    def loaded(name, data_dir=None, **options):
        seen.append(data_dir)
        return replace(load("images.npy"), name="digits")

    monkeypatch.setattr(cli.common, "load", loaded)
    assert command("train", "run", *FLAGS, "--data", "digits", "--data-dir", tmp_path, "--epochs", 1) == 0
    assert command("train", "run", "--epochs", 1) == 0
    assert command("evaluate", "run", "--samples", 1) == 0
    assert command("evaluate", "run", "--samples", 1, "--data-dir", "elsewhere") == 0
    assert [str(path) for path in seen] == [str(tmp_path)] * 3 + ["elsewhere"]


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "cuda:x", "mps", "meta"])
def test_a_device_that_is_not_there_is_one_line(images, capsys, device):
    for verb in (
        ("train", "run", *FLAGS, "--epochs", 1),
        ("evaluate", "static-mnist", "--data", "images.npy"),
        ("sample", "static-mnist", "--out", "s.png"),
        ("reconstruct", "static-mnist", "--data", "images.npy", "--out", "r.png"),
    ):
        assert command(*verb, "--device", device) == 2
        said = capsys.readouterr().err
        assert said.startswith("vlae-fast: device: "), said
        assert said.count("\n") == 1
    assert sorted(path.name for path in images.parent.iterdir()) == ["images.npy"]
