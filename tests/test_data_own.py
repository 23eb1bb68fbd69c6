"""What people bring: each kind of file is read as what it is, or refused with a line that names the way out."""

import gzip
import io
import struct
import zipfile

import numpy as np
import pytest
from data_files import BITS, GREY, amat, idx, npy, npz, png, write
from PIL import Image

from vlae_fast.data import DataError, Dataset, load, parse_size

A, B = GREY[:12], GREY[12:20]  # 3x5 pixels
LABELS = np.arange(12) % 4
NAMES = [f"pixel{i}" for i in range(15)]


def csv(images: np.ndarray, header: list[str] | None = None, sep: str = ",", before=None, after=None) -> bytes:
    rows = [[str(value) for value in image.ravel()] for image in images]
    for i, row in enumerate(rows):
        rows[i] = [*([str(before[i])] if before is not None else []), *row]
        rows[i] += [str(after[i])] if after is not None else []
    return "\n".join(sep.join(row) for row in ([header] if header else []) + rows).encode()


def pngs(images: np.ndarray, folder: str = "f/", **options) -> dict[str, bytes]:
    return {f"{folder}{i:02}.png": png(image, **options) for i, image in enumerate(images)}


def old_npy(text: str, version: bytes = b"\x01\x00", pad: int = 16) -> bytes:
    """An .npy file of A whose header is this text, as older versions of numpy wrote it."""
    form = "<H" if version == b"\x01\x00" else "<I"
    text = text.ljust(-(-(len(text) + 11) // pad) * pad - 11) + "\n"
    return b"\x93NUMPY" + version + struct.pack(form, len(text)) + text.encode() + A.tobytes()


PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (12, 3, 5), }"
FLAT = A.reshape(12, 15)
CORNER = A * (np.arange(15).reshape(3, 5) > 0)  # a first pixel that is always paper, as digits have it
TURNED = CORNER[:, ::-1, ::-1]  # and a last one
MAC = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)
WHOLE = {"train": A}
TWO = {"train": A, "test": B}
SIZE = {"image_size": (3, 5)}

# files, options, images by part
READ = {
    "npy": ({"f": npy(A)}, {}, WHOLE),
    "npy, packed": ({"f": gzip.compress(npy(A))}, {}, WHOLE),
    "npy, packed column-major": ({"f": gzip.compress(npy(np.asfortranarray(A)))}, {}, WHOLE),
    "npy, [n, 1, H, W]": ({"f": npy(A[:, None])}, {}, WHOLE),
    "npy, [n, H, W, 1]": ({"f": npy(A[..., None])}, {}, WHOLE),
    "npy, rows": ({"f": npy(FLAT)}, SIZE, WHOLE),
    "npy, rows [n, P, 1]": ({"f": npy(FLAT[..., None])}, SIZE, WHOLE),
    "npy, rows [n, 1, P]": ({"f": npy(FLAT[:, None])}, SIZE, WHOLE),
    "npy, images and their size": ({"f": npy(A)}, SIZE, WHOLE),
    "npy, images of one column": ({"f": npy(FLAT[..., None])}, {"image_size": (15, 1)}, {"train": FLAT[..., None]}),
    "npy, images of one pixel": ({"f": npy(A[:, :1, :1])}, {}, {"train": A[:, :1, :1]}),
    "npy of numpy 1.0": ({"f": old_npy(PLAIN)}, {}, WHOLE),
    "npy of Python 2": ({"f": old_npy(PLAIN.replace("12, 3, 5", "12L, 3L, 5L"))}, {}, WHOLE),
    "npy of other order": ({"f": old_npy("{'shape': (12, 3, 5), 'fortran_order': False, 'descr': '|u1'}")}, {}, WHOLE),
    "npy with room to grow": ({"f": old_npy(PLAIN + " " * 21, pad=64)}, {}, WHOLE),
    "npy, version 2": ({"f": old_npy(PLAIN, b"\x02\x00")}, {}, WHOLE),
    "npy, version 3": ({"f": old_npy(PLAIN, b"\x03\x00")}, {}, WHOLE),
    "npz, one array": ({"f": npz(a=A)}, {}, WHOLE),
    "npz, three parts": ({"f": npz(train=A, valid=A[:2], test=B)}, {}, {"train": A, "valid": A[:2], "test": B}),
    "npz, train and test": ({"f": npz(train=A, test=B)}, {}, TWO),
    "npz, x_train": ({"f": npz(x_train=A, x_test=B, y_train=LABELS, y_test=LABELS[:8])}, {}, TWO),
    "npz, X_train": ({"f": npz(X_train=A, X_test=B, Y_train=LABELS)}, {}, TWO),
    "npz, train_images": (
        {"f": npz(train_images=A, val_images=A[:3], test_images=B, train_labels=LABELS)},
        {},
        {"train": A, "valid": A[:3], "test": B},
    ),
    "npz, training and validation": ({"f": npz(training=A, validation=B)}, {}, {"train": A, "valid": B}),
    "npz, images and labels": ({"f": npz(images=A, labels=LABELS)}, {}, WHOLE),
    "npz, imgs and a table": ({"f": npz(imgs=A, latents=np.zeros((12, 6)), names=np.array(["a"] * 12))}, {}, WHOLE),
    "npz, told by shape": ({"f": npz(q=A, y=LABELS)}, {}, WHOLE),
    "npz, rows": ({"f": npz(x_train=FLAT, x_test=B.reshape(8, 15))}, SIZE, TWO),
    "npz, rows and labels": ({"f": npz(x=FLAT, y=LABELS)}, SIZE, WHOLE),
    "npz, [n, H, W, 1]": ({"f": npz(x_train=A[..., None], x_test=B[..., None])}, {}, TWO),
    "idx": ({"train-images-idx3-ubyte": idx(A)}, {}, WHOLE),
    "idx, packed": ({"f.gz": gzip.compress(idx(A))}, {}, WHOLE),
    "csv, label and pixels named": ({"f.csv": csv(A, ["label", *NAMES], before=LABELS)}, SIZE, WHOLE),
    "csv, class at the end": ({"f.csv": csv(A, [*NAMES, "class"], after=LABELS)}, SIZE, WHOLE),
    "csv, label in words": ({"f.csv": csv(A, ["Label", *NAMES], before=["cat"] * 12)}, SIZE, WHOLE),
    "csv, index of pandas": ({"f.csv": csv(A, ["", *NAMES], before=range(12))}, SIZE, WHOLE),
    "csv, letter and 1x1": (
        {"f.csv": csv(A, ["letter", *(f"{i}x{j}" for i in range(3) for j in range(5))], before="abcdefghijkl")},
        SIZE,
        WHOLE,
    ),
    "csv, label and numbered columns": (
        {"f.csv": csv(A, ["label", *map(str, range(1, 16))], before=LABELS)},
        SIZE,
        WHOLE,
    ),
    "csv, unnamed index": ({"f.csv": csv(A, ["Unnamed: 0", *NAMES], before=range(12))}, SIZE, WHOLE),
    "csv, numbered columns": ({"f.csv": csv(A, [str(i) for i in range(15)])}, SIZE, WHOLE),
    "csv, quoted": ({"f.csv": csv(A, [f'"{n}"' for n in ["label", *NAMES]], before=LABELS)}, SIZE, WHOLE),
    "csv, no names": ({"f.csv": csv(A)}, SIZE, WHOLE),
    "csv, no names, label first": ({"f.csv": csv(TURNED, before=LABELS)}, SIZE, {"train": TURNED}),
    "csv, no names, label last": ({"f.csv": csv(CORNER, after=LABELS)}, SIZE, {"train": CORNER}),
    "csv, semicolons": ({"f.csv": csv(A, ["label", *NAMES], ";", before=LABELS)}, SIZE, WHOLE),
    "csv, tabs": ({"f.tsv": csv(A, sep="\t")}, SIZE, WHOLE),
    "csv, lines of Windows": ({"f.csv": csv(A).replace(b"\n", b"\r\n") + b"\r\n\r\n"}, SIZE, WHOLE),
    "csv, of Excel": ({"f.csv": b"\xef\xbb\xbf" + csv(A, NAMES)}, SIZE, WHOLE),
    "csv, packed": ({"f.csv.gz": gzip.compress(csv(A))}, SIZE, WHOLE),
    "text, spaces": ({"f.txt": csv(A, sep="  ")}, SIZE, WHOLE),
    "text, savetxt": ({"f.txt": csv(A.astype(float), sep=" ")}, SIZE, WHOLE),
    "text, amat": ({"f.amat": amat(BITS)}, {"image_size": (28, 28)}, {"train": BITS * 255}),
    "csv, floats": ({"f.csv": csv(A / 255)}, SIZE, WHOLE),
    "idx of one column": ({"f": idx(A[:, :, :1])}, {}, {"train": A[:, :, :1]}),
    "pngs": (pngs(A), {}, WHOLE),
    "pngs and their size": (pngs(A), SIZE, WHOLE),
    "pngs of one row": (pngs(A[:, :1]), {}, {"train": A[:, :1]}),
    "pngs, one folder a class": (pngs(A[:5], "f/a/") | pngs(A[5:], "f/b/"), {}, WHOLE),
    "pngs, folders in folders": (pngs(A[:5], "f/a/x/") | pngs(A[5:], "f/a/y/z/"), {}, WHOLE),
    "pngs, class folders and loose ones": (pngs(A[:5], "f/") | pngs(A[5:], "f/b/"), {}, WHOLE),
    "pngs, train and test": (pngs(A, "f/train/") | pngs(B, "f/test/"), {}, TWO),
    "pngs, all three, of classes": (
        pngs(A[:5], "f/train/a/") | pngs(A[5:], "f/train/b/") | pngs(B, "f/val/a/") | pngs(B, "f/test/a/"),
        {},
        {"train": A, "valid": B, "test": B},
    ),
    "pngs, resource forks": (pngs(A) | {"f/._00.png": MAC, "f/.DS_Store": MAC, "f/._.png": MAC}, {}, WHOLE),
    "pngs, __MACOSX": (pngs(A, "f/x/") | {"f/__MACOSX/x/._00.png": MAC, "f/__MACOSX/0.png": MAC}, {}, WHOLE),
    "pngs, resource forks in class folders": (
        pngs(A[:5], "f/a/") | pngs(A[5:], "f/b/") | {"f/a/._00.png": MAC, "f/b/.DS_Store": MAC, "f/._a": MAC},
        {},
        WHOLE,
    ),
    "pngs, forks beside train and test": (
        pngs(A, "f/train/") | pngs(B, "f/test/") | {"f/.DS_Store": MAC, "f/._train": MAC, "f/test/._00.png": MAC},
        {},
        TWO,
    ),
    "pngs, AppleDouble": (pngs(A) | {"f/.AppleDouble/00.png": MAC, "f/.Trashes/a/00.png": png(B[0])}, {}, WHOLE),
    "pngs, an icon": (pngs(A) | {"f/Icon\r": MAC, "f/.localized": b"", "f/.apdisk": b""}, {}, WHOLE),
    "pngs, hidden folders": (pngs(A) | pngs(B, "f/.ipynb_checkpoints/") | pngs(B, "f/.git/x/"), {}, WHOLE),
    "pngs, hidden pictures": (pngs(A) | {"f/.x.jpg": MAC, "f/.y.PNG": png(B[0]), "f/Thumbs.db": MAC}, {}, WHOLE),
    "pngs, notes beside": (pngs(A) | {"f/labels.csv": b"a,b", "f/README.md": b"hello"}, {}, WHOLE),
}
with zipfile.ZipFile(ZIP_OF_PNGS := io.BytesIO(), "w") as archive:
    archive.writestr("0.png", png(A[0]))
    archive.writestr("1.png", png(A[1]))


def given(tmp_path, files):
    """Where the one file, or the folder, lies that `load` is to read."""
    write(tmp_path, files)
    first = next(iter(files))
    return str(tmp_path / first.split("/")[0])


def images(split):
    return split.probabilities(slice(None))[:, 0].numpy()


@pytest.mark.parametrize("case", READ)
def test_read(tmp_path, case):
    files, options, parts = READ[case]
    found = load(given(tmp_path, files), **options, order="file")
    expected, rest = dict(parts), parts["train"]
    for part in ("test", "valid"):
        if part not in parts:  # held out from the end
            tenth = len(parts["train"]) // 10
            rest, expected[part] = rest[:-tenth], rest[-tenth:]
    expected["train"] = rest
    for part, content in expected.items():
        np.testing.assert_allclose(images(getattr(found, part)), content / 255, rtol=0, atol=1e-6, err_msg=part)


REFUSED = {
    "npy, rows": ({"f": npy(FLAT)}, {}, r"rows of numbers: reshape them to \[n, H, W\], or say image_size, HxW"),
    "npy, rows of a square": (
        {"f": npy(np.repeat(A, 2, 0).reshape(10, 36))},
        {},
        r"reshape them to \[n, 6, 6\], or say image_size, 6x6",
    ),
    "npy, [n, 784, 1]": (
        {"f": npy(BITS.reshape(30, 784, 1))},
        {},
        r"reshape them to \[n, 28, 28\], or say image_size, 28x28",
    ),
    "npy, [n, 1, 784]": (
        {"f": npy(BITS.reshape(30, 1, 784))},
        {},
        r"reshape them to \[n, 28, 28\], or say image_size, 28x28",
    ),
    "npy, [n, 784, 1, 1]": (
        {"f": npy(BITS.reshape(30, 784, 1, 1))},
        {},
        r"reshape them to \[n, 28, 28\], or say image_size, 28x28",
    ),
    "npy, another size": ({"f": npy(A)}, {"image_size": (5, 3)}, "images of 5x3 pixels wanted"),
    "npy, rows of another size": ({"f": npy(FLAT)}, {"image_size": (4, 4)}, "images of 4x4 pixels wanted"),
    "npy, colours": ({"f": npy(np.repeat(A[..., None], 3, 3))}, {}, "of colours, save the grey value"),
    "npy, one image": ({"f": npy(A[0])}, {}, "rows of numbers"),
    "npy, two images": ({"f": npy(A[:2])}, {}, "2 images to learn from, at least 3 wanted"),
    "npz, two arrays of images": ({"f": npz(a=A, b=B)}, {}, r"arrays a \(12, 3, 5\), b \(8, 3, 5\): the images' names"),
    "npz, only labels": ({"f": npz(y_train=LABELS, y_test=LABELS)}, {}, "names train, valid, test"),
    "npz, two names of a part": ({"f": npz(train=A, x_train=A)}, {}, "both train and x_train in it"),
    "npz, torch's": ({"f.pt": npz(**{"archive/data": A, "b": A})}, {}, "names train, valid, test"),
    "zip of pngs": ({"f.zip": ZIP_OF_PNGS.getvalue()}, {}, "unpack it and name the folder"),
    "idx of labels": (
        {"f": struct.pack(">2I", 2049, 12) + bytes(12)},
        {},
        "idx file of labels: name the file of images",
    ),
    "idx of labels, packed": ({"f": gzip.compress(struct.pack(">2I", 2049, 12) + bytes(12))}, {}, "file of labels"),
    "csv, no size": ({"f.csv": csv(A, ["label", *NAMES], before=LABELS)}, {}, "reshape them to .*, or say image_size"),
    "csv, digits without a size": (
        {"f.csv": csv(BITS, before=range(30))},
        {},
        r"reshape them to \[n, 28, 28\], or say image_size, 28x28",
    ),
    "csv, another size": (
        {"f.csv": csv(A)},
        {"image_size": (4, 5)},
        "15 of 15 columns are there; 20 wanted for images of 4x5",
    ),
    "csv, names of another size": (
        {"f.csv": csv(A, ["label", *NAMES], before=LABELS)},
        {"image_size": (4, 5)},
        "15 of 16 columns have a number in their name, and so are pixels; 20 wanted for images of 4x5",
    ),
    "csv, label unclear": ({"f.csv": csv(A, before=LABELS)}, SIZE, "Name them in a first line, as in label,p1,p2"),
    "csv, one label": ({"f.csv": csv(A, before=[3] * 12)}, SIZE, "Name them in a first line, as in label,p1,p2"),
    "csv, lines differ": ({"f.csv": csv(A) + b",1"}, SIZE, "line 12 of numbers has not the 15 columns"),
    "csv, words": ({"f.csv": csv(A) + b"\n" + b"x," * 14 + b"x"}, SIZE, "could not convert"),
    "csv, a gap": ({"f.csv": csv(A) + b"\n" + b"," * 14}, SIZE, "could not convert"),
    "csv, NaN": ({"f.csv": csv(A) + b"\n" + b"nan," * 14 + b"nan"}, SIZE, "NaN or infinity"),
    "csv, words among numbers": ({"f.csv": csv(A, before=["cat"] * 12)}, SIZE, "name the columns in it"),
    "csv, names alone": ({"f.csv": ",".join(NAMES).encode()}, SIZE, "no line of numbers"),
    "csv, decimal commas": ({"f.csv": b"0,5;" * 14 + b"1\n"}, SIZE, "first line holds numbers and other text"),
    "text of words": ({"f.txt": b"hello world"}, SIZE, "'hello world', is neither numbers nor names of columns, as in"),
    "text of words, no size": ({"f.txt": b"hello world"}, {}, "a line of numbers for each image wanted"),
    "picture": ({"f.png": png(A[0])}, {}, "one picture: name the folder of PNGs"),
    "JPEG": ({"f.jpg": b"\xff\xd8\xff\xe0" + bytes(99)}, {}, "convert them to PNGs"),
    "HDF5": ({"f.h5": b"\x89HDF\r\n\x1a\n" + bytes(99)}, {}, "HDF5.*save its images as .npy"),
    "MATLAB 7.3": ({"f.mat": b"MATLAB 7.3 MAT-file" + bytes(99)}, {}, "MATLAB.*save the images as .npy"),
    "pickle": ({"f.pkl": b"\x80\x04K\x01."}, {}, "may run code.*save its images as .npy"),
    "binary": ({"f": bytes(range(256))}, {}, ".npy, .npz, idx or CSV file or a folder of PNGs wanted"),
    "pngs, sizes differ": (pngs(A) | {"f/x.png": png(B[0, :2])}, {}, "2x5 pixels, the first image 00.png has 3x5: one"),
    "pngs, another size": (pngs(A), {"image_size": (5, 3)}, "images of 5x3 pixels wanted"),
    "pngs, JPEGs among them": (pngs(A) | {"f/x.jpg": b"", "f/a/y.JPG": b""}, {}, "2 .jpg .*convert them, or move them"),
    "folder of JPEGs": ({"f/x.jpeg": b"", "f/y.gif": b""}, {}, "1 .gif, 1 .jpeg in this folder or below: convert"),
    "folder of published files": ({"f/train-images-idx3-ubyte": idx(A)}, {}, "--data NAME and --data-dir FOLDER"),
    "folder of nothing": ({"f/x.txt": b""}, {}, "no .png files in this folder or below"),
    "pngs, train, test and more": (
        pngs(A, "f/train/") | pngs(B, "f/test/") | pngs(B, "f/x/"),
        {},
        "folders test, train, and x beside: only train, valid and test wanted",
    ),
    "pngs, train, test and loose": (pngs(A, "f/train/") | pngs(B, "f/test/") | pngs(B, "f/"), {}, "only train, valid"),
    "pngs, test alone": (pngs(B, "f/test/"), {}, "only train, valid and test wanted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_way_out(tmp_path, case):
    files, options, way = REFUSED[case]
    with pytest.raises(DataError, match=way) as caught:
        load(given(tmp_path, files), **options)
    assert len(str(caught.value).splitlines()) == 1


def test_other_folders_and_pictures_are_not_left_out_unsaid(tmp_path):
    write(tmp_path, pngs(A, "f/") | pngs(B, "g/"))
    (tmp_path / "f" / "link").symlink_to(tmp_path / "g")
    with pytest.raises(DataError, match="1 links to folders in this folder or below"):
        load(str(tmp_path / "f"))
    (tmp_path / "linked").symlink_to(tmp_path / "g")
    assert len(load(str(tmp_path / "linked")).train) == 6
    frames = [Image.fromarray(image) for image in A]
    frames[0].save(tmp_path / "g" / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="x.png': .*animated, a single picture wanted"):
        load(str(tmp_path / "g"))


def test_matlab_7_3_is_named(tmp_path):
    for head in (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", b"\x89HDF\r\n\x1a\n"):
        write(tmp_path, {"chardata.mat": head + bytes(600)})
        with pytest.raises(DataError, match=r"a MATLAB 7.3 \(HDF5\) file, MATLAB 5 wanted: .* save it with '-v7'"):
            load("omniglot", tmp_path)


# --- splits -----------------------------------------------------------------------------------------------------------


CLASSES = np.repeat(np.arange(1, 11, dtype=np.uint8), 40).reshape(400, 1, 1) * 25 + np.zeros((2, 2), np.uint8)
SORTED = {
    "npy": {"f": npy(CLASSES)},
    "npy, packed": {"f": gzip.compress(npy(CLASSES))},
    "npy, floats": {"f": npy(CLASSES / 255)},
    "npy, [n, 1, H, W]": {"f": npy(CLASSES[:, None])},
    "npy, largest first": {"f": npy(CLASSES[::-1])},
    "npz": {"f": npz(a=CLASSES)},
    "npz, images and labels": {"f": npz(images=CLASSES, labels=CLASSES[:, 0, 0])},
    "npz, train alone": {"f": npz(x_train=CLASSES, y_train=CLASSES[:, 0, 0])},
    "idx": {"f": idx(CLASSES)},
    "csv": {"f": csv(CLASSES, ["label", "p1", "p2", "p3", "p4"], before=CLASSES[:, 0, 0])},
    "pngs by name": {f"f/{i:03}.png": png(image) for i, image in enumerate(CLASSES)},
    "pngs by folder": {f"f/{image[0, 0]:03}/{i:03}.png": png(image) for i, image in enumerate(CLASSES)},
}


@pytest.mark.parametrize("case", SORTED)
def test_own_images_are_shuffled_before_they_are_split(tmp_path, case):
    """Images sorted by class: each class is in each split, the same ones every time; an option keeps the order."""
    name = given(tmp_path, SORTED[case])
    found = load(name, image_size=(2, 2))
    sets = [images(split)[:, 0, 0] for split in (found.train, found.valid, found.test)]
    assert [len(x) for x in sets] == [320, 40, 40]
    assert all(len(np.unique(x)) >= 9 for x in sets)
    np.testing.assert_allclose(np.sort(np.concatenate(sets)), CLASSES[:, 0, 0] / 255, rtol=0, atol=1e-6)
    assert load(name, image_size=(2, 2)).digest() == found.digest()
    assert "valid and test held out at random with seed 2016" in found.describe()
    kept = load(name, image_size=(2, 2), order="file")
    assert len(np.unique(images(kept.test))) == 1
    assert "valid and test held out from the end" in kept.describe()
    with pytest.raises(ValueError, match="order: one of shuffled, file wanted, got 'sorted'"):
        load(name, order="sorted")


def test_the_shuffle_is_the_stated_one():
    """A held-out image must stay one whatever the version: image i goes by number i of the noise stream."""
    numbers = np.arange(1, 31, dtype=np.uint8).reshape(30, 1, 1) * 8
    found = Dataset.from_tensors(numbers)
    held_out = np.concatenate([images(found.valid), images(found.test)]).ravel() * 255 / 8 - 1
    assert held_out.round().astype(int).tolist() == [16, 25, 27, 14, 15, 17]


def test_given_parts_stay_as_they_are(tmp_path):
    found = load(given(tmp_path, {"f": npz(train=A, valid=A[:2], test=B)}))
    np.testing.assert_array_equal(images(found.test), B / np.float32(255))
    assert "held out" not in found.describe()
    half = load(given(tmp_path, {"f": npz(x_train=A, x_test=B)}))
    np.testing.assert_array_equal(images(half.test), B / np.float32(255))
    assert "test images of 3x5 pixels, dynamic (grey 0..255), ink" in half.describe()
    assert half.describe().endswith(", valid held out at random with seed 2016")


@pytest.mark.parametrize("text", ["28", "28x", "x28", "0x28", "28x-1", "28 x 28", "28x28x1", ""])
def test_sizes(text):
    assert parse_size("28x30") == (28, 30)
    with pytest.raises(ValueError, match="image_size: HEIGHTxWIDTH in pixels wanted, like 28x28, got"):
        parse_size(text)


def test_published_images_have_their_own_size(tmp_path):
    write(tmp_path, {f"binarized_mnist_{k}.amat": amat(BITS[:2]) for k in ("train", "valid", "test")})
    assert len(load("static-mnist", tmp_path, image_size=(28, 28)).train) == 2
    with pytest.raises(DataError, match=r"image_size: static-mnist has images of \(28, 28\), got \(14, 14\)"):
        load("static-mnist", tmp_path, image_size=(14, 14))
