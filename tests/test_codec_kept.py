"""Lists of codes in the cache folder."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vlae_fast import VLAE, VLAEConfig, codec
from vlae_fast.checks import NonFiniteError
from vlae_fast.codec import kept
from vlae_fast.codec.exact import Exact


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VLAE(VLAEConfig.preset("tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kept, "KEPT_BITS", range(9, 10))
    return tmp_path / "vlae_fast"


def compressed(model, bits):
    images = model.sample(20, seed=1)
    return codec.compress(model, images, lossy=True, bits=bits)


def test_a_list_is_drawn_once(model, cache, monkeypatch):
    first = compressed(model, 9)
    (file,) = cache.iterdir()
    assert file.stat().st_size == 2**9 * (2 * model.config.latent_size + 4) + 4
    drawn = Exact.listed
    monkeypatch.setattr(Exact, "listed", lambda self, numbers: drawn(self, numbers) if len(numbers) <= 20 else None)
    assert compressed(model, 9) == first


def test_without_a_home(model, cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-at-all/x").expanduser())
    assert compressed(model, 9) == compressed(model, 9)


def test_short_lists_are_not_kept(model, cache):
    compressed(model, 8)
    assert not cache.exists()


def test_codes_that_are_too_far_are_not_kept(model, cache, monkeypatch):
    far = np.full((2**9, model.config.latent_size), 2000, np.float32)
    monkeypatch.setattr(Exact, "listed", lambda self, numbers: (far, far))
    compressed(model, 9)
    assert not cache.exists()


def test_lists_of_other_models_are_others(model, cache):
    compressed(model, 9)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    compressed(model, 9)
    assert len([*cache.iterdir()]) == 2


@pytest.mark.parametrize("damage", ["short", "other", "folder", "no folder"])
def test_what_cannot_be_read_is_drawn_again(model, cache, damage):
    first = compressed(model, 9)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.unlink()
    if damage == "short":
        file.write_bytes(content[:-1])
    elif damage == "other":
        file.write_bytes(bytes(len(content)))
    elif damage == "folder":
        file.mkdir()
    else:
        cache.rmdir()
        cache.write_bytes(b"")
    assert compressed(model, 9) == first
    assert damage not in ("short", "other") or file.read_bytes() == content


def test_a_list_is_that_of_the_model(model, cache):
    exact = Exact(model)
    with exact.arithmetic():
        for _ in range(2):  # drawn, then read
            z, energy = (np.concatenate(parts) for parts in zip(*kept.blocks(exact, b"x", 9), strict=True))
            right, eps = exact.listed(np.arange(2**9))
            assert (z == right).all()
            assert np.allclose(energy, (eps**2).sum(1) / 2)
    assert [file.name for file in cache.iterdir()] == ["78-9.codes"]


def test_parameters_that_are_not_finite(model):
    with torch.no_grad():
        model.pixelcnn.output_b.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="model: finite parameters wanted, pixelcnn.output_b is not"):
        codec.compress(model, torch.zeros(2, 1, model.config.height, model.config.width))


def test_images_of_any_strides(model):
    images = model.sample(3, seed=1)
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert codec.compress(model, turned) == codec.compress(model, images)
    with pytest.raises(TypeError, match="lossy: true or false wanted"):
        codec.compress(model, images, lossy="no")


def test_a_file_that_goes_to_standard_output_is_nothing_else(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    images = model.sample(3, seed=1)
    np.save(tmp_path / "x.npy", images.numpy().astype(np.uint8))
    command = [sys.executable, "-m", "vlae_fast", "compress", "x.npy", "--model", "m", "--out", "/dev/stdout"]
    with (tmp_path / "o.vlae").open("wb") as out:
        subprocess.run(command, stdout=out, check=True, cwd=tmp_path)
    assert torch.equal(codec.decompress(model, (tmp_path / "o.vlae").read_bytes()), images)
