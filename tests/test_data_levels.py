"""What the values of images mean is told from the whole set, and said; transparency is laid on paper, or refused."""

import io

import numpy as np
import pytest
from data_files import GREY, png, write
from PIL import Image

from vlae_fast.data import DataError, Dataset, load

RNG = np.random.default_rng(1)
BITS = (RNG.random((30, 4, 5)) < 0.3).astype(np.uint8)
INK = RNG.integers(0, 256, (30, 4, 5), np.uint8) * BITS
STRAY = np.arange(600).reshape(30, 4, 5) == 77


def probabilities(found: Dataset) -> np.ndarray:
    splits = (found.train, found.valid, found.test)
    return np.concatenate([split.probabilities(slice(None))[:, 0].numpy() for split in splits])


# values, probabilities of ink, what is said of them
READ = {
    "0 and 1": (BITS, BITS, "static (values 0 and 1)"),
    "0 and 255": (BITS * 255, BITS, "static (values 0 and 255)"),
    "0 and 38, a colour's luma": (BITS * 38, BITS, "static (values 0 and 38)"),
    "1 and 2": (BITS + 1, BITS, "static (values 1 and 2)"),
    "-1 and 1": (BITS.astype(np.int8) * 2 - 1, BITS, "static (values -1 and 1)"),
    "-1 and 0": (BITS.astype(np.int8) - 1, BITS, "static (values -1 and 0)"),
    "-0.42 and 2.8, normalised": (BITS * 3.2 - 0.42, BITS, "static (values -0.42 and 2.78)"),
    "0 and 1/255, scaled twice": (BITS / 255, BITS, "static (values 0 and 0.00392157)"),
    "0 and 65535": (BITS * np.uint16(65535), BITS, "static (values 0 and 65535)"),
    "booleans": (BITS > 0, BITS, "static (values 0 and 1)"),
    "nothing but 0": (BITS * 0, BITS * 0, "static (every pixel 0)"),
    "nothing but 1": (BITS * 0 + 1.0, BITS * 0 + 1, "static (every pixel 1)"),
    "grey": (INK, INK / 255, "dynamic (grey 0..255)"),
    "grey, int64": (INK.astype(np.int64), INK / 255, "dynamic (grey 0..255)"),
    "grey, whole floats": (INK.astype(np.float32), INK / 255, "dynamic (grey 0..255)"),
    "grey, never white": (INK // 2 + 80 * BITS, (INK // 2 + 80 * BITS) / 255, "dynamic (grey 0..255)"),
    "grey of 3 values": (BITS * 127 + BITS[::-1] * 128, (BITS * 127 + BITS[::-1] * 128) / 255, "dynamic (grey"),
    "grey of 4 bits": (INK // 16 * 17, INK // 16 / 15, "dynamic (grey 0..255)"),
    "grey of 2 bits": (INK // 64 * 85, INK // 64 / 3, "dynamic (grey 0..255)"),
    "grey with noise of JPEG": (INK | RNG.integers(0, 4, INK.shape, np.uint8), None, "dynamic (grey 0..255)"),
    "0 and 255, and a speck": (np.where(STRAY, 100, BITS * 255), None, "dynamic (grey 0..255)"),
    "floats": (INK / 255, INK / 255, "dynamic (probabilities 0..1)"),
    "floats, small": (INK / 768, INK / 768, "dynamic (probabilities 0..1)"),
    "floats, digits of 0..16": (INK // 16 / 16, INK // 16 / 16, "dynamic (probabilities 0..1)"),
    "float16": ((INK / 256).astype(np.float16), INK / 256, "dynamic (probabilities 0..1)"),
}


@pytest.mark.parametrize("case", READ)
def test_read(case):
    images, expected, said = READ[case]
    found = Dataset.from_tensors(images, order="file")
    assert said in found.describe()
    assert found.train.dynamic == said.startswith("dynamic")
    expected = images / 255 if expected is None else expected
    np.testing.assert_allclose(probabilities(found), expected, rtol=0, atol=4e-7)


REFUSED = {
    "a stray 2 among 0 and 1": (BITS + STRAY * (2 - BITS), "0..2, hardly one of them above 127.* save booleans"),
    "digits of 0..16": (INK // 16 % 17, "0..15, hardly one .*: no grey of 255; divide by the value that is full ink"),
    "digits of 0..16, whole floats": (INK // 16 % 17 * 1.0, "0..15, hardly one .*; divide by the value"),
    "percent": (INK // 3, "0..8[45], hardly one of them above 127"),
    "half of grey": (INK // 2, "0..127, hardly one of them above 127"),
    "classes": (BITS * RNG.integers(0, 21, BITS.shape, np.uint8), "0..20, hardly one of them above 127"),
    "0 and 1, and a stray 255": (BITS + STRAY * (255 - BITS), "0..255, hardly one|the values 0, 1, 255"),
    "0 and 1, and 255 for void": (np.maximum(BITS, 255 * BITS[::-1]), "the values 0, 1, 255: no grey of 255"),
    "0 and 1 here, 0 and 255 there": (BITS * np.where(np.arange(30) < 15, 1, 255)[:, None, None], "values 0, 1, 255"),
    "classes, and 255 for void": (np.maximum(BITS * 3, 255 * BITS[::-1]), "the values 0, 3, 255: no grey of 255"),
    "every pixel 7": (BITS * 0 + 7, "every pixel is 7: nothing to learn from"),
    "-1, 0, 1": (BITS.astype(np.int8) - BITS[::-1], r"values -1..1, .*by \(x \+ 1\) / 2 where they are -1..1"),
    "floats -1..1": (INK / 127.5 - 1, r"values -1..\S+, .*\(x \+ 1\) / 2"),
    "normalised": (INK / 255 * 3.2 - 0.42, "values -0.42..2.*rescale them to 0..1"),
    "floats 0..255": (INK + BITS / 3, "by 1/255 where they are grey"),
    "16 bits": (INK.astype(np.uint16) * 257, "whole numbers 0..6.*, grey 0..255 or only two values wanted; divide"),
    "below 0": (INK.astype(np.int16) - 1, "whole numbers -1..2.*, grey 0..255 or only two values wanted"),
    "NaN among bits": (np.where(STRAY, np.nan, BITS), "NaN or infinity"),
    "infinity among bits": (np.where(STRAY, np.inf, BITS), "NaN or infinity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    images, way = REFUSED[case]
    with pytest.raises(DataError, match=way) as caught:
        Dataset.from_tensors(images)
    assert len(str(caught.value)) < 400


def test_the_whole_set_is_judged():
    """Not a block, not a file, not a split: one pixel elsewhere changes what all are."""
    large = np.zeros((5, 1024, 1024), np.uint8)
    large[0, 0, 0] = large[4, -1, -1] = 1
    assert Dataset.from_tensors(large[:3], large[3:4], large[4:]).describe().count("static (values 0 and 1)") == 1
    large[4, 0, 0] = 2
    with pytest.raises(DataError, match=r"0\.\.2, hardly one of them above 127"):
        Dataset.from_tensors(large[:3], large[3:4], large[4:])


# --- PNGs -------------------------------------------------------------------------------------------------------------


def palette(colours: list[tuple[int, int, int]], clear: bytes | int | None = None):
    """Writes bits as entries 0 and 1 of a palette, with the alphas (or the clear one) of its entries."""

    def encode(bits: np.ndarray) -> bytes:
        image = Image.fromarray(bits.astype(np.uint8))
        image.putpalette([value for colour in colours for value in colour])
        image.save(file := io.BytesIO(), "PNG", **({} if clear is None else {"transparency": clear}))
        return file.getvalue()

    return encode


def keyed(mode: str, paper: int, ink: int, clear: object):
    """Writes bits as grey or RGB values, one of which is transparent."""

    def encode(bits: np.ndarray) -> bytes:
        image = Image.fromarray(np.where(bits, ink, paper).astype(np.uint8)).convert(mode)
        image.save(file := io.BytesIO(), "PNG", transparency=clear)
        return file.getvalue()

    return encode


def layered(ink: tuple[int, ...], paper: tuple[int, ...]):
    """Writes bits as pixels (grey, alpha) or (red, green, blue, alpha)."""

    def encode(bits: np.ndarray) -> bytes:
        pixels = np.where(bits[..., None] > 0, np.array(ink), np.array(paper)).astype(np.uint8)
        Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    return encode


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (200, 30, 30)
TRANSPARENT = {  # ink is what is not transparent
    "palette, black ink": palette([BLACK, BLACK], 0),
    "palette, black ink on clear white": palette([WHITE, BLACK], 0),
    "palette, white ink": palette([BLACK, WHITE], 0),
    "palette, alphas": palette([BLACK, BLACK], b"\0\xff"),
    "grey, black ink": keyed("L", 255, 0, 255),
    "grey, white ink": keyed("L", 0, 255, 0),
    "RGB, black ink": keyed("RGB", 255, 0, (255, 255, 255)),
    "RGB, white ink": keyed("RGB", 0, 255, (0, 0, 0)),
    "RGBA, black ink": layered((0, 0, 0, 255), (0, 0, 0, 0)),
    "RGBA, white ink on clear white": layered((255, 255, 255, 255), (255, 255, 255, 0)),
    "RGBA, red ink": layered((*RED, 255), (9, 99, 9, 0)),
    "grey and alpha, black ink": layered((0, 255), (255, 0)),
    "grey and alpha, white ink": layered((255, 255), (0, 0)),
}
OPAQUE = {  # ink is bright, as everywhere
    "RGBA without a clear pixel": layered((255, 255, 255, 255), (0, 0, 0, 255)),
    "grey and alpha without a clear pixel": layered((255, 255), (0, 255)),
    "palette whose clear entry is not used": palette([BLACK, WHITE, RED], 2),
    "bits": lambda bits: png(bits * np.uint8(255), "1"),
    "masks of 0 and 1": lambda bits: png(bits),
    "palette of red": palette([BLACK, RED]),
    "RGB": lambda bits: png(bits * np.uint8(255), "RGB"),
}


@pytest.mark.parametrize("case", [*TRANSPARENT, *OPAQUE])
def test_pngs_of_two_values(tmp_path, case):
    encode = (TRANSPARENT | OPAQUE)[case]
    found = load(str(write(tmp_path, {f"{i:02}.png": encode(bits) for i, bits in enumerate(BITS)})), order="file")
    np.testing.assert_array_equal(probabilities(found), BITS)
    assert not found.train.dynamic


def test_half_transparent_ink_is_half_the_ink(tmp_path):
    """Antialiased strokes: opacity times contrast with the paper, for dark and for bright ink."""
    for ink, folder in ((0, "dark"), (255, "bright")):
        pixels = np.stack([np.full_like(INK, ink), INK], -1)
        layers = {f"{folder}/{i:02}.png": _la(image) for i, image in enumerate(pixels)}
        found = load(str(write(tmp_path, layers) / folder), order="file")
        np.testing.assert_allclose(probabilities(found), INK / 255, rtol=0, atol=1e-6)


def _la(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_some_files_transparent(tmp_path):
    """Files without a clear pixel among transparent ones lie on the same paper."""
    clear, whole = layered((0, 0, 0, 255), (0, 0, 0, 0)), lambda bits: png(bits * np.uint8(0), "RGB")
    files = {f"{i:02}.png": (whole if i == 3 else clear)(bits) for i, bits in enumerate(BITS)}
    found = probabilities(load(str(write(tmp_path, files)), order="file"))
    assert found[3].all()
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(BITS, 3, 0))


@pytest.mark.parametrize(
    ("files", "way"),
    [
        (
            [layered((0, 255), (0, 0))(BITS[i]) for i in range(4)] + [png(BITS[4] * np.uint8(255))],
            "dark and bright colours: which is ink. Lay them on paper, without alpha",
        ),
        ([layered((INK_, 255), (0, 0))(BITS[i]) for i, INK_ in enumerate((0, 255, 0))], "dark and bright"),
        ([png(GREY[0].astype(np.uint16) * 256)] * 3, "grey or colour of 8 bits wanted, convert it"),
        ([png(bits) for bits in BITS[:9]] + [png(BITS[9] * np.uint8(255))], "hardly one|the values 0, 1, 255"),
    ],
    ids=["opaque among them", "dark and bright ink", "16 bits", "masks of two kinds"],
)
def test_pngs_refused(tmp_path, files, way):
    write(tmp_path, {f"{i}.png": content for i, content in enumerate(files)})
    with pytest.raises(DataError, match=way):
        load(str(tmp_path))
