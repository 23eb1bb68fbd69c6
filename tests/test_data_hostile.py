"""Files of images that are not what they should be: a DataError of one line, and nothing else, for each."""

import gzip
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    BITS,
    GREY,
    RNG,
    amat,
    idx,
    mat_like,
    mat_matrix,
    npy,
    npz,
    packed,
    png,
    png_chunk,
    write,
    zipped,
)

from vlae_fast.data import DataError, MissingDataError, load


def npy_header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + body


def npy_like(descr: str = "'|u1'", shape: str = "(3, 2, 2)", body: bytes = bytes(12), fortran: str = "False") -> bytes:
    return npy_header(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n", body)


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def pickled() -> bytes:
    np.save(file := io.BytesIO(), np.array([{}, 1, ""], object), allow_pickle=True)
    return file.getvalue()


def png_like(width: int, height: int, body: bytes = b"", extra: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(body)) + png_chunk(b"IEND", b"")


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
    "npz: no train": npz(valid=GREY[:10], test=GREY[:10]),
    "npz: two of a name": npz(train=GREY[:10], x_train=GREY[:10]),
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
    names = (b"train_data", b"val_data", b"test_data")
    content = mat_like(*(mat_matrix(name, (1, 784), b"\2" * 784) for name in names))
    refused("caltech101", write(tmp_path, {"caltech101_silhouettes_28_split1.mat": content}))


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
