"""What is said and shown of the data that a model sees: one line, warnings, data.png; and data from memory."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vlae_fast import TrainConfig, VLAEConfig, cli, plots
from vlae_fast.data import DataError, Dataset, Split, load
from vlae_fast.train import Trainer

RNG = np.random.default_rng(0)
STROKES = (RNG.random((40, 6, 7)) < 0.2).astype(np.uint8)
GREYS = RNG.integers(0, 256, (40, 6, 7), np.uint8) * STROKES
TINY = replace(VLAEConfig.preset("tiny"), height=6, width=7)


def test_described_in_one_line():
    found = Dataset.from_tensors(STROKES, name="mine")
    assert found.describe() == (
        "mine: 32 training, 4 validation and 4 test images of 6x7 pixels, static (values 0 and 1), "
        f"ink {found.train.fixed().mean():.1%}, valid and test held out at random with seed 2016"
    )


@pytest.mark.parametrize(
    "images", [STROKES, GREYS, GREYS / 255, GREYS / 768], ids=["bits", "bytes", "levels", "floats"]
)
def test_share_of_ink(images):
    split = Dataset.from_tensors(images).train
    assert split.ink() == pytest.approx(split.probabilities(slice(None)).mean().item(), rel=1e-6)


def blank(share: float) -> np.ndarray:
    """Images that differ, all with this share of ink."""
    row = np.arange(1000) < round(1000 * share)
    return np.stack([RNG.permutation(row) for _ in range(9)]).reshape(9, 10, 100).astype(np.uint8)


WARNED = {
    "inverted": (1 - STROKES, "of the pixels are ink .* more than 60%: inverted. If the paper is bright, save 255 - x"),
    "inverted grey": (255 - GREYS, "more than 60%: inverted"),
    "61%": (blank(0.61), "more than 60%"),
    "1.9%": (blank(0.019), r"1.90% of the pixels are ink .* less than 2%"),
    "blank": (np.zeros((9, 4, 4), np.uint8), "less than 2%"),
    "all ink": (np.full((9, 4, 4), 255, np.uint8), "more than 60%"),
    "faint": (GREYS / 255 / 40, "less than 2%"),
    "equal": (np.repeat(STROKES[:1], 9, 0), "all images are equal"),
    "equal greys": (np.repeat(GREYS[:1], 9, 0), "all images are equal"),
    "equal floats": (np.repeat(GREYS[:1], 9, 0) / 768, "all images are equal"),
}


@pytest.mark.parametrize("case", WARNED)
def test_warned(case):
    images, warning = WARNED[case]
    lines = Dataset.from_tensors(images).describe().splitlines()
    assert len(lines) > 1
    assert any(re.search(f"^WARNING: .*{warning}", line) for line in lines[1:]), lines


@pytest.mark.parametrize("images", [STROKES, GREYS, blank(0.59), blank(0.03)], ids=["bits", "bytes", "59%", "3%"])
def test_not_warned(images):
    assert "WARNING" not in Dataset.from_tensors(images).describe()


# --- in memory --------------------------------------------------------------------------------------------------------

SAME = {
    "tensor": torch.from_numpy(GREYS),
    "tensor [n, 1, H, W]": torch.from_numpy(GREYS)[:, None],
    "tensor [n, H, W, 1]": torch.from_numpy(GREYS)[..., None],
    "floats": torch.from_numpy(GREYS).float() / 255,
    "doubles that want a gradient": (torch.from_numpy(GREYS).double() / 255).requires_grad_(),
    "not contiguous": torch.from_numpy(GREYS.transpose(2, 1, 0).copy()).permute(2, 1, 0),
    "whole floats": torch.from_numpy(GREYS).half(),
    "array": GREYS,
}


@pytest.mark.parametrize("case", SAME)
def test_from_tensors(case):
    found = Dataset.from_tensors(SAME[case])
    assert found.digest() == Dataset.from_tensors(GREYS).digest()
    assert found.name == "tensors in memory"


def test_from_tensors_numpy_has_no_word_for():
    bits = torch.from_numpy(STROKES)
    assert Dataset.from_tensors(bits.bfloat16()).digest() == Dataset.from_tensors(bits).digest()


def test_from_tensors_with_their_parts():
    found = Dataset.from_tensors(torch.from_numpy(STROKES[:20]), test=STROKES[20:], order="file")
    assert [len(s) for s in (found.train, found.valid, found.test)] == [18, 2, 20]
    assert torch.equal(found.valid.fixed()[:, 0], torch.from_numpy(STROKES[18:20]).float())
    assert torch.equal(found.test.fixed()[:, 0], torch.from_numpy(STROKES[20:]).float())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1]],), TypeError, "train: a tensor or array wanted, got list"),
        ((np.ma.masked_array(STROKES, mask=STROKES),), TypeError, "train: a tensor or array wanted, got MaskedArray"),
        ((STROKES, STROKES > 0), DataError, "one type and image size wanted"),
        ((STROKES, "x"), TypeError, "valid: a tensor or array wanted, got str"),
        ((torch.zeros(9, 784, 1),), DataError, r"reshape them to \[n, 28, 28\]"),
        ((torch.full((9, 2, 2), float("nan")),), DataError, "'tensors in memory': NaN or infinity"),
        ((STROKES, STROKES[:, :3]), DataError, "one type and image size wanted"),
        ((STROKES, STROKES[:0]), DataError, "at least one image, wanted"),
        ((torch.zeros(9, 2, 2, dtype=torch.complex64),), DataError, "numbers .* wanted"),
    ],
    ids=["list", "masked", "types", "text", "rows", "NaN", "sizes", "empty", "complex"],
)
def test_from_tensors_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Dataset.from_tensors(*arguments)


def test_from_tensors_refuses_another_order():
    with pytest.raises(ValueError, match="order: one of shuffled, file wanted, got None"):
        Dataset.from_tensors(STROKES, order=None)


def test_widths_of_a_type_may_differ():
    found = Dataset.from_tensors(GREYS[:20] / 255, torch.from_numpy(GREYS[20:30]).float() / 255, GREYS[30:] / 255)
    assert found.digest() == Dataset.from_tensors(GREYS[:20], GREYS[20:30].astype(np.int64), GREYS[30:]).digest()


def test_a_split_is_a_torch_dataset():
    split = Dataset.from_tensors(STROKES).train
    assert isinstance(split, torch.utils.data.Dataset)
    image = split[3]
    assert (image.shape, image.dtype) == ((1, 6, 7), torch.float32)
    assert torch.equal(split[np.int64(-1)], split[len(split) - 1])
    assert torch.equal(torch.stack(list(split)), split.probabilities(slice(None)))
    (batch,) = DataLoader(split, batch_size=len(split))
    assert torch.equal(batch, split.probabilities(slice(None)))
    grey = Split(GREYS.reshape(40, -1), 6, 7, dynamic=True)
    assert torch.equal(grey[5] * 255, torch.from_numpy(GREYS[5:6]).float())
    for index in (32, -33):
        with pytest.raises(IndexError, match=f"image {index} wanted of 32"):
            split[index]


def test_training_from_memory_and_no_claim_of_another_data_set(tmp_path, capsys):
    dataset = Dataset.from_tensors(torch.from_numpy(STROKES))
    assert Trainer(TINY, TrainConfig(batch_size=8), dataset, tmp_path / "run").run(epochs=1)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--samples", "2"]) == 2
    assert "the model learned from tensors in memory; say --data" in capsys.readouterr().err


# --- data.png, and the commands ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [STROKES, GREYS], ids=["static", "dynamic"])
def test_data_png_shows_what_the_model_sees(tmp_path, images):
    dataset = Dataset.from_tensors(images)
    Trainer(TINY, TrainConfig(batch_size=8), dataset, tmp_path)
    with Image.open(tmp_path / "data.png") as picture:
        pixels = np.asarray(picture)[::3, ::3]
    assert pixels.shape == (4 * 7 + 1, 10 * 8 + 1)
    shown = pixels[1:29, 1:81].reshape(4, 7, 10, 8)[:, :6, :, :7].transpose(0, 2, 1, 3).reshape(40, 6, 7)[:32]
    assert set(np.unique(shown)) == {0, 255}, "binary, ink dark"
    chance = dataset.train.probabilities(slice(None))[:, 0].numpy()
    assert len({tuple(image.ravel()) for image in shown}) == 32
    for image in shown == 0:
        assert (chance[:, image].min(1) > 0).any(), "ink where one of the images may have it"


@pytest.mark.parametrize(("side", "zoom"), [(1, 3), (28, 3), (29, 2), (43, 1), (500, 1)])
def test_pictures_of_large_images_stay_small(tmp_path, side, zoom):
    plots.image_grid(torch.zeros(3, 1, side, 1), 2, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (5 * zoom, (2 * side + 3) * zoom)


def test_the_commands_say_what_they_read(tmp_path, capsys):
    np.save(tmp_path / "x.npy", STROKES.reshape(40, 42) * 7)
    run, data = str(tmp_path / "run"), str(tmp_path / "x.npy")
    flags = ["--data", data, "--out", run, "--preset", "tiny", "--batch-size", "8", "--epochs", "1"]
    assert cli.main(["train", *flags]) == 2
    assert "reshape them to [n, H, W], or say image_size, HxW" in capsys.readouterr().err
    assert cli.main(["train", *flags, "--image-size", "6x7", "--data-order", "file"]) == 0
    said = "32 training, 4 validation and 4 test images of 6x7 pixels, static (values 0 and 7), ink"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{data}: {said}")
    assert "held out from the end" in printed
    assert (tmp_path / "run" / "data.png").exists()
    assert cli.main(["evaluate", run, "--samples", "2"]) == 0  # of the size and the order of the run
    printed = capsys.readouterr().out
    assert printed.startswith(f"{data}: {said}")
    assert "held out from the end" in printed
    assert cli.main(["reconstruct", run, "--num", "2", "--out", str(tmp_path / "r.png")]) == 0
    np.save(tmp_path / "other.npy", 1 - STROKES)
    assert cli.main(["evaluate", run, "--samples", "2", "--data", str(tmp_path / "other.npy")]) == 0
    assert "\nWARNING: " in capsys.readouterr().out


def test_load_and_from_tensors_agree(tmp_path):
    np.save(tmp_path / "x.npy", GREYS)
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        found = load(path)
        assert found.digest() == Dataset.from_tensors(GREYS).digest()
        assert found.name == str(path)


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_images_in_memory_are_copied(kind):
    """What a user does to them afterwards changes neither the data set nor its digest."""
    images = (torch.rand(12, 5, 7) * (255 if kind == torch.uint8 else 1)).to(kind)
    found = Dataset.from_tensors(images, images, images)
    before, digest = found.train.probabilities(slice(None)).clone(), found.digest()
    images.zero_()
    assert torch.equal(found.train.probabilities(slice(None)), before)
    assert found.digest() == digest
