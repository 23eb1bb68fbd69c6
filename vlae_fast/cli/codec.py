"""`vlae-fast compress` and `vlae-fast decompress`."""

import shutil
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from vlae_fast import checkpoint, codec, pretrained
from vlae_fast.bar import said
from vlae_fast.checks import whole
from vlae_fast.cli.common import Run, Speaking, check_named, check_size
from vlae_fast.data import NAMES, Split, load, parse_size, read_images
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE
from vlae_fast.run_folder import check_new_folder, check_output

with cli_extra():
    from PIL import Image
    from tyro.conf import Positional, arg

__all__ = ["Compress", "Decompress"]

MOST_BYTES = 1 << 32
"""Of a file that is read."""


@dataclass(kw_only=True)
class Compress(Speaking):
    """Write images as a file of about -ELBO bits each, or of their lossy codes alone (about 20 bits each)."""

    images: Positional[Annotated[str, arg(metavar="IMAGES")]]
    """Binary images: .npy, .npz, idx, CSV or a folder of PNGs, all in their order, or the name of a data set."""
    model: Run
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """File to write: .vlae."""
    lossy: bool = False
    """Keep z alone; the texture is drawn anew when the file is decompressed."""
    bits: int | None = None
    """With --lossy: a code is one of 2**bits, default: 20. Each bit more brings it nearer to the posterior and doubles
    the time."""
    group: int | None = None
    """Images from which a reader may begin; default: 16384 of 28x28 pixels. A group costs about 100 bits."""
    seed: int | None = None
    """With --lossy: seed of the choice of codes, default: 0."""
    split: Literal["test", "valid", "train"] | None = None
    """Of a named data set; default: test."""
    data_dir: Path | None = None
    """Folder of the published files of a named data set; default: $VLAE_DATA, else ./data."""
    image_size: str = ""
    """HEIGHTxWIDTH of own images that come as rows of numbers, in pixels, like 28x28."""

    def __call__(self) -> int:
        """Returns the exit status."""
        self.out = check_output("out", self.out, (".vlae",), self.images)
        model = VLAE.from_pretrained(self.model)
        split = self._split(model)
        with self.bar(len(split)) as bar:
            data = codec.compress(
                model,
                split.fixed(),
                lossy=self.lossy,
                bits=self.bits,
                group=self.group,
                seed=self.seed,
                report=lambda done, total: bar.update(done - bar.n),
            )
        checkpoint.write_file(self.out, data)
        bits = f"{8 * len(data) / len(split):.1f} bits each" if len(split) else "none"
        self.say_of(self.out, f"{len(split)} images in {len(data):,} bytes, {bits}")
        raw = -(-len(split) * split.height * split.width // 8)
        if len(data) > raw >= 1024 and not self.quiet:  # fewer are outweighed by the header
            unlike = f"more than the {raw:,} bytes of their pixels; is the model one of such images?"
            said(f"WARNING: {self.out}: {unlike}\n", sys.stderr)
        return 0

    def _split(self, model: VLAE) -> Split:
        size = parse_size(self.image_size) if self.image_size else None
        if self.images in NAMES:
            split: Split = getattr(load(self.images, self.data_dir, image_size=size), self.split or "test")
        elif self.split is not None:
            raise ValueError(f"split: a named data set has splits, of {self.images} all images are written")
        else:
            if self.data_dir is not None:
                check_named(self.images)
            split = read_images(self.images, size or (model.config.height, model.config.width))
            if split.dynamic:
                raise ValueError(f"{self.images}: grey images; binary ones, of two values, wanted")
            self.warn_of(self.images, split)
        check_size(self.model, model, self.images, split)
        return split


@dataclass(kw_only=True)
class Decompress(Speaking):
    """Read a file that `compress` wrote: the same images, or, where it is lossy, images like them."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """File to read."""
    out: Path
    """What to write: .npy or .npz (uint8 [n, 1, H, W], 1 is ink), or a new folder of PNGs (ink is white)."""
    model: Run | None = None
    """The model that wrote it; default: the shipped weights that did."""
    first: int = 0
    """Number of the first image."""
    num: int | None = None
    """Images to read; default: to the last. Only the groups that hold them are read."""
    seed: int = 0
    """Of a lossy file: seed of the texture."""

    def __call__(self) -> int:
        """Returns the exit status."""
        if self.num is not None:
            whole("num", self.num)
        if folder := self.out.suffix == "":
            self.out = check_new_folder("out", self.out)
        elif self.out.suffix in (".npy", ".npz"):
            self.out = check_output("out", self.out, (".npy", ".npz"), self.file)
        else:
            wanted = "a name that ends in .npy or .npz, or one without an ending for a new folder of PNGs,"
            raise ValueError(f"out: {wanted} wanted, got {str(self.out)!r}")
        data = checkpoint.read_file(self.file, MOST_BYTES)
        try:
            model = self._model(data)
            self._check_range(codec.header(model, data).count)
            with self.bar(None) as bar:
                images = codec.decompress(
                    model,
                    data,
                    first=self.first,
                    count=self.num,
                    seed=self.seed,
                    report=lambda done, total: bar.update(done - bar.n),
                )
        except codec.CodecError as error:
            raise ValueError(str(error).replace("data", str(self.file), 1)) from None
        pixels = images.numpy().astype(np.uint8)
        if folder:
            _write_pngs(self.out, pixels)
        else:
            content = BytesIO()
            np.save(content, pixels) if self.out.suffix == ".npy" else np.savez_compressed(content, images=pixels)
            checkpoint.write_file(self.out, content.getvalue())
        self.say_of(self.out, f"{len(pixels)} images")
        return 0

    def _check_range(self, there: int) -> None:
        """Raises ValueError where a file of so many images has not those that are asked for."""
        if self.first + (self.num or 0) > there or (self.num is None and self.first == there > 0):
            asked = f"--first {self.first}" + ("" if self.num is None else f" --num {self.num}")
            raise ValueError(f"first, num: {self.file} holds {there} images, numbered from 0; got {asked}")

    def _model(self, data: bytes) -> VLAE:
        if self.model is not None:
            return VLAE.from_pretrained(self.model)
        wanted = codec.digest_in(data)
        for name in pretrained.shipped():
            model = VLAE.from_pretrained(pretrained.WEIGHTS / name)
            if codec.digest(model) == wanted:
                return model
        raise ValueError(f"{self.file}: written with a model of digest {wanted.hex()}, none that ships; say --model")


def _write_pngs(folder: Path, pixels: NDArray[np.uint8]) -> None:
    """All of them or none: [n, 1, H, W], 1 is ink."""
    new = checkpoint.beside(folder)
    digits = len(str(max(0, len(pixels) - 1)))
    try:
        new.mkdir(parents=True)
        for i, image in enumerate(pixels[:, 0]):
            Image.fromarray(image == 1).save(new / f"{i:0{digits}}.png")
        new.replace(folder)
    except OSError as error:
        raise checkpoint.CheckpointError(f"{folder}: cannot be written ({error.strerror})") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
