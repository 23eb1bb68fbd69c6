"""Readers of image data: exact on small files of every format, the published files where VLAE_DATA names them, and
nothing but a DataError for what is not what it should be."""

import gzip
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlae_fast import data
from vlae_fast.data import DataError, MissingDataError, load
from vlae_fast.noise import BINARIZATION, normals_and_uniforms

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (10_020, 3, 5), np.uint8)  # not square: transposed pictures cannot pass
BITS = RNG.integers(0, 2, (30, 28, 28), np.uint8)
ALL = slice(None)


def idx(images: np.ndarray, magic: int = 2051) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def amat(images: np.ndarray) -> bytes:
    return b"".join(b" ".join(b"%d" % bit for bit in image.ravel()) + b"\n" for image in images)


def npy(array: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    np.savez_compressed(file := io.BytesIO(), **arrays)
    return file.getvalue()


def png(image: np.ndarray) -> bytes:
    Image.fromarray(image).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


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


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


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
    assert found.name == "dynamic-mnist"
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


@pytest.mark.parametrize("compress", [True, False], ids=["v7", "v6"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_omniglot(tmp_path, dtype, compress):
    train = RNG.random((1_350, 28, 28)).astype(dtype)
    found = load("omniglot", write(tmp_path, {"chardata.mat": omniglot_mat(train, train[:3], compress)}))
    assert "stand-in" in found.name
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
    "13-pixels": (BITS[:, :13, :1], False, np.uint8, BITS[:, :13, :1]),
}


@pytest.mark.parametrize("case", USER_ARRAYS)
def test_user_array(tmp_path, case):
    array, dynamic, held, expected = USER_ARRAYS[case]
    write(
        tmp_path,
        {"one.dat": npy(array), "single.dat": npz(a=array), "three.dat": npz(train=array, valid=array[:2], test=array)},
    )
    for name in ("one.dat", "single.dat"):
        found = load(str(tmp_path / name))
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
    found = load(str(tmp_path))
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
    with pytest.raises(ValueError, match="of 40"):
        grey_split().fixed(first, count)


# --- hostile files ----------------------------------------------------------------------------------------------------


def npy_header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + body


def npy_like(descr: str = "'|u1'", shape: str = "(3, 2, 2)", body: bytes = bytes(12), fortran: str = "False") -> bytes:
    return npy_header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", body)


def zipped(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name + ".npy", content)
    return file.getvalue()


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def pickled() -> bytes:
    np.save(file := io.BytesIO(), np.array([{}, 1, ""], object), allow_pickle=True)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_like(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(body)) + png_chunk(b"IEND", b"")


def mat_like(*elements: bytes, version: bytes = b"\x00\x01IM") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + version + b"".join(elements)


def mat_matrix(
    name: bytes, shape: tuple[int, ...], body: bytes, kind: int = 2, claim: int | None = None, klass: int = 9
) -> bytes:
    """One matrix element; `claim` is the number of bytes that its own tag and that of its numbers promise."""
    claim = len(body) if claim is None else claim
    head = (
        struct.pack("<IIII", 6, 8, klass, 0)
        + struct.pack("<II", 5, 4 * len(shape))
        + struct.pack(f"<{len(shape)}I", *shape)
    )
    head += bytes(-len(head) % 8) + struct.pack("<II", 1, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")
    return struct.pack("<II", 14, len(head) + 8 + claim) + head + struct.pack("<II", kind, claim) + body


def packed(element: bytes) -> bytes:
    content = zlib.compress(element)
    return struct.pack("<II", 15, len(content)) + content


def chardata(**changes) -> bytes:
    """A compressed file whose first matrix is as `changes` of mat_matrix say."""
    first = {"name": b"data", "shape": (784, 1400), "body": bytes(784 * 1400)} | changes
    return mat_like(packed(mat_matrix(**first)), packed(mat_matrix(b"testdata", (784, 1), bytes(784))))


GOOD = npy(GREY[:10])
GOOD_IDX = idx(GREY[:10])
GZIPPED_IDX = gzip.compress(GOOD_IDX)
GOOD_NPZ = npz(train=GREY[:10], valid=GREY[:10], test=GREY[:10])
USER_FILES = {
    "empty file": b"",
    "text": b"hello",
    "npy: magic only": b"\x93NUMPY",
    "npy: cut in its header": GOOD[:40],
    "npy: cut in its numbers": GOOD[:-1],
    "npy: bytes after its numbers": GOOD + b"x",
    "npy: header of 4 GiB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "npy: version 9": patched(GOOD, b"NUMPY\x01", b"NUMPY\x09"),
    "npy: 10 GB in 1 kB": npy_like(shape="(10000, 1000, 1000)", body=bytes(1000)),
    "npy: size overflows": npy_like(shape="(4294967296, 4294967296, 4)"),
    "npy: negative size": npy_like(shape="(-3, 2, 2)"),
    "npy: no dimension": npy_like(shape="()"),
    "npy: vector": npy_like(shape="(12,)"),
    "npy: pictures in 4 channels": npy_like(shape="(3, 4, 1, 1)"),
    "npy: 65 dimensions": npy_like(shape=f"({'1, ' * 64}12)"),
    "npy: no images": npy_like(shape="(0, 2, 2)", body=b""),
    "npy: no pixels": npy_like(shape="(12, 1, 0)", body=b""),
    "npy: too few images": npy_like(shape="(2, 2, 3)"),
    "npy: side of 4097": npy(np.zeros((3, 1, 4097), bool)),
    "npy: pickle": pickled(),
    "npy: object type, no pickle": npy_like("'|O'", body=bytes(96)),
    "npy: structure": npy_like("[('a', '|u1')]"),
    "npy: text": npy(np.full((3, 2, 2), "a")),
    "npy: complex": npy(np.zeros((3, 2, 2), complex)),
    "npy: dates": npy(np.zeros((3, 2, 2), "M8[s]")),
    "npy: code in its header": npy_like(shape="(__import__('os').abort(),)"),
    "npy: nested header": npy_header("(" * 5000),
    "npy: NaN": npy(np.full((3, 2, 2), np.nan)),
    "npy: infinity": npy(np.full((3, 2, 2), np.inf)),
    "npy: above 1": npy(np.full((3, 2, 2), 1.01)),
    "npy: below 0": npy(np.full((3, 2, 2), -1, np.int8)),
    "npy: above 255": npy(np.full((3, 2, 2), 256, np.uint64)),
    "npz: cut short": GOOD_NPZ[: len(GOOD_NPZ) // 2],
    "npz: damaged": patched(GOOD_NPZ, GOOD_NPZ[200:204], b"\0\0\0\0"),
    "npz: no arrays": zipped(),
    "npz: no name of ours": npz(a=GREY[:10], b=GREY[:10]),
    "npz: no valid": npz(train=GREY[:10], test=GREY[:10]),
    "npz: pickle": zipped(x=pickled()),
    "npz: no npy in it": zipped(x=b"hello"),
    "npz: empty member": zipped(x=b""),
    "npz: 512 MiB promised": patched(zipped(x=GOOD), struct.pack("<I", len(GOOD)), struct.pack("<I", 2**29)),
    "npz: array longer than its member": zipped(x=npy_like(shape="(300, 1000, 1000)")),
    "npz: array shorter than its member": zipped(x=npy_like(body=bytes(13))),
    "npz: lzma": zipped(zipfile.ZIP_LZMA, x=GOOD),
    "npz: encrypted": patched(zipped(x=GOOD), b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
    "npz: size of a member is a lie": patched(zipped(x=GOOD), struct.pack("<I", len(GOOD)), struct.pack("<I", 99)),
    "npz: sizes differ": npz(train=GREY[:10], valid=GREY[:10], test=GREY[:10, :2]),
    "npz: types differ": npz(train=GREY[:10], valid=GREY[:10], test=GREY[:10] / 255),
    "npz: an empty split": npz(train=GREY[:10], valid=GREY[:0], test=GREY[:10]),
    "npz: path outside": zipped(**{"../train": GOOD, "../test": GOOD}),
}
MNIST_FILES = {
    "idx: empty": b"",
    "idx: cut in its header": GOOD_IDX[:15],
    "idx: labels": idx(GREY[:10], magic=2049),
    "idx: little-endian": struct.pack("<I", 2051) + GOOD_IDX[4:],
    "idx: no images": idx(GREY[:0]),
    "idx: cut short": GOOD_IDX[:-1],
    "idx: bytes after": GOOD_IDX + b"x",
    "idx: 10 GB in 1 kB": struct.pack(">4I", 2051, 10_000, 1000, 1000) + bytes(1000),
    "idx: 2**96 pixels": struct.pack(">4I", 2051, *[2**32 - 1] * 3),
    "idx: no rows": struct.pack(">4I", 2051, 10, 0, 5),
    "idx: of another size": idx(GREY[:10, :2]),
    "gzip: only its magic": b"\x1f\x8b",
    "gzip: unknown method": b"\x1f\x8b\x09" + GZIPPED_IDX[3:],
    "gzip: cut short": GZIPPED_IDX[:-9],
    "gzip: no checksum": GZIPPED_IDX[:-8],
    "gzip: wrong checksum": GZIPPED_IDX[:-8] + bytes(8),
    "gzip: damaged": GZIPPED_IDX[:30] + b"\xff" * 20 + GZIPPED_IDX[50:],
    "gzip: dust behind": GZIPPED_IDX + b"dust",
    "gzip: gzip in it": gzip.compress(GZIPPED_IDX),
    "gzip: 1 GB promised": gzip.compress(struct.pack(">4I", 2051, 1000, 1000, 1000) + bytes(1000)),
    "gzip: bomb of zeros": gzip.compress(struct.pack(">4I", 2051, 10, 3, 5) + bytes(2**24)),
}
AMAT_FILES = {
    "amat: empty": b"",
    "amat: wrong digit": patched(amat(BITS[:1]), b"1", b"2"),
    "amat: short line": amat(BITS[:1])[2:],
    "amat: no end of line": amat(BITS[:1])[:-1],
    "amat: commas": amat(BITS[:1]).replace(b" ", b","),
    "amat: line breaks all over": amat(BITS[:1]).replace(b" ", b"\n"),
    "amat: gzip cut short": gzip.compress(amat(BITS[:1]))[:-9],
}
MAT_FILES = {
    "mat: empty": b"",
    "mat: HDF5": b"\x89HDF\r\n\x1a\n" + bytes(200),
    "mat: big-endian": mat_like(version=b"\x01\x00MI"),
    "mat: nothing in it": mat_like(),
    "mat: only testdata": mat_like(packed(mat_matrix(b"testdata", (784, 1), bytes(784)))),
    "mat: cut short": chardata()[:-1],
    "mat: damaged": chardata()[:150] + b"\xff" * 30 + chardata()[180:],
    "mat: twice the same": mat_like(*[packed(mat_matrix(b"data", (784, 1), bytes(784)))] * 2),
    "mat: text": chardata(klass=4),
    "mat: structure": chardata(klass=2),
    "mat: complex": chardata(klass=0x0800 | 6),
    "mat: type unknown": chardata(kind=77),
    "mat: numbers of type matrix": chardata(kind=14),
    "mat: three dimensions": chardata(shape=(784, 700, 2)),
    "mat: no dimensions": chardata(shape=()),
    "mat: 20 dimensions": chardata(shape=(1,) * 20),
    "mat: not 784 rows": chardata(shape=(392, 2800)),
    "mat: no columns": chardata(shape=(784, 0), body=b""),
    "mat: too few images": chardata(shape=(784, 1345), body=bytes(784 * 1345)),
    "mat: other shape than numbers": chardata(shape=(784, 1401)),
    "mat: size overflows": chardata(shape=(2**31, 2**31)),
    "mat: 4 GB promised": chardata(claim=2**32 - 200),
    "mat: 256 MiB promised": chardata(claim=2**28, body=RNG.bytes(2**19)),
    "mat: more than promised": chardata(claim=100),
    "mat: values of 2": chardata(body=b"\2" * (784 * 1400)),
    "mat: NaN": chardata(kind=9, klass=6, body=struct.pack("<d", float("nan")) * (784 * 1400)),
    "mat: packed in itself": mat_like(packed(packed(mat_matrix(b"data", (784, 1), bytes(784))))),
    "mat: element of no kind": mat_like(struct.pack("<II", 99, 8) + bytes(8)),
    "mat: element of 4 GB": mat_like(struct.pack("<II", 14, 2**32 - 1)),
}
PNG_FILES = {
    "png: empty": b"",
    "png: text": b"hello",
    "png: signature only": png(GREY[0])[:8],
    "png: header only": png(GREY[0])[:33],
    "png: cut short": png(GREY[0])[:50],
    "png: wrong checksum": patched(png(GREY[0]), b"IDAT", b"IDAU"),
    "png: sides of 2**31": png_like(2**31 - 1, 2**31 - 1),
    "png: side of 4097": png_like(4097, 1, bytes(4098)),
    "png: side of 0": png_like(0, 3),
    "png: other size": png(GREY[0, :2]),
    "png: second header": png_like(
        5, 3, bytes(18), png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    ),
    "png: bomb in a comment": png_like(5, 3, bytes(18), png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**24)))),
    "png: 16 bits": png(GREY[0].astype(np.uint16) * 256),
    "png: alpha": png(np.zeros((3, 5, 4), np.uint8)),
    "png: a JPEG": b"\xff\xd8\xff\xe0" + bytes(100),
}


def refused(name: str, data_dir: Path | None = None) -> None:
    with pytest.raises(DataError) as caught:
        load(name, data_dir)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("case", USER_FILES)
def test_hostile_user_file(tmp_path, case):
    refused(str(write(tmp_path, {"x": USER_FILES[case]}) / "x"))


@pytest.mark.parametrize("case", MNIST_FILES)
def test_hostile_mnist(tmp_path, case):
    files = {"train-images-idx3-ubyte": idx(GREY), "t10k-images-idx3-ubyte.gz": MNIST_FILES[case]}
    refused("dynamic-mnist", write(tmp_path, files))


@pytest.mark.parametrize("case", AMAT_FILES)
def test_hostile_static_mnist(tmp_path, case):
    files = {f"binarized_mnist_{k}.amat": amat(BITS[:1]) for k in ("train", "test")}
    refused("static-mnist", write(tmp_path, files | {"binarized_mnist_valid.amat": AMAT_FILES[case]}))


@pytest.mark.parametrize("case", MAT_FILES)
def test_hostile_mat(tmp_path, case):
    refused("omniglot", write(tmp_path, {"chardata.mat": MAT_FILES[case]}))


@pytest.mark.parametrize("case", PNG_FILES)
def test_hostile_png(tmp_path, case):
    images = {f"{i}.png": png(GREY[i]) for i in range(4)}
    refused(str(write(tmp_path, images | {"5.png": PNG_FILES[case]})))


def test_the_hostile_helpers_make_good_files(tmp_path):
    """What the tables above break is readable when it is not broken."""
    write(tmp_path, {"x.npy": npy_like(), "chardata.mat": chardata(), "pngs/0.png": png_like(5, 3, bytes(18))})
    write(tmp_path, {f"pngs/{i}.png": png(GREY[i]) for i in range(1, 4)})
    assert len(load(str(tmp_path / "x.npy")).train) == 1
    assert len(load("omniglot", tmp_path).valid) == 1345
    assert len(load(str(tmp_path / "pngs")).train) == 2


def test_caltech_refuses_other_values(tmp_path):
    files = {"caltech101_silhouettes_28_split1.mat": caltech_mat(BITS, BITS, BITS + np.uint8(2))}
    refused("caltech101", write(tmp_path, files))


def test_zip_bomb_in_text_stays_small(tmp_path):
    """300 MB of good lines in 0.4 MB: refused once the bound is passed."""
    line = amat(np.zeros((1, 28, 28), np.uint8))
    bomb = gzip.compress(line * 8192, 1) * 25
    refused("static-mnist", write(tmp_path, {f"binarized_mnist_{k}.amat": bomb for k in ("train", "valid", "test")}))


@pytest.mark.parametrize("name", ["static-mnist", "dynamic-mnist", "omniglot", "caltech101"])
def test_hostile_places(tmp_path, name):
    """Folders, loops, pipes and nothing at all where files are wanted; the error says what is wanted, and where."""
    with pytest.raises(MissingDataError, match="there or in its folders mnist, static_mnist") as caught:
        load(name, tmp_path)
    wanted = [
        word.strip(",") for word in str(caught.value).split() if "idx3" in word or ".amat" in word or ".mat" in word
    ]
    for make in (Path.mkdir, lambda path: path.symlink_to(path.name), os.mkfifo):
        (tmp_path / make.__name__).mkdir()
        for file in wanted:
            make(tmp_path / make.__name__ / file)
        refused(name, tmp_path / make.__name__)
    refused(name, tmp_path / "line\nbreak")
    refused(name, Path("/dev/null"))


@pytest.mark.parametrize(
    "name",
    ["", "mnist", "no/such/file", "../..//nothing", "nul\0byte", "x" * 300, "/dev/null", "/dev/zero", "\udcff"],
    ids=ascii,
)
def test_hostile_names(name):
    refused(name)


def test_hostile_folders(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    refused(str(tmp_path / "loop"))
    refused(str(tmp_path))
    (tmp_path / "folder.png").mkdir()
    refused(str(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    write(tmp_path, {"x.npy": GOOD})
    (tmp_path / "x.npy").chmod(0)
    refused(str(tmp_path / "x.npy"))


# --- the published files ----------------------------------------------------------------------------------------------

PUBLISHED = {  # counts, and mean pixel values (train, valid, test)
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts_and_means(published, name):
    counts, means, error = PUBLISHED[name]
    found = published(name)
    splits = (found.train, found.valid, found.test)
    assert found.name.startswith(name)
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
