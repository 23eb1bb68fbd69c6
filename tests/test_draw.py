"""`vlae-fast sample` of many images: into a file as they come, which the same command goes on with."""

import io
import os
import resource
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import forked

from vlae_fast import VLAE, Dataset, TrainConfig, Trainer, VLAEConfig, cli, native, rounds

TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)
N = 20


@pytest.fixture
def home(tmp_path, monkeypatch):
    torch.manual_seed(0)
    VLAE(TINY).save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.draw, "AT_ONCE", 3)
    return tmp_path


def sample(out, num=N):
    return cli.main(["sample", "m", "--num", str(num), "--out", str(out)])


def cut_short(monkeypatch, out, rounds=2):
    """What a command leaves that Ctrl-C ends after so many rounds."""
    drawn, draw = [], VLAE.sample

    def interrupted(self, n, **options):
        drawn.append(n)
        if len(drawn) > rounds:
            raise KeyboardInterrupt
        return draw(self, n, **options)

    with monkeypatch.context() as patch:
        patch.setattr(VLAE, "sample", interrupted)
        assert sample(out) == 130
    (part,) = (path for path in os.listdir() if path.endswith(".part"))
    return part


def content(out):
    """The images of an .npy or .npz file."""
    return np.load(out)["images"] if out.endswith("z") else np.load(out)


def wanted():
    return VLAE.from_pretrained("m").sample(N).numpy().astype(np.uint8)


@pytest.mark.parametrize("out", ["s.npy", "s.npz", "s.png"])
def test_it_goes_on_where_it_was_cut_short(home, monkeypatch, capsys, out):
    part = cut_short(monkeypatch, out)
    assert sorted(os.listdir()) == sorted(["m", part])
    drawn, draw = [], VLAE.sample
    with monkeypatch.context() as patch:
        patch.setattr(VLAE, "sample", lambda self, n, **rest: drawn.append(rest["first"]) or draw(self, n, **rest))
        assert sample(out) == 0
    assert drawn == [6, 9, 12, 15, 18]
    assert f"{out}: going on at image 6\n{out}: 20 images\n" in capsys.readouterr().out
    assert sorted(os.listdir()) == ["m", out]
    if out != "s.png":
        assert np.array_equal(content(out), wanted())


DAMAGE = {
    "half a row": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "garbage": lambda path: path.write_bytes(b"x" * 999),
    "empty": lambda path: path.write_bytes(b""),
    "too long": lambda path: path.write_bytes(path.read_bytes() + wanted()[6:].tobytes() + b"xx"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_not_whole_is_drawn_anew(home, monkeypatch, case):
    DAMAGE[case](home / cut_short(monkeypatch, "s.npy"))
    assert sample("s.npy") == 0
    assert np.array_equal(content("s.npy"), wanted())
    assert sorted(os.listdir()) == ["m", "s.npy"]


def test_no_two_processes_append_to_one_file(home, monkeypatch, capsys):
    part = cut_short(monkeypatch, "s.npy")
    held = rounds.GrowingFile(home / part, N, (1, 6, 5))
    assert sample("s.npy") == 2
    assert capsys.readouterr().err.endswith(".part: another process writes to it\n")
    held.close()
    assert sample("s.npy") == 0


@pytest.mark.parametrize("name", ["a folder", "a pipe", "a link"])
def test_what_stands_in_its_way_is_refused(home, monkeypatch, capsys, name):
    part = home / cut_short(monkeypatch, "s.npy")
    part.unlink()
    {"a folder": part.mkdir, "a pipe": lambda: os.mkfifo(part), "a link": lambda: part.symlink_to("m")}[name]()
    assert sample("s.npy") == 2
    assert capsys.readouterr().err.startswith(f"vlae-fast: {part.name}: ")


@pytest.mark.parametrize(("out", "num"), [("s.npy", 10**15), ("s.npz", 2**64 - 1), ("s.png", 10**15)])
def test_more_than_there_is_room_for_is_refused_at_once(home, capsys, out, num):
    assert sample(out, num) == 2
    said = capsys.readouterr().err
    assert "bytes wanted" in said or "of them make a picture of" in said
    assert said.count("\n") == 1
    assert os.listdir() == ["m"]


def test_image_numbers_end_with_their_64_bits(home, capsys):
    numbers = [2**64 - 2, 2**64 - 1]
    last = [cli.main(["sample", "m", "--first", str(first), "--num", "2", "--out", "s.npy"]) for first in numbers]
    assert last == [0, 2]
    assert capsys.readouterr().err == "vlae-fast: num: a whole number in 1..1 wanted, got 2\n"


def test_the_file_keeps_its_mode_and_stays_until_all_is_drawn(home, monkeypatch):
    (home / "s.npy").write_bytes(b"before")
    (home / "s.npy").chmod(0o600)
    cut_short(monkeypatch, "s.npy")
    assert (home / "s.npy").read_bytes() == b"before"
    assert sample("s.npy") == 0
    assert (home / "s.npy").stat().st_mode & 0o777 == 0o600


def test_a_pipe_gets_them_too(home):
    os.mkfifo("pipe.npy")
    got = []
    reader = threading.Thread(target=lambda: got.append((home / "pipe.npy").read_bytes()))
    reader.start()
    assert sample("pipe.npy") == 0
    reader.join()
    assert np.array_equal(np.load(io.BytesIO(got[0])), wanted())
    assert sorted(os.listdir()) == ["m", "pipe.npy"]


def test_memory_does_not_grow_with_their_number(home, monkeypatch):
    """200 MB of images."""
    VLAE(replace(VLAEConfig.preset("tiny"), height=100, width=100)).save_pretrained("m")
    monkeypatch.setattr(cli.draw, "AT_ONCE", 256)
    monkeypatch.setattr(VLAE, "sample", lambda self, n, **rest: torch.ones(n, 1, 100, 100))
    sample("warm.npy", 1)

    def draw(world):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert sample("s.npy", 20_000) == 0
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024

    assert forked(1, draw) == [0]
    assert os.path.getsize("s.npy") == 128 + 200_000_000


def test_a_training_of_the_preset_fits_into_the_memory_of_a_small_machine(tmp_path):
    """Beside what importing torch takes: 350 MiB measured."""
    images = (np.random.default_rng(0).random((330, 28, 28)) < 0.2).astype(np.uint8)
    data = Dataset.from_tensors(images)

    def train(world):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        native.keep_freed_memory()
        assert Trainer(VLAEConfig(), TrainConfig(), data, tmp_path / "run", quiet=True).run(epochs=0.2)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 450 * 1024

    assert forked(1, train) == [0]
