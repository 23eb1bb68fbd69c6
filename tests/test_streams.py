"""Commands whose output nobody takes: a pipe that ends, a full disk behind a log; no work and no file is lost."""

import json
import os
import subprocess
import sys

import pytest

VERBS = {
    "train": ("train run --data images.npy --preset tiny --epochs 1", "run/model.safetensors"),
    "evaluate": ("evaluate m --data images.npy --samples 2 --subset 6 --json e.json", "e.json"),
    "sample": ("sample m --num 2 --out s.npy", "s.npy"),
    "reconstruct": ("reconstruct m --data images.npy --num 2 --out r.png", "r.png"),
}


def start(words, **streams):
    command = [sys.executable, "-m", "vlae_fast", *words.split()]
    return subprocess.Popen(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **streams)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_behind_the_log(verb, home):
    words, file = VERBS[verb]
    with open("/dev/full", "w") as full:
        process = start(words, stdout=full, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    if verb == "evaluate":  # alone has a result to print
        assert process.returncode == 1
        assert said == "vlae-fast: standard output: cannot be written (No space left on device)\n"
    else:
        assert process.returncode == 0, said
    assert (home / file).exists()


def test_figures_are_in_their_file_before_anybody_is_told(home):
    process = start(VERBS["evaluate"][0], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().startswith("images.npy: all 90 images")  # as `head -1` does
    process.stdout.close()
    said = process.stderr.read()
    assert (process.wait(timeout=60), said) == (130, "")
    assert json.loads((home / "e.json").read_text())["images"] == 6


def test_figures_are_told_though_their_file_cannot_be_written(home):
    process = start(VERBS["evaluate"][0].replace("e.json", "/dev/full"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    figures, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "active units" in figures
    assert said == "vlae-fast: /dev/full: cannot be written (No space left on device)\n"
