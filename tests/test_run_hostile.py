"""Run folders and paths that nobody should trust: one clear line, exit status 2, nothing there changed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from vlae_fast import VLAE, VLAEConfig, cli


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Images, a trained run and a model of another image size."""
    home = tmp_path_factory.mktemp("home")
    np.save(home / "images.npy", (np.random.default_rng(0).random((30, 6, 5)) < 0.3).astype(np.uint8))
    before = Path.cwd()
    os.chdir(home)  # the run must name its data in a way that survives copying
    assert main(home, TRAIN) == 0
    os.chdir(before)
    VLAE(VLAEConfig(height=9, width=9, conditioning="none")).save_pretrained(home / "other")
    return home


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(home, tmp_path / "home"))
    monkeypatch.chdir(copy)
    return copy


TRAIN = "train --data images.npy --out HOME/run --preset tiny --batch-size 16 --epochs 1"
EVALUATE = "evaluate HOME/run --samples 2 --data HOME/images.npy"
SAMPLE = "sample HOME/run --num 2"


def main(home, command):
    try:
        return cli.main([word.replace("HOME", str(home)) for word in command.split()])
    except SystemExit as error:  # the parser's own way out
        return error.code


def tree(folder):
    """What lies there, without following links."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith("evaluation-")
    }


def refused(folder, command, message, capsys):
    before = tree(folder)
    assert main(folder, command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vlae-fast: ")
    assert message in last
    assert tree(folder) == before


def write(content):
    return lambda path: path.write_text(content)


def instead(make):
    return lambda path: (path.unlink(), make(path))


def sparse(path):
    """As long as a hundred million bytes, but for the disk next to nothing."""
    with path.open("r+b") as file:
        file.truncate(10**8)


def row(**changes):
    values = {"step": 2, "epoch": 1.0} | {
        f"{s}_{w}_nats": 1.0 for s in ("train", "valid") for w in ("kl", "negative_elbo")
    }
    return write(json.dumps(values | changes) + "\n")


CONFIG, METRICS, STATE = "config.json", "metrics.jsonl", "state.safetensors"
FILES = {
    "metrics garbage": (METRICS, write("x\n"), "line 1: no metrics of a training"),
    "metrics torn": (METRICS, lambda p: p.write_text(p.read_text()[:-9]), "line 1: no metrics of a training"),
    "metrics binary": (METRICS, lambda p: p.write_bytes(b"\xff\x00" * 99), "line 1: no metrics"),
    "metrics a list": (METRICS, write("[]\n"), "line 1: no metrics"),
    "metrics deep": (METRICS, write("[" * 100_000), "line 1: no metrics"),
    "metrics other fields": (METRICS, write('{"step": 1}\n'), "line 1: no metrics"),
    "metrics step a text": (METRICS, row(step="1"), "line 1: no metrics"),
    "metrics step huge": (METRICS, write('{"step": ' + "9" * 5000 + "}\n"), "line 1: no metrics"),
    "metrics a text for nats": (METRICS, row(valid_kl_nats="1"), "line 1: no metrics"),
    "metrics huge": (METRICS, sparse, "metrics.jsonl: larger than"),
    "metrics a folder": (METRICS, instead(Path.mkdir), "metrics.jsonl: a file wanted"),
    "metrics a pipe": (METRICS, instead(os.mkfifo), "metrics.jsonl: a file wanted"),
    "metrics a device": (METRICS, instead(lambda p: p.symlink_to("/dev/zero")), "metrics.jsonl: a file wanted"),
    "metrics a loop": (METRICS, instead(lambda p: p.symlink_to(p)), "Too many levels of symbolic links"),
    "state a loop": (STATE, instead(lambda p: p.symlink_to(p)), "state.safetensors: Too many levels of symbolic links"),
    "state dangling": (STATE, instead(lambda p: p.symlink_to("nowhere")), "state.safetensors: No such file"),
    "config a loop": (CONFIG, instead(lambda p: p.symlink_to(p)), "Too many levels of symbolic links"),
    "config dangling": (CONFIG, instead(lambda p: p.symlink_to("nowhere")), "config.json: No such file"),
    "config a pipe": (CONFIG, instead(os.mkfifo), "config.json: a file wanted"),
    "config a list": (CONFIG, write("[1]"), "config.json: not that of a run; choose another folder"),
    "config huge": (CONFIG, sparse, "config.json: larger than"),
    "config deep": (CONFIG, write("[" * 100_000), "config.json: not a JSON file"),
    "config a saved model's": (CONFIG, write('{"model": {}}'), "config.json: not that of a run"),
    "config with line feeds": (
        CONFIG,
        write('{"a\\nb": 1, "model": {}, "training": {}}'),
        "another config (config.a b: 1 there, None here",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_spoilt_run_is_not_gone_on_with(case, folder, capsys):
    name, spoil, message = FILES[case]
    spoil(folder / "run" / name)
    refused(folder, TRAIN, message, capsys)


COMMANDS = {
    "run missing": (SAMPLE.replace("run", "run/../none") + " --out HOME/s.png", "no such folder"),
    "run a file": (
        SAMPLE.replace("run", "images.npy") + " --out HOME/s.png",
        "images.npy: the folder of a model wanted, this is a file",
    ),
    "run a loop": (SAMPLE.replace("run", "loop") + " --out HOME/s.png", "no such folder"),
    "run a long name": (SAMPLE.replace("run", "r" * 300) + " --out HOME/s.png", ""),
    "run with NUL": (SAMPLE.replace("run", "a\0b") + " --out HOME/s.png", ""),
    "out a folder": (SAMPLE + " --out HOME/folder.png", "folder.png: cannot be written (Is a directory)"),
    "out a folder, npy": (SAMPLE + " --out HOME/folder.npy", "folder.npy: cannot be written (Is a directory)"),
    "out below a file": (SAMPLE + " --out HOME/images.npy/s.png", "s.png: cannot be written (File exists)"),
    "out where nothing may be": (SAMPLE + " --out /proc/none/s.npz", ".part: cannot be written (No such file"),
    "reconstruct onto a folder": (
        "reconstruct HOME/run --num 2 --data HOME/images.npy --out HOME/folder.png",
        "folder.png: cannot be written (Is a directory)",
    ),
    "against nothing": (EVALUATE + " --against HOME/none", "none: no such folder"),
    "against a file": (
        EVALUATE + " --against HOME/images.npy",
        "images.npy: the folder of a model wanted, this is a file",
    ),
    "against an empty folder": (EVALUATE + " --against HOME/folder.png", "config.json: No such file"),
    "against another size": (EVALUATE + " --against HOME/other", "its images are of 9x9 pixels"),
    "json onto a folder": (EVALUATE + " --json HOME/folder.json", "folder.json: cannot be written (Is a directory)"),
    "json below a file": (EVALUATE + " --json HOME/images.npy/e.json", "e.json: cannot be written (File exists)"),
    "json where nothing may be": (EVALUATE + " --json /proc/none/e.json", "/proc/none/e.json: cannot be written"),
    "train below a file": (
        TRAIN.replace("/run", "/images.npy/run"),
        "config.json: cannot be written (Not a directory)",
    ),
    "train in a loop": (TRAIN.replace("/run", "/loop"), "loop"),
    "train where nothing may be": (
        TRAIN.replace("HOME/run", "/proc/none"),
        "/proc/none/config.json: cannot be written",
    ),
    "data names nothing": ("data download nothing", ""),
    "data below a file": ("data download omniglot --data-dir HOME/images.npy", "images.npy"),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_paths(case, folder, capsys):
    (folder / "folder.png").mkdir()
    (folder / "folder.npy").mkdir()
    (folder / "folder.json").mkdir()
    (folder / "loop").symlink_to(folder / "loop")
    command, message = COMMANDS[case]
    if case == "data names nothing":
        assert main(folder, command) == 2  # the parser's own words
        return
    refused(folder, command, message, capsys)


def test_links_and_dots_are_followed_for_the_folder_itself(folder):
    (folder / "link").symlink_to(folder / "run")
    assert main(folder, TRAIN.replace("HOME/run", "HOME/other/../link").replace("--epochs 1", "--epochs 2")) == 0
    assert main(folder, EVALUATE.replace("/run", "/link") + " --json HOME/new/folder/e.json") == 0
    assert (folder / "new" / "folder" / "e.json").exists()


def test_output_replaces_a_link_instead_of_writing_through_it(folder):
    before = (folder / "images.npy").read_bytes()
    (folder / "s.npy").symlink_to(folder / "images.npy")
    assert main(folder, SAMPLE + " --out HOME/s.npy") == 0
    assert (folder / "images.npy").read_bytes() == before
