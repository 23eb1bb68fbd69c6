"""Folders of PNG files."""

import os
import struct
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlae_fast.data.files import MAX_UNPACKED_BYTES, check_size, fail, open_file, reading
from vlae_fast.data.readers import parts_of
from vlae_fast.extra import cli_extra

__all__ = ["read_png_folder"]

_PNG_HEAD = struct.Struct(">8s4x4sII")
_OTHER_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".ppm", ".tif", ".tiff", ".webp"}
_PUBLISHED_FILES = ("train-images-idx3-ubyte", "binarized_mnist_", "caltech101_silhouettes", "chardata.mat")
_ALPHA_MODES = ("LA", "PA", "RGBA")
_OPAQUE = 128
"""Alpha from which on the colour of a pixel counts when paper and ink are told apart."""

Bytes = NDArray[np.uint8]


def read_png_folder(path: Path) -> dict[str, Bytes]:
    """Grey values 0..255 [n, H, W] of the PNGs in a folder and in those below it, sorted by name.

    Colours count by their luma. Where images are transparent, transparent is paper: ink is how far a pixel is from it.
    Hidden files are passed over. Folders train, valid (or val) and test are these parts, all else is "train".
    """
    files = _files(path)
    height, width = _png_size(files[0])
    if len(files) * height * width > MAX_UNPACKED_BYTES:
        fail(path, f"{len(files)} images of {height} x {width} pixels, at most {MAX_UNPACKED_BYTES} pixels wanted")
    luma = np.empty((len(files), height, width), np.uint8)
    alpha: Bytes | None = None
    for i, file in enumerate(files):
        if (size := _png_size(file)) != (height, width):
            fail(
                file,
                f"{size[0]}x{size[1]} pixels, the first image {files[0].name} has {height}x{width}: "
                "one size wanted, scale or pad them first",
            )
        luma[i], transparent = _read_png(file, height, width)
        if transparent is not None:
            alpha = np.full_like(luma, 255) if alpha is None else alpha
            alpha[i] = transparent
    images = luma if alpha is None else _on_paper(path, luma, alpha)
    return _parts(path, [file.relative_to(path).parts for file in files], images)


def _files(path: Path) -> list[Path]:
    """The PNG files in a folder and below; refuses what else may hold images, rather than to leave it out unsaid."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    published = False

    def refuse(error: OSError) -> None:
        raise error

    with reading(path):
        for folder, folders, names in os.walk(path, onerror=refuse):
            # Hidden ones are no images: macOS leaves ._0.png, and __MACOSX in its zip files.
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            others["links to folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
            for name in names:
                suffix = os.path.splitext(name)[1].lower()
                if suffix == ".png" and not name.startswith("."):
                    found.append(Path(folder, name))
                elif suffix in _OTHER_PICTURES and not name.startswith("."):
                    others[suffix] += 1
                elif name.startswith(_PUBLISHED_FILES):
                    published = True
    if what := ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()) if count):
        fail(path, f"PNG files wanted, {what} in this folder or below: convert them, or move them away")
    if not found:
        way = "; for the published files in it say --data NAME and --data-dir FOLDER" if published else ""
        fail(path, f"no .png files in this folder or below{way}")
    return sorted(found)


def _parts(path: Path, names: list[tuple[str, ...]], images: Bytes) -> dict[str, Bytes]:
    """The images of each part, by the folder that they lie in."""
    folders = [name[0] if len(name) > 1 else "" for name in names]
    chosen = parts_of(path, dict.fromkeys(folders))
    if chosen.keys() <= {"train"}:
        return {"train": images}
    if "train" not in chosen or set(folders) != set(chosen.values()):
        others = ", ".join(sorted(set(folders) - set(chosen.values()))[:5]) or "images"
        fail(path, f"folders {', '.join(chosen.values())}, and {others} beside: only train, valid and test wanted")
    return {part: images[np.array(folders) == folder] for part, folder in chosen.items()}


def _on_paper(path: Path, luma: Bytes, alpha: Bytes) -> Bytes:
    """How far each pixel, laid on paper of the other end of the grey scale, is from that paper."""
    solid = [grey[opacity >= _OPAQUE] for grey, opacity in zip(luma, alpha, strict=True)]
    dark, bright = (any(test(grey).any() for grey in solid) for test in (lambda x: x < 128, lambda x: x >= 128))
    if dark and bright:
        fail(path, "transparent images with dark and bright colours: which is ink? Lay them on paper, without alpha")
    for grey, opacity in zip(luma, alpha, strict=True):
        contrast = (255 - grey if dark else grey).astype(np.uint16)
        grey[:] = (contrast * opacity + 127) // 255
    return luma


def _png_size(path: Path) -> tuple[int, int]:
    """Height and width, checked before Pillow sees the file."""
    with open_file(path) as file:
        head = file.read(_PNG_HEAD.size)
    if len(head) < _PNG_HEAD.size:
        fail(path, "cut short")
    magic, chunk, width, height = _PNG_HEAD.unpack(head)
    if (magic, chunk) != (b"\x89PNG\r\n\x1a\n", b"IHDR"):
        fail(path, "no PNG")
    check_size(path, 1, height, width)
    return height, width


def _read_png(path: Path, height: int, width: int) -> tuple[Bytes, Bytes | None]:
    """Luma and, where a pixel is not opaque, alpha [H, W]."""
    with cli_extra():
        from PIL import Image
    with open_file(path) as file:
        try:
            with Image.open(file, formats=["PNG"]) as image:
                mode, size = image.mode, image.size
                if getattr(image, "is_animated", False):
                    raise ValueError("animated, a single picture wanted")
                clear = mode in _ALPHA_MODES or "transparency" in image.info
                pixels = image.convert("RGBA" if clear else "L") if size == (width, height) else None
                luma = None if pixels is None else np.asarray(pixels.convert("L"))
                alpha = None if pixels is None or not clear else np.asarray(pixels.getchannel("A"))
        except Exception as error:  # Pillow raises whatever its decoders meet
            fail(path, f"damaged PNG, or none that can be read ({error})")
    if mode not in ("1", "L", "P", "RGB", *_ALPHA_MODES) or luma is None:
        fail(path, f"PNG of mode {mode} and size {size}; grey or colour of 8 bits wanted, convert it")
    return luma, None if alpha is None or (alpha == 255).all() else alpha
