"""The commands as a user runs them: real processes, exit status, one clear line for bad input."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vlae_fast import VLAE, Trainer, VLAEConfig, cli


def run(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "vlae_fast", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, (np.random.default_rng(0).random((60, 8, 10)) < 0.3).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """A run folder made by the command itself."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = run("train", "--data", images, "--out", out, "--epochs", 2, "--preset", "tiny", "--batch-size", 16)
    assert result.returncode == 0, result.stderr
    return out


def main(*arguments):
    return cli.main([str(a) for a in arguments])


def test_train_made_a_run_folder(trained):
    config = json.loads((trained / "config.json").read_text())
    assert (config["model"]["height"], config["model"]["width"]) == (8, 10)
    assert config["model"]["latent_size"] == VLAEConfig.preset("tiny").latent_size


def test_the_same_command_resumes(images, trained, capsys):
    flags = ("--data", images, "--out", trained, "--preset", "tiny", "--batch-size", 16)
    assert main("train", *flags, "--epochs", 3) == 0
    assert "resumed at step 6" in capsys.readouterr().out


def test_evaluate(trained, tmp_path, capsys):
    flags = ("--samples", 8, "--subset", 5, "--seed", 1)
    assert main("evaluate", trained, *flags, "--json", tmp_path / "e.json") == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["images"], result["samples"], result["seed"]) == (5, 8, 1)
    assert f"NLL                     {result['nll_nats']['mean']:.3f}" in printed
    assert result["nll_nats"]["mean"] <= result["negative_elbo_nats"]["mean"]
    assert result["kl_bits"]["mean"] == pytest.approx(result["kl_nats"]["mean"] / np.log(2))


def test_evaluate_against(trained, images, tmp_path, capsys):
    VLAE(VLAEConfig(height=8, width=10, conditioning="none")).save_pretrained(tmp_path / "other")
    flags = ("--samples", 4, "--subset", 5, "--json", tmp_path / "new" / "e.json")
    assert main("evaluate", trained, "--against", tmp_path / "other", *flags) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "new" / "e.json").read_text())
    difference = result["nll_less_against_nats"]
    assert difference["mean"] == pytest.approx(result["nll_nats"]["mean"] - result["against"]["nll_nats"]["mean"])
    assert f"{difference['mean']:.3f} +- {difference['standard_error']:.3f} nats, paired" in printed
    assert result["against"]["kl_nats"] is None


def test_ctrl_c_keeps_what_an_evaluation_has(images, tmp_path, monkeypatch, capsys):
    saved = tmp_path / "m"
    VLAE(VLAEConfig(height=8, width=10)).save_pretrained(saved)
    command = ("evaluate", saved, "--samples", 2, "--data", images, "--json", tmp_path / "e.json")
    with monkeypatch.context() as patch:
        patch.setattr(VLAE, "encode", raise_interrupt)  # the last step
        assert main(*command) == 130
    assert not (tmp_path / "e.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(VLAE, "sampled_bounds", raise_interrupt)  # not needed any more
        assert main(*command) == 0
    assert json.loads((tmp_path / "e.json").read_text())["images"] == 60


def raise_interrupt(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
def test_sample(trained, tmp_path, suffix):
    out = tmp_path / "new" / f"s{suffix}"
    assert main("sample", trained, "--num", 5, "--out", out, "--seed", 2) == 0
    if suffix == ".png":
        assert out.read_bytes().startswith(b"\x89PNG")
        return
    drawn = np.load(out) if suffix == ".npy" else np.load(out)["images"]
    expected = VLAE.from_pretrained(trained).sample(5, seed=2)
    assert torch.equal(torch.from_numpy(drawn).float(), expected)


def test_reconstruct_and_info(trained, tmp_path, capsys):
    assert main("reconstruct", trained, "--out", tmp_path / "r.png", "--num", 3) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert main("info") == 0
    assert main("info", trained) == 0
    assert "latent_size" in capsys.readouterr().out


def test_a_saved_model_needs_the_name_of_a_data_set(images, tmp_path, capsys):
    VLAE(VLAEConfig(height=8, width=10)).save_pretrained(tmp_path / "m")
    assert main("evaluate", tmp_path / "m", "--samples", 2) == 2
    assert "names no data set; say --data" in capsys.readouterr().err
    assert main("evaluate", tmp_path / "m", "--samples", 2, "--subset", 3, "--data", images) == 0


@pytest.mark.parametrize(
    ("count", "flags", "split", "evaluated"),
    [
        (60, (), "test", 6),  # what it learned from, under another name
        (60, ("--split", "train"), "train", 48),
        (59, (), "all", 59),
        (1, (), "all", 1),
        (59, ("--split", "test"), "test", 5),
    ],
)
def test_of_images_that_it_did_not_learn_from_all_are_taken(
    count, flags, split, evaluated, images, trained, tmp_path, capsys
):
    np.save(tmp_path / "other.npy", np.load(images)[:count])
    data = ("--data", tmp_path / "other.npy", *flags)
    assert main("evaluate", trained, *data, "--samples", 2, "--json", tmp_path / "e.json") == 0
    result = json.loads((tmp_path / "e.json").read_text())
    assert (result["split"], result["images"]) == (split, evaluated)
    capsys.readouterr()
    assert main("reconstruct", trained, *data, "--num", 100, "--out", tmp_path / "r.png") == 0
    said = f"{evaluated} images of {tmp_path / 'other.npy'}, {split}, each beside its reconstruction"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_nothing_half_written(name, trained, images, tmp_path, monkeypatch):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    assert main("compress", images, "--model", trained, "--out", tmp_path / "x.vlae") == 0
    monkeypatch.setattr(Image.Image, "save", lambda *_: os.kill(os.getpid(), number))
    assert main("decompress", tmp_path / "x.vlae", "--model", trained, "--out", tmp_path / "pngs") == 130
    assert os.listdir(tmp_path) == ["x.vlae"]
    assert signal.getsignal(number) is before


def test_a_name_that_the_output_cannot_write_is_no_failure(trained, tmp_path):
    command = [sys.executable, "-m", "vlae_fast", "sample", trained, "--num", "2", "--out", tmp_path / "\u00e4.npy"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, env=environment)
    assert (result.returncode, result.stdout.decode()) == (0, f"{tmp_path}/\\xe4.npy: 2 images\n")


BAD = {
    "preset of another model": (
        "train OUT --data IMAGES --start-from RUN --preset paper",
        "model.latent_size: 8, as in RUN, wanted, got 64",
    ),
    "folder of what has none": ("train OUT --data IMAGES --data-dir EMPTY", "data_dir: it is of named data sets"),
    "folder of a file": ("evaluate RUN --data IMAGES --data-dir EMPTY", "data_dir: it is of named data sets, IMAGES"),
    "folder of the run's file": ("evaluate RUN --data-dir EMPTY", "data_dir: it is of named data sets, IMAGES"),
    "order of what has one": ("train OUT --data digits --data-order file", "data_order: it is of own files"),
    "unknown data": ("train --data nothing --out OUT", "'nothing': no such file or folder"),
    "missing files": ("train --data static-mnist --data-dir EMPTY --out OUT", "binarized_mnist_train.amat"),
    "unknown preset": ("train --data IMAGES --out OUT --preset big", "preset: one of paper, tiny wanted, got 'big'"),
    "minutes": ("train --data IMAGES --out OUT --minutes 0", "minutes: a positive number wanted, got 0"),
    "epochs": ("train --data IMAGES --out OUT --epochs nan", "epochs: a positive number wanted, got nan"),
    "batch size": (
        "train --data IMAGES --out OUT --batch-size 0",
        "batch_size: a whole number in 1..65536 wanted",
    ),
    "seed": ("train --data IMAGES --out OUT --seed -1", "seed"),
    "choice": ("train --data IMAGES --out OUT --model.prior uniform", "--model.prior"),
    "wiring": (
        "train --data IMAGES --out OUT --model.wiring.block-convs 3",
        "model.wiring: block_convs: a whole number",
    ),
    "out is a file": ("train --data IMAGES --out IMAGES --epochs 1", "IMAGES"),
    "no run": ("sample EMPTY/none --out OUT.png", "no such folder"),
    "no model": ("sample EMPTY --out OUT.png", "config.json: No such file"),
    "suffix": ("sample RUN --out OUT.jpg", ".png, .npy or .npz wanted"),
    "num": ("sample RUN --out OUT.png --num 0", "num: a whole number in 1.."),
    "temperature": ("sample RUN --out OUT.png --temperature 0", "temperature: a positive number wanted"),
    "samples": ("evaluate RUN --samples 0", "samples: a whole number in 1.."),
    "subset": ("evaluate RUN --subset 0", "subset: a whole number in 1.."),
    "other size": (
        "evaluate RUN --data digits --samples 2 --subset 2",
        "its images are of 8x10 pixels, those of digits",
    ),
    "unknown command": ("fly", "vlae-fast: Unrecognized options: fly; see --help"),
    "unknown flag": ("info --speed 3", "--speed"),
    "seed of pictures": (
        "reconstruct RUN --out OUT.png --seed -1",
        "seed: a whole number in 0..2**64-1 wanted, got -1",
    ),
    "empty folder": ("train NOTHING --data IMAGES --epochs 1", "an argument: it is empty; was a variable never set?"),
    "empty argument": ("sample RUN --out NOTHING", "out: it is empty; was a variable never set?"),
    "empty value": ("sample RUN --out=", "out: it is empty"),
    "other model of another size": (
        "evaluate RUN --against static-mnist --samples 2",
        "static-mnist: its images are of 28x28 pixels",
    ),
    "no command": ("", "{train, evaluate, sample, reconstruct, compress, decompress, explore, data, info}"),
    "no output": ("sample RUN", "--out"),
    "no value": ("sample RUN --num", "'--num'"),
    "no preset": ("train --data IMAGES --out OUT --preset --", "argument --preset: expected one argument; see --help"),
    "no start": ("train --data IMAGES --out OUT --start-from -inf", "argument --start-from: expected one argument"),
    "no number": ("train --data IMAGES --out OUT --epochs abc", "Error parsing --epochs"),
    "size of the code": (
        "train --data IMAGES --out OUT --model.latent-size 0",
        "latent_size: a whole number in 1..65536",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_status_2(case, images, trained, tmp_path, capsys, monkeypatch):
    command, message = BAD[case]
    words = {
        "NOTHING": "",
        "IMAGES": str(images),
        "RUN": str(trained),
        "EMPTY": str(tmp_path),
        "OUT": str(tmp_path / "out"),
    }
    arguments = []
    for word in command.split():
        for name, value in words.items():
            word = word.replace(name, value)
        arguments.append(word)
    assert main(*arguments) == 2
    captured = capsys.readouterr()
    assert message.replace("IMAGES", str(images)).replace("RUN", str(trained)) in captured.err
    assert captured.err.startswith("vlae-fast: ")
    assert captured.err.count("\n") == 1
    assert "tyro" not in captured.err
    assert not (tmp_path / "out").exists()


def test_boxes_of_the_parser_are_a_line_in_every_encoding(monkeypatch, capsys):
    for encoding in ("utf-8", "ascii"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert main("train", "--epochs", "abc") == 2
        wanted = "vlae-fast: Value error: Error parsing --epochs: no type matching {None}|FLOAT could be instantiated"
        assert capsys.readouterr().err.startswith(wanted)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line(trained, tmp_path, monkeypatch, capsys):
    shutil.copytree(trained, tmp_path / "static-mnist")
    monkeypatch.chdir(tmp_path)
    assert main("sample", "static-mnist", "--out", "s.png", "--num", 1) == 0
    wanted = "vlae-fast: warning: static-mnist: the model in this folder, not the weights of that name that ship\n"
    assert capsys.readouterr().err == wanted


def test_a_training_without_end_says_so(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "run", lambda self, **ends: False)
    train = ["train", tmp_path / "run", "--data", images, "--preset", "tiny"]
    assert main(*train) == 130
    assert "training until Ctrl-C, as neither --minutes nor --epochs is given" in capsys.readouterr().out
    for end in (["--minutes", 1], ["--anneal-to", 3]):
        main(*train[:1], tmp_path / str(end[0]), *train[2:], *end)
        assert "until Ctrl-C" not in capsys.readouterr().out


def test_help_and_version_of_the_process():
    result = run("--help")
    assert result.returncode == 0
    for verb in ("train", "evaluate", "sample", "reconstruct", "info"):
        assert verb in result.stdout


def test_a_real_process_gives_status_2_without_a_traceback(tmp_path):
    result = run("sample", tmp_path / "none", "--out", tmp_path / "s.png")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("vlae-fast: ")
    assert result.stderr.count("\n") == 1
