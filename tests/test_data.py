"""Readers of image data: exact on small files of every format, and the published files where VLAE_DATA names them."""

import gzip
import hashlib
import io
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_files import BITS, GREY, RNG, amat, idx, npy, npz, write
from PIL import Image

from vlae_fast import data
from vlae_fast.data import DataError, MissingDataError, load
from vlae_fast.data.published import PUBLISHED
from vlae_fast.noise import BINARIZATION, normals_and_uniforms

ALL = slice(None)


def mat(compress: bool = True, **matrices: np.ndarray) -> bytes:
    scipy_io = pytest.importorskip("scipy.io", reason="scipy writes the MATLAB files of these tests")
    scipy_io.savemat(file := io.BytesIO(), matrices, do_compression=compress)
    return file.getvalue()


def omniglot_mat(train: np.ndarray, test: np.ndarray, compress: bool = True) -> bytes:
    """Upright images as the file holds them: an image a column, column after column."""
    data, testdata = (x.transpose(0, 2, 1).reshape(-1, 784).T for x in (train, test))
    return mat(compress, target=np.eye(3), data=data, testdata=testdata)


def caltech_mat(*parts: np.ndarray) -> bytes:
    """Upright images, object = 1, as the file holds them: an image a row, column after column, object = 0."""
    keys = ("train_data", "val_data", "test_data")
    rows = {key: 1 - part.transpose(0, 2, 1).reshape(-1, 784) for key, part in zip(keys, parts, strict=True)}
    return mat(classnames=np.array(["a", "b"], object), **rows)


def values(split: data.Split) -> np.ndarray:
    return split.probabilities(ALL)[:, 0].numpy()


# --- small files, written here ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist/"], ids=["flat", "in-folder"])
def test_dynamic_mnist(tmp_path, folder, suffix, pack):
    """What is gzipped is told by content: the four names and contents go together in any way."""
    files = {"train-images-idx3-ubyte": idx(GREY), "t10k-images-idx3-ubyte": idx(GREY[:7])}
    found = load("dynamic-mnist", write(tmp_path, {folder + k + suffix: pack(v) for k, v in files.items()}))
    assert found.name == "dynamic-mnist (not the published files)"
    for split, images in ((found.train, GREY[:20]), (found.valid, GREY[20:]), (found.test, GREY[:7])):
        assert len(split) == len(images)
        assert (split.height, split.width, split.dynamic, split.pixels.dtype) == (3, 5, True, np.uint8)
        np.testing.assert_array_equal(values(split), images.astype(np.float32) / np.float32(255))


def test_static_mnist(tmp_path):
    parts = {"train": BITS, "valid": BITS[:4], "test": BITS[5:9]}
    files = {f"static_mnist/binarized_mnist_{k}.amat.gz": gzip.compress(amat(v)) for k, v in parts.items()}
    found = load("static-mnist", write(tmp_path, files))
    for part, images in parts.items():
        split = getattr(found, part)
        assert not split.dynamic
        assert split.pixels.shape == (len(images), 98)
        np.testing.assert_array_equal(values(split), images)
        np.testing.assert_array_equal(split.fixed()[:, 0], images)


def published_files():
    """Small files under the published names, by data set."""
    bits = dict.fromkeys(("train", "valid", "test"), BITS[:4])
    return {
        "dynamic-mnist": {"train-images-idx3-ubyte": idx(GREY), "t10k-images-idx3-ubyte": idx(GREY[:7])},
        "static-mnist": {f"binarized_mnist_{part}.amat": amat(images) for part, images in bits.items()},
        "caltech101": {"caltech101_silhouettes_28_split1.mat": caltech_mat(BITS, BITS[:2], BITS[3:7])},
        "omniglot": {"chardata.mat": omniglot_mat(np.eye(28, dtype=np.uint8)[None].repeat(1_346, 0), BITS[:1])},
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_name_is_for_the_published_contents_alone(tmp_path, monkeypatch, name, pack):
    algorithm = "md5" if name == "omniglot" else "sha256"  # the one that is known
    files = published_files()[name]
    write(tmp_path, {file: pack(content) for file, content in files.items()})
    assert load(name, tmp_path).name == f"{name} (not the published files)"
    checksums = {file: f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}" for file, content in files.items()}
    remote = [replace(f, checksum=checksums[f.name.removesuffix(".gz")]) for f in PUBLISHED[name]]
    monkeypatch.setitem(PUBLISHED, name, remote)
    assert load(name, tmp_path).name == name
    remote[-1] = replace(remote[-1], checksum=f"{algorithm}:00")  # one other file is enough
    assert load(name, tmp_path).name == f"{name} (not the published files)"


@pytest.mark.parametrize("compress", [True, False], ids=["v7", "v6"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_omniglot(tmp_path, dtype, compress):
    train = RNG.random((1_350, 28, 28)).astype(dtype)
    found = load("omniglot", write(tmp_path, {"chardata.mat": omniglot_mat(train, train[:3], compress)}))
    for split, images in ((found.train, train[:5]), (found.valid, train[5:]), (found.test, train[:3])):
        assert split.dynamic
        np.testing.assert_array_equal(values(split), images.astype(np.float32))


def test_caltech101(tmp_path):
    files = {"caltech101_silhouettes_28_split1.mat": caltech_mat(BITS, BITS[:2], BITS[3:7])}
    found = load("caltech101", write(tmp_path, files))
    for split, images in ((found.train, BITS), (found.valid, BITS[:2]), (found.test, BITS[3:7])):
        assert not split.dynamic
        np.testing.assert_array_equal(values(split), images)


USER_ARRAYS = {  # array -> (dynamic, type held, probabilities)
    "uint8": (GREY[:30], True, np.uint8, GREY[:30] / 255),
    "int64-levels": (GREY[:30].astype(np.int64), True, np.uint8, GREY[:30] / 255),
    "channel": (GREY[:30, None], True, np.uint8, GREY[:30] / 255),
    "float32-levels": ((GREY[:30] / 255).astype(np.float32), True, np.uint8, GREY[:30] / 255),
    "big-endian-float64-levels": ((GREY[:30] / 255).astype(">f8"), True, np.uint8, GREY[:30] / 255),
    "float16": (GREY[:30].astype(np.float16) / 256, True, np.float16, GREY[:30] / 256),
    "float64-thirds": (GREY[:30] / 768, True, np.float32, GREY[:30] / 768),
    "column-major": (np.asfortranarray(GREY[:30]), True, np.uint8, GREY[:30] / 255),
    "bool": (BITS == 1, False, np.uint8, BITS),
    "int32-bits": (BITS.astype(np.int32), False, np.uint8, BITS),
    "float64-bits": (BITS.astype(np.float64), False, np.uint8, BITS),
    "two-levels": (BITS * np.uint8(255), False, np.uint8, BITS),
    "26-pixels": (BITS[:, :13, :2], False, np.uint8, BITS[:, :13, :2]),
}


@pytest.mark.parametrize("case", USER_ARRAYS)
def test_user_array(tmp_path, case):
    array, dynamic, held, expected = USER_ARRAYS[case]
    write(
        tmp_path,
        {"one.dat": npy(array), "single.dat": npz(a=array), "three.dat": npz(train=array, valid=array[:2], test=array)},
    )
    for name in ("one.dat", "single.dat"):
        found = load(str(tmp_path / name), order="file")
        assert [len(split) for split in (found.train, found.valid, found.test)] == [24, 3, 3]
        np.testing.assert_allclose(
            np.concatenate([values(found.train), values(found.valid), values(found.test)]), expected, rtol=0, atol=1e-7
        )
        assert (found.train.dynamic, found.train.pixels.dtype) == (dynamic, held)
    found = load(str(tmp_path / "three.dat"))
    assert len(found.test) == 30
    np.testing.assert_allclose(values(found.valid), expected[:2], rtol=0, atol=1e-7)


def test_type_is_that_of_all_splits(tmp_path):
    """A split that happens to hold two values only is read as the others are."""
    content = npz(train=GREY[:5], valid=np.ones((2, 3, 5), np.uint8), test=np.zeros((2, 3, 5), np.uint8))
    found = load(str(write(tmp_path, {"x.npz": content}) / "x.npz"))
    assert found.valid.dynamic
    assert (values(found.valid) == np.float32(1) / 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_png_folder(tmp_path, mode):
    images = GREY[:12] if mode != "1" else GREY[:12] // 128 * 255
    for i in RNG.permutation(12):  # the order is that of the names
        image = Image.fromarray(images[i]).convert("RGB" if mode == "RGB" else "L")
        if mode == "P":
            image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
        image.convert(mode).save(tmp_path / f"{i:02}.PNG", "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    found = load(str(tmp_path), order="file")
    assert [len(split) for split in (found.train, found.valid, found.test)] == [10, 1, 1]
    assert found.train.dynamic == (mode != "1")
    np.testing.assert_allclose(values(found.train), images[:10] / 255, rtol=0, atol=1e-7)


def test_digits():
    pytest.importorskip("sklearn", reason="digits come with scikit-learn")
    found = load("digits")
    assert "stand-in" in found.name
    assert [len(split) for split in (found.train, found.valid, found.test)] == [1439, 179, 179]
    assert (found.train.pixels.dtype, found.train.height, found.train.width) == (np.float16, 8, 8)
    assert (values(found.train) * 16 % 1 == 0).all()


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install vlae_fast\[demo\]"):
        load("digits")


def test_data_dir_comes_from_the_environment(tmp_path, monkeypatch):
    files = {f"binarized_mnist_{k}.amat": amat(BITS[:2]) for k in ("train", "valid", "test")}
    monkeypatch.setenv("VLAE_DATA", str(write(tmp_path, files)))
    assert len(load("static-mnist").train) == 2
    monkeypatch.delenv("VLAE_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match="'data'"):
        load("static-mnist")


# --- drawing ----------------------------------------------------------------------------------------------------------


def grey_split(n: int = 40) -> data.Split:
    return data.Split(GREY[:n].reshape(n, -1), 3, 5, dynamic=True)


def test_fixed_draw_does_not_depend_on_batches():
    split = grey_split()
    whole = split.fixed()
    assert whole.shape == (40, 1, 3, 5)
    assert set(whole.unique().tolist()) == {0, 1}
    assert torch.equal(whole, split.fixed())
    for size in (1, 7, 40):
        parts = [split.fixed(first, min(size, 40 - first)) for first in range(0, 40, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(grey_split(20).fixed(), whole[:20])


def test_fixed_draw_is_the_stated_one():
    """Image i by item i of the noise stream BINARIZATION under FIXED_DRAW_SEED; many draws, blocks and all."""
    split = data.Split(np.full((8, 2**20), 64, np.uint8), 2**10, 2**10, dynamic=True)
    _, uniforms = normals_and_uniforms(data.FIXED_DRAW_SEED, BINARIZATION, 5, 1, 0, 2**20)
    images = split.fixed(0, 6)
    assert torch.equal(images[5].flatten(), (uniforms[0] < 64 / 255).float())
    assert abs(images.mean().item() - 64 / 255) < 1e-3


def test_binary_draws_by_the_uniforms():
    split = grey_split()
    indices = np.array([3, 1, 3])
    assert torch.equal(split.binary(indices, torch.zeros(3, 1, 3, 5)), (split.probabilities(indices) > 0).float())
    ones = data.Split(np.full((1, 15), 255, np.uint8), 3, 5, dynamic=True)
    assert ones.binary(ALL, torch.full((1, 1, 3, 5), 1 - 2.0**-24)).all()
    with pytest.raises(ValueError, match="uniforms"):
        split.binary(indices, torch.zeros(3, 3, 5))


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (0, 41), (41, None), (3, -1)])
def test_fixed_refuses_images_that_are_not_there(first, count):
    with pytest.raises(ValueError, match=r"(first|count): a whole number in 0\.\.(40|37) wanted"):
        grey_split().fixed(first, count)


def test_digest_is_of_the_images_alone(tmp_path):
    """The same for the same images in another format or type; another one for any other pixel, order, size or split."""
    parts = dict(train=GREY[:8], valid=GREY[8:10], test=GREY[10:12])
    variants = {
        "same.npz": parts,
        "scaled.npz": {k: v / 255 for k, v in parts.items()},
        "pixel.npz": parts | {"train": GREY[:8] ^ (np.arange(120) == 77).reshape(8, 3, 5)},
        "order.npz": parts | {"train": GREY[7::-1]},
        "size.npz": {k: v.reshape(-1, 5, 3) for k, v in parts.items()},
        "split.npz": parts | {"valid": GREY[10:12], "test": GREY[8:10]},
        "static.npz": {k: v // 128 for k, v in parts.items()},
    }
    write(tmp_path, {name: npz(**arrays) for name, arrays in variants.items()})
    digests = {name: load(str(tmp_path / name)).digest() for name in variants}
    assert digests.pop("scaled.npz") == digests["same.npz"]
    assert len(set(digests.values())) == len(digests)
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests.values())


# --- the published files ----------------------------------------------------------------------------------------------

STATED = {  # counts, and mean pixel values (train, valid, test)
    "static-mnist": ((50_000, 10_000, 10_000), (0.1306, 0.1311, 0.1325), 1e-4),
    "dynamic-mnist": ((50_000, 10_000, 10_000), (0.1310, 0.1292, 0.1325), 1e-4),
    "omniglot": ((23_000, 1_345, 8_070), (0.081, 0.080, 0.080), 1e-3),
    "caltech101": ((4_100, 2_264, 2_307), (0.449, 0.464, 0.461), 1e-3),
}


@pytest.fixture(scope="module")
def published():
    if "VLAE_DATA" not in os.environ:
        pytest.skip("VLAE_DATA is not set: no published files to read")
    sets = {}

    def get(name: str) -> data.Dataset:
        if name not in sets:
            try:
                sets[name] = load(name)
            except MissingDataError as error:
                pytest.skip(str(error))
        return sets[name]

    return get


@pytest.mark.parametrize("name", STATED)
def test_published_counts_and_means(published, name):
    counts, means, error = STATED[name]
    found = published(name)
    splits = (found.train, found.valid, found.test)
    assert found.name == name or name == "omniglot"  # that file is hard to get
    assert found.describe().startswith(f"{found.name}: {counts[0]} training, {counts[1]} validation and")
    assert tuple(map(len, splits)) == counts
    assert [(split.height, split.width) for split in splits] == [(28, 28)] * 3
    assert [split.dynamic for split in splits] == [name in ("dynamic-mnist", "omniglot")] * 3
    assert [float(values(split).mean()) for split in splits] == pytest.approx(means, abs=error)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_published_mnist_is_upright(published):
    """The mean images of both files agree, and only the right way up; the mean digit is taller than wide."""
    static, grey = (values(published(name).test) for name in ("static-mnist", "dynamic-mnist"))
    mean, grey_mean = static.mean(0), grey.mean(0)
    assert correlation(mean, grey_mean) > 0.99
    assert max(correlation(turned, grey_mean) for turned in (mean.T, mean[::-1], mean[:, ::-1])) < 0.97
    columns, rows = ((grey_mean.sum(axis) > 0.5).sum() for axis in (0, 1))
    assert columns < rows


def test_published_caltech_is_upright(published):
    """Objects touch the ground more than the sky, lie in the middle, and are about mirror-symmetric left to right."""
    mean = values(published("caltech101").train).mean(0)
    assert mean[10:18, 10:18].mean() > 0.8 > 0.2 > mean[0, [0, -1]].mean()
    assert correlation(mean, mean[:, ::-1]) > correlation(mean, mean[::-1])
    assert mean[21:].sum() > mean[:7].sum()


def test_published_omniglot_is_upright(published):
    """Strokes are upright more often than flat: a pixel agrees more with the one below than with the one beside it."""
    images = values(published("omniglot").train)
    below, beside = (float((np.diff(images, axis=axis) ** 2).mean()) for axis in (1, 2))
    assert below < beside
