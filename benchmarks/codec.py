"""Bits an image of the codec beside general and picture formats, and its speed: `python -m benchmarks.codec`.

Writes the table of docs/codec.md. Formats whose programs are not there (Debian: jbigkit-bin, libjxl-tools, webp, zstd)
are left out of it; the table says which were measured.
"""

import argparse
import bz2
import lzma
import shutil
import statistics
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from cpuinfo import get_cpu_info
from PIL import Image
from torch import Tensor

from vlae_fast import VLAE, codec, load, native

PAGE = Path(__file__).parents[1] / "docs/codec.md"
BEGIN, END = "<!-- bits: written by benchmarks/codec.py -->\n", "<!-- /bits -->\n"
ROUNDS = 3
SMALL, SMALL_FILES = 100, 30
LOSSY_IMAGES = 200


def through(*command: str, source: bytes, suffixes: tuple[str, str]) -> int:
    """Bytes that a program makes of a file; {in} and {out} stand for their names."""
    with TemporaryDirectory() as folder:
        names = {name: f"{folder}/{name}{suffix}" for name, suffix in zip(("in", "out"), suffixes, strict=True)}
        Path(names["in"]).write_bytes(source)
        subprocess.run([part.format(**names) for part in command], check=True, capture_output=True)
        return Path(names["out"]).stat().st_size


def saved(image: Image.Image, kind: str, **options: object) -> int:
    """Bytes of a picture in one of Pillow's formats."""
    content = BytesIO()
    image.save(content, format=kind, **options)
    return content.tell()


def others(images: Tensor) -> Iterator[tuple[str, int]]:
    """Name and bytes of every other way at hand."""
    pixels = images[:, 0].numpy().astype(bool)
    packed = np.packbits(pixels.reshape(len(pixels), -1), axis=1).tobytes()
    pictures = [Image.fromarray(~image) for image in pixels]
    yield "PNG, a file an image", sum(saved(picture, "PNG", optimize=True) for picture in pictures)
    yield "WebP, a file an image", sum(saved(p.convert("L"), "WEBP", lossless=True, quality=100) for p in pictures)
    yield "gzip of all packed bits", len(zlib.compress(packed, 9))
    yield "bz2", len(bz2.compress(packed, 9))
    yield "xz", len(lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME))
    if shutil.which("zstd"):
        yield "zstd -22", through("zstd", "--ultra", "-22", "{in}", "-o", "{out}", source=packed, suffixes=("", ".zst"))
    columns = 100
    rows = -(-len(pixels) // columns)
    tiles = np.zeros((rows * columns, *pixels.shape[1:]), bool)
    tiles[: len(pixels)] = pixels
    mosaic = tiles.reshape(rows, columns, *pixels.shape[1:]).swapaxes(1, 2).reshape(rows * pixels.shape[1], -1)
    pbm, png = BytesIO(), BytesIO()
    Image.fromarray(~mosaic).save(pbm, format="PPM")
    Image.fromarray(~mosaic).save(png, format="PNG")
    if shutil.which("cjxl"):
        jxl = ("cjxl", "{in}", "{out}", "-d", "0", "-e", "9", "--quiet")
        yield "JPEG XL, one mosaic", through(*jxl, source=png.getvalue(), suffixes=(".png", ".jxl"))
    if shutil.which("pbmtojbg"):
        jbig = ("pbmtojbg", "-q", "{in}", "{out}")
        yield "JBIG1, one mosaic", through(*jbig, source=pbm.getvalue(), suffixes=(".pbm", ".jbg"))


def seconds(call: Callable[[], object]) -> float:
    """Median of a few rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def table(name: str, data: str, speed_images: int) -> Iterator[str]:
    """Lines of the page: bits of all test images, then speed."""
    model, images = VLAE.from_pretrained(name), load(data).test.fixed()
    with torch.no_grad():
        bounds = [model.elbo(part).elbo for part in images.split(256) for _ in range(4)]
    bound = -torch.cat(bounds).mean().item() / np.log(2)
    file, few = codec.compress(model, images), images[: SMALL * SMALL_FILES]
    assert torch.equal(codec.decompress(model, file), images), "other images came back"
    with torch.no_grad():
        few_bound = -torch.stack([model.elbo(few).elbo for _ in range(8)]).mean().item() / np.log(2)
    files = [codec.compress(model, part) for part in few.split(SMALL)]
    few_bits = 8 * sum(map(len, files)) / len(few)
    head = 8 * sum(codec.header(model, one).start for one in files) / len(few)
    yield f"{len(images):,} test images of {data}, bits an image, everything counted:\n"
    yield "| | bits |\n| --- | --- |"
    for way, size in others(images):
        yield f"| {way} | {8 * size / len(images):.0f} |"
    ours = 8 * len(file) / len(images)
    yield f"| `vlae-fast compress --model {name}` | **{ours:.2f}** |"
    yield f"| the model's negative bound, {bound * np.log(2):.2f} nats | {bound:.2f} |\n"
    yield f"That is {ours / bound - 1:.2%} above the bound. In files of {SMALL} images the first {len(few):,} take"
    yield f"{few_bits:.2f} bits each, {few_bits / few_bound - 1:.2%} above their bound of {few_bound:.2f}; headers are"
    yield f"{head / few_bound:.2%} of it.\n"
    part = images[:speed_images]
    small = codec.compress(model, part)
    ways = {
        "compress": seconds(lambda: codec.compress(model, part)),
        "decompress": seconds(lambda: codec.decompress(model, small)),
        "score once (`elbo`)": seconds(lambda: model.elbo(part)),
        "draw (`sample`)": seconds(lambda: model.sample(len(part))),
    }
    assert torch.equal(codec.decompress(model, small), part), "other images came back"
    yield f"| one thread, {len(part):,} images | images a second |\n| --- | --- |"
    yield from (f"| {way} | {len(part) / taken:,.0f} |" for way, taken in ways.items())
    yield f"\nOne core of {get_cpu_info()['brand_raw']} ({native.isa()})."


def lossy_table(name: str, data: str) -> Iterator[str]:
    """Lines of the page: what a code of so many bits keeps."""
    model, images = VLAE.from_pretrained(name), load(data).test.fixed(0, LOSSY_IMAGES)

    def distortion(z: Tensor) -> float:
        with torch.no_grad():
            return -model._log_prob_given(images, z).mean().item()

    with torch.no_grad():
        kl = torch.stack([model.elbo(images).kl for _ in range(64)]).mean().item() / np.log(2)
        of_posterior = np.mean([distortion(model.encode(images).sample()) for _ in range(8)])
    yield f"\nLossy, the first {LOSSY_IMAGES} of them, KL {kl:.1f} bits:\n"
    yield "| `--bits` | bits an image | -log p(x given z), nats |\n| --- | --- | --- |"
    for bits in (12, 16, 20, 22):
        found = codec.header(model, file := codec.compress(model, images, lossy=True, bits=bits))
        z = codec.codes(model, file)
        yield f"| {bits} | {8 * (len(file) - found.start) / len(images):.1f} | {distortion(z):.1f} |"
    bound = kl + np.log2(kl + 1) + 4
    yield f"| z from q(z given x) itself | at most {bound:.1f} (KL + log2(KL + 1) + 4) | {of_posterior:.1f} |"


def main() -> None:
    """Prints the lines and puts them into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="static-mnist")
    parser.add_argument("--data", default="static-mnist")
    parser.add_argument("--speed-images", type=int, default=8192)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [*table(arguments.model, arguments.data, arguments.speed_images)]
    text = "\n".join([*lines, *lossy_table(arguments.model, arguments.data)]) + "\n"
    print(text)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
