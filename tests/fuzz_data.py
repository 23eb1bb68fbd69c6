"""Mutated files of every format: the readers may raise DataError, and nothing else, in bounded memory.

    python tests/fuzz_data.py --files 15000 --seed 0

Exit status 1, and the file kept beside the message, where a reader raises something else.
"""

import argparse
import gzip
import resource
import struct
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from data_files import BITS, GREY, amat, idx, mat_like, mat_matrix, npy, packed, png, zipped

from vlae_fast.data import DataError, load

PEAK_BYTES = 2**30
IMAGES = GREY[:12]
DIGITS = IMAGES * (np.arange(15) < 14).reshape(3, 5)  # a last pixel that is always paper: the first column is the label
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    5,
    8,
    14,
    15,
    127,
    128,
    255,
    256,
    784,
    4096,
    4097,
    65535,
    2**24,
    2**28,
    2**31 - 1,
    2**31,
    2**32 - 1,
]


def png_checksums(content: bytes) -> bytes:
    """The chunks of a PNG, as far as they can be told, with checksums that fit."""
    out, position = content[:8], 8
    while position + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, position)
        body = content[position + 4 : position + 8 + size]
        out += content[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + size
    return out


def mat(names: dict[bytes, tuple[int, int]]) -> bytes:
    bits = np.random.default_rng(0).integers(0, 2, 784 * 1400, np.uint8).tobytes()
    return mat_like(*(mat_matrix(name, shape, bits[: shape[0] * shape[1]]) for name, shape in names.items()))


def pack_npz(content: bytes, method: int) -> bytes:
    return zipped(method, train=content, valid=content, test=content)


def pack_mat(content: bytes) -> bytes:
    """The elements of a MATLAB file, as far as they can be told, each compressed."""
    out, position = content[:128], 128
    while position + 8 <= len(content):
        _, size = struct.unpack_from("<II", content, position)
        out += packed(content[position : position + 8 + size])
        position += 8 + size
    return out


def user(folder: Path, content: bytes) -> str:
    (folder / "x").write_bytes(content)
    return str(folder / "x")


def rows(folder: Path, content: bytes) -> str:
    """A file of rows of numbers, whose images' size must be said."""
    return user(folder, content)


def png_folder(folder: Path, content: bytes) -> str:
    for i in range(3):
        (folder / f"{i}.png").write_bytes(content)
    return str(folder)


def published(name: str, *files: str) -> Callable[[Path, bytes], str]:
    def write(folder: Path, content: bytes) -> str:
        for file in files:
            (folder / file).write_bytes(content)
        return name

    return write


def text(images: np.ndarray, names: str = "") -> bytes:
    """Lines of a label and the pixels, with commas."""
    lines = [",".join(map(str, [i % 3, *image.ravel()])) for i, image in enumerate(images)]
    return "\n".join([names] * bool(names) + lines).encode()


CHARDATA = mat({b"target": (1, 8), b"data": (784, 1400), b"testdata": (784, 2)})
SILHOUETTES = mat({b"train_data": (2, 784), b"val_data": (2, 784), b"test_data": (2, 784)})
dynamic = published("dynamic-mnist", "train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
static = published("static-mnist", *(f"binarized_mnist_{part}.amat" for part in ("train", "valid", "test")))
omniglot = published("omniglot", "chardata.mat")
caltech = published("caltech101", "caltech101_silhouettes_28_split1.mat")

# name: content, how it is packed, and what writes it into a folder and returns what to load. A file is mutated after it
# is packed, or before: else its checksums would stop nearly every mutation.
FORMATS: dict[str, tuple[bytes, Callable[[bytes], bytes], Callable[[Path, bytes], str]]] = {
    "idx": (idx(GREY[:, :1, :1]), bytes, dynamic),
    "idx, gzip": (idx(GREY[:, :1, :1]), gzip.compress, dynamic),
    "amat": (amat(BITS[:3]), bytes, static),
    "amat, gzip": (amat(BITS[:3]), gzip.compress, static),
    "mat, columns": (CHARDATA, bytes, omniglot),
    "mat, columns, packed": (CHARDATA, pack_mat, omniglot),
    "mat, rows": (SILHOUETTES, bytes, caltech),
    "mat, rows, packed": (SILHOUETTES, pack_mat, caltech),
    "npy": (npy(IMAGES), bytes, user),
    "npy, float": (npy(IMAGES / 255), bytes, user),
    "npz, stored": (npy(IMAGES[:4]), partial(pack_npz, method=zipfile.ZIP_STORED), user),
    "npz, deflated": (npy(IMAGES[:4]), partial(pack_npz, method=zipfile.ZIP_DEFLATED), user),
    "npy, gzip": (npy(IMAGES), gzip.compress, user),
    "npz, images and labels": (npy(IMAGES[:4]), lambda x: zipped(images=x, labels=npy(np.arange(4))), user),
    "idx of one's own, gzip": (idx(IMAGES), gzip.compress, user),
    "csv": (text(IMAGES, "label," + ",".join(f"p{i}" for i in range(15))), bytes, rows),
    "csv, no names": (text(DIGITS), bytes, rows),
    "csv, gzip": (text(DIGITS), gzip.compress, rows),
    "png, alpha": (png(IMAGES[0], "LA"), png_checksums, png_folder),
    "png, grey": (png(IMAGES[0], "L"), png_checksums, png_folder),
    "png, palette": (png(IMAGES[0], "P"), png_checksums, png_folder),
    "png, bits": (png(IMAGES[0], "1"), png_checksums, png_folder),
}


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, numbers, cuts, holes, repeated or random pieces; half near the front."""
    data = bytearray(content)
    for _ in range(random.integers(1, 5)):
        length = len(data)
        reach = length if random.random() < 0.5 else min(length, 300)
        at, size = int(random.integers(0, reach + 1)), int(random.integers(1, 64))
        number = NUMBERS[random.integers(len(NUMBERS))]
        match random.integers(8):
            case 0 if at < length:
                data[at] ^= 1 << random.integers(8)
            case 1 if at < length:
                data[at] = random.integers(256)
            case 2:
                data[at : at + 4] = struct.pack("<I", number)
            case 3:
                data[at : at + 4] = struct.pack(">I", number)
            case 4:
                del data[at:]
            case 5:
                del data[at : at + size]
            case 6:
                data[at:at] = data[at : at + size] * int(random.integers(1, 9))
            case 7:
                data[at : at + size] = random.bytes(size)
    return bytes(data)


def read(write: Callable[[Path, bytes], str], content: bytes) -> None:
    """Loads a data set all whose files hold this. Raises DataError, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = write(Path(folder), content)
        load(wanted, Path(folder), image_size=(3, 5) if write is rows else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000, help="number of mutated files, spread over the formats")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    formats = list(FORMATS.items())
    for content, pack, write in FORMATS.values():
        read(write, pack(content))  # what is mutated below is read when it is not
    for number in range(arguments.files):
        name, (content, pack, write) = formats[number % len(formats)]
        random = np.random.default_rng([arguments.seed, number])
        mutated = pack(mutate(content, random)) if random.random() < 0.7 else mutate(pack(content), random)
        try:
            read(write, mutated)
            outcomes["read"] += 1
        except DataError:
            outcomes["refused"] += 1
        except Exception:
            traceback.print_exc()
            kept = Path(tempfile.gettempdir()) / f"fuzz_data_{arguments.seed}_{number}"
            kept.write_bytes(mutated)
            print(f"fuzz_data: file {number} ({name}), kept as {kept}, raised the above", file=sys.stderr)
            return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"fuzz_data: {arguments.files} files, {dict(outcomes)}, peak memory {peak / 2**20:.0f} MiB")
    return 0 if peak < PEAK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
