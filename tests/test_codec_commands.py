"""`compress` and `decompress` by a newcomer's hand: nothing lost, nothing ignored, and what was wanted is said."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_codec import images_of, model_of

from vlae_fast import cli, codec
from vlae_fast.checks import NonFiniteError
from vlae_fast.codec import kept

N = 7


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder with a model, images that it takes and the file that it makes of them."""
    monkeypatch.chdir(tmp_path)
    model = model_of()
    model.save_pretrained("m")
    images = images_of(model, N)
    np.save("x.npy", images.numpy().astype(np.uint8))
    Path("x.vlae").write_bytes(codec.compress(model, images))
    return model


COMPRESS = "compress x.npy --model m --out y.vlae"
DECOMPRESS = "decompress x.vlae --model m --out"


def refused(command, capsys):
    """The one line that says why; nothing is written."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert cli.main(command.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("vlae-fast: ")
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return said


@pytest.mark.parametrize("name", ["same.vlae", "./same.vlae", "link.vlae", "folder/../same.vlae"])
def test_the_images_are_not_written_over(name, capsys):
    Path("folder").mkdir()
    Path("x.npy").rename("same.vlae")
    Path("link.vlae").symlink_to("same.vlae")
    said = refused(f"compress same.vlae --model m --out {name}", capsys)
    assert "out: another file than the one that is read wanted, got " in said


def test_the_file_is_not_written_over(capsys):
    Path("x.vlae").rename("x2.npy")
    said = refused("decompress x2.npy --model m --out x2.npy", capsys)
    assert "out: another file than the one that is read wanted, got x2.npy" in said


def prepare():
    for name in ("full", "empty", "taken.npy"):
        Path(name).mkdir()
    Path("full", "a").write_text("")
    Path("file").write_text("")
    Path("link").symlink_to("file")
    Path("nowhere").symlink_to("gone")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "out: a new folder wanted where the name has no ending, got ., a folder with something in it"),
        ("full", "got full, a folder with something in it"),
        ("file", "got file, a file"),
        ("link", "got link, a file"),
        ("nowhere", "got nowhere, a link to nothing"),
        ("pngs.out", "ends in .npy or .npz, or one without an ending for a new folder of PNGs, wanted, got 'pngs.out'"),
        ("taken.npy", "taken.npy: cannot be written (Is a directory)"),
        ("file/pngs", "file/pngs: cannot be written (File exists)"),
        ("y.npy --first 7 --num 1", "x.vlae holds 7 images, numbered from 0; got --first 7 --num 1"),
        ("y.npy --first 7", "x.vlae holds 7 images, numbered from 0; got --first 7"),
        ("y.npy --first 3 --num 5", "x.vlae holds 7 images, numbered from 0; got --first 3 --num 5"),
        ("y.npy --first -1", "first: a whole number in 0..7 wanted, got -1"),
    ],
)
def test_what_decompress_cannot_write_is_said(out, message, capsys):
    prepare()
    assert message in refused(f"{DECOMPRESS} {out}", capsys)


def test_the_folder_one_stands_in_is_not_replaced(capsys, monkeypatch):
    Path("here").mkdir()
    monkeypatch.chdir("here")
    assert cli.main(["decompress", "../x.vlae", "--model", "../m", "--out", "."]) == 2
    assert "got ., the folder that you are in" in capsys.readouterr().err
    assert os.path.samefile("../here", ".")


def test_pngs_go_into_an_empty_folder_also_behind_a_link():
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    assert cli.main(f"{DECOMPRESS} link".split()) == 0
    assert Path("link").is_symlink()
    assert sorted(os.listdir("empty")) == [f"{i}.png" for i in range(N)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--bits 12", "bits: wanted only where lossy is"),
        ("--seed 0", "seed: wanted only where lossy is"),
        ("--split test", "split: a named data set has splits, of x.npy all images are written"),
    ],
)
def test_what_would_be_ignored_is_refused(options, message, capsys):
    assert message in refused(f"{COMPRESS} {options}", capsys)


@pytest.mark.filterwarnings("always")
def test_a_data_set_goes_before_a_folder_of_its_name_in_every_command(capsys):
    """One word tells so, and what to type for the folder."""
    pytest.importorskip("sklearn")
    model_of(height=8, width=8).save_pretrained("eight")
    os.makedirs("digits")
    content = json.loads(Path("eight/config.json").read_text())
    Path("eight/config.json").write_text(json.dumps(content | {"data": "digits"}))
    for command in (
        "compress digits --model eight --out d.vlae",
        "evaluate eight --data digits --samples 1 --subset 2",
        "train --data digits --out run --preset tiny --epochs 0.1",
    ):
        assert cli.main(command.split()) == 0
        said = capsys.readouterr().err
        assert "warning: digits: the data set of this name is taken; ./digits is the file or folder\n" in said
    assert "'digits': no .png files" in refused("compress ./digits --model eight --out e.vlae", capsys)


class Told(list):
    """A report that must go up to the end."""

    def __call__(self, done, total):
        assert total == self.total
        assert not self or self[-1] <= done <= total
        self.append(done)


@pytest.mark.parametrize("lossy", [False, True])
def test_reports_come_many_times_a_group(lossy, home, monkeypatch):
    monkeypatch.setattr(kept, "_BLOCK", 8)
    images = images_of(home, 40)
    options = dict(lossy=True, bits=7) if lossy else {}
    told, again, some = Told(), Told(), Told()
    told.total = again.total = 40
    some.total = 24
    data = codec.compress(home, images, group=32, report=told, **options)
    assert len(set(told)) >= 12
    home.chunk = 8
    codec.decompress(home, data, report=again)
    part = codec.decompress(home, data, first=10, count=24, report=some)
    assert torch.equal(part, codec.decompress(home, data)[10:34])
    assert told[-1] == again[-1] == 40
    assert some[-1] == 24
    assert min(len(set(again)), len(set(some))) >= 4


def test_a_bar_shows_how_far_a_lossy_file_is(home, monkeypatch, capsys):
    monkeypatch.setattr(kept, "_BLOCK", 8)
    monkeypatch.setattr("vlae_fast.bar.LOG_SECONDS", 0)
    monkeypatch.setattr(cli.codec.Compress, "bar", lambda self, total: cli.common.progress(total=total, unit="image"))
    assert cli.main(f"{COMPRESS} --lossy --bits 6".split()) == 0
    assert len(set(re.findall(r"(\d)/7 ", capsys.readouterr().err))) > 3


def test_other_commands_do_not_write_over_what_they_read(capsys):
    images = "\n".join(",".join(map(str, row)) for row in np.load("x.npy").reshape(N, -1))
    for command, name in (("evaluate m --json", "x.json"), ("reconstruct m --out", "x.png")):
        Path(name).write_text(images)
        said = refused(f"{command} {name} --data {name}", capsys)
        assert f"another file than the one that is read wanted, got {name}" in said


def test_images_that_look_inverted_are_said_to(capsys):
    """They lose everything in a lossy file, without an error; a picture of reconstructions says it too."""
    images = np.random.default_rng(0).random((20, *np.load("x.npy").shape[1:])) < 0.9
    np.save("inverted.npy", images.astype(np.uint8))
    for command in ("compress inverted.npy --model m --out y.vlae", "reconstruct m --data inverted.npy --out y.png"):
        assert cli.main(command.split()) == 0
        assert re.match(r"WARNING: .*inverted.npy: .*% of the pixels are ink .*: inverted\?", capsys.readouterr().err)
        assert cli.main([*command.split(), "--quiet"]) == 0
        assert capsys.readouterr().err == ""
    assert cli.main(COMPRESS.split()) == 0
    assert "WARNING" not in capsys.readouterr().err


def test_what_is_larger_than_its_pixels_is_said_to_be(home, capsys):
    noise = np.random.default_rng(0).random((1000, 1, home.config.height, home.config.width)) < 0.5
    np.save("noise.npy", noise)
    raw = noise.size // 8
    assert cli.main(["compress", "noise.npy", "--model", "m", "--out", "noise.vlae"]) == 0
    assert len(Path("noise.vlae").read_bytes()) > raw
    assert f"WARNING: noise.vlae: more than the {raw:,} bytes of their pixels" in capsys.readouterr().err
    assert cli.main(["compress", "noise.npy", "--model", "m", "--out", "z.vlae", "--lossy", "--bits", "4"]) == 0
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize("factor", [30, 1e4])
def test_codes_that_nobody_could_read_are_not_written(factor):
    model = model_of()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    images = images_of(model, 9)
    for options in ({}, {"lossy": True, "bits": 6}):
        try:
            data = codec.compress(model, images, **options)
        except NonFiniteError:
            continue
        assert len(codec.decompress(model, data)) == 9


def test_what_holds_bytes_is_read():
    model = model_of()
    data = codec.compress(model, images_of(model, 3), lossy=True, bits=6)
    for held in (bytearray(data), memoryview(data), memoryview(np.frombuffer(data, np.uint8))):
        assert torch.equal(codec.decompress(model, held), codec.decompress(model, data))
        assert torch.equal(codec.codes(model, held), codec.codes(model, data))
