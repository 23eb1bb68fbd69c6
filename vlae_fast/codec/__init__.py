"""Images as bits, by a model: lossless (about -ELBO bits an image), or the lossy code alone.

A file is read wherever the model is: every processor computes the same bits here (`native.plain_arithmetic`).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import noise
from vlae_fast.checks import NonFiniteError, flag, function, instance, whole
from vlae_fast.codec.ans import Coders
from vlae_fast.codec.exact import Exact
from vlae_fast.codec.file import (
    DIGEST_BYTES,
    GROUP_PIXELS,
    CodecError,
    Header,
    checksum,
    fail,
    pack_group,
    read_digest,
    read_header,
    unpack_group,
    write_file,
)
from vlae_fast.codec.kept import blocks
from vlae_fast.codec.lossless import lanes_of, pop_images, push_images, room
from vlae_fast.codec.lossy import MOST_BITS, picked, pop_numbers, push_numbers
from vlae_fast.config import VLAEConfig
from vlae_fast.inputs import check_images
from vlae_fast.model import VLAE
from vlae_fast.report import Report, part_of, silent

__all__ = ["CodecError", "Header", "codes", "compress", "decompress", "digest", "digest_in", "header"]

GROUP = 16384
"""Images of a group where nobody says how many."""
LOSSY_BITS = 20
"""Bits of the number of a code where nobody says how many."""


def compress(
    model: VLAE,
    images: Tensor,
    *,
    lossy: bool = False,
    bits: int | None = None,
    group: int | None = None,
    seed: int | None = None,
    report: Report = silent,
) -> bytes:
    """Binary images [N, 1, H, W] as bytes that `decompress` turns into the same images, or into images like them.

    lossy: of each image only its code is kept, as the number of one of the 2**bits codes that every machine draws from
    the prior (`bits` is 20, `seed`, that of the choice, 0 where they are None); the texture is drawn anew when it is
    decompressed. Else what the PixelCNN adds is kept too, at -ELBO bits an image (bits back). A reader may begin at
    every `group` of images, by default 16,384 of 28x28 pixels; each costs about 100 bits. report(done, total) is called
    now and then.

    The model is on the CPU, in float32, with a PixelCNN, a Gaussian posterior and a flow that does not scale. Raises
    TypeError or ValueError where it is not, for images that `model.elbo` refuses, for bits or a seed where nothing is
    lossy, and where a model without a code is to be lossy.
    """
    lossy = flag("lossy", lossy)
    for name, value in (("bits", bits), ("seed", seed)):
        if value is not None and not lossy:
            raise ValueError(f"{name}: wanted only where lossy is, as a lossless file has no use for it")
    exact = Exact(model)
    check_images(images, next(model.parameters()), model.config)
    images = images.contiguous()
    most = max(1, GROUP_PIXELS // max(1, model.config.height * model.config.width))
    group = min(GROUP, most) if group is None else whole("group", group, 1, most)
    bits = LOSSY_BITS if bits is None else whole("bits", bits, 1, MOST_BITS)
    seed = 0 if seed is None else whole("seed", seed, most=2**63 - 1)
    function("report", report)
    if lossy and exact.D == 0:
        raise ValueError(f"lossy: this model has no latent code (it is {model.config.conditioning!r})")
    groups = []
    with exact.arithmetic():
        for start in range(0, len(images), group):
            part = images[start : start + group]
            told = part_of(report, start, len(part), len(images))
            groups.append(_lossy_group(exact, part, bits, seed, told) if lossy else _lossless_group(exact, part, told))
    return write_file(digest(model), bits if lossy else 0, len(images), group, groups)


def decompress(
    model: VLAE,
    data: bytes | bytearray | memoryview,
    *,
    first: int = 0,
    count: int | None = None,
    seed: int = 0,
    report: Report = silent,
) -> Tensor:
    """Images first..first+count-1 (default: to the last), float32 [count, 1, H, W], of what `compress` made.

    Only the groups that hold them are read. Where the file is lossy `seed` draws their texture; that of image i depends
    on (seed, i) alone. Raises CodecError (a ValueError) for data that are damaged, not whole or of another model, and
    what `compress` raises for the model.
    """
    data = _bytes(data)
    exact, found = _opened(model, data)
    first = whole("first", first, 0, found.count)
    count = found.count - first if count is None else whole("count", count, 0, found.count - first)
    seed = whole("seed", seed)
    function("report", report)
    images = [next(model.parameters()).new_empty(0, 1, model.config.height, model.config.width)]
    groups = range(first // found.group, -(-(first + count) // found.group)) if count else range(0)
    with exact.arithmetic():
        for i in groups:
            start = i * found.group
            wanted = range(max(0, first - start), min(found.images_of(i), first + count - start))
            told = part_of(report, start + wanted.start - first, len(wanted), count)
            try:
                part = _read_group(exact, data[found.place_of(i)], found, i, seed, told)
            except NonFiniteError:  # of codes that nobody pushed
                fail(f"damaged or cut short, in group {i}")
            images.append(part[wanted.start : wanted.stop])
    return torch.cat(images)


def codes(model: VLAE, data: bytes | bytearray | memoryview) -> Tensor:
    """Codes z [N, D] of a lossy file, for `model.decode`. Raises as `decompress`; ValueError where it is lossless."""
    data = _bytes(data)
    exact, found = _opened(model, data)
    if not found.bits:
        raise ValueError("data: a lossy file wanted, got a lossless one")
    with exact.arithmetic():
        numbers = [_read_numbers(data[found.place_of(i)], found, i) for i in range(len(found.ends))]
        return torch.from_numpy(exact.listed(np.concatenate([np.empty(0, np.int64), *numbers]))[0])


def header(model: VLAE, data: bytes | bytearray | memoryview) -> Header:
    """What a file says of itself. Raises CodecError where it cannot be one."""
    c = instance("model", model, VLAE).config
    return read_header(_bytes(data), c.height * c.width, MOST_BITS)


def digest_in(data: bytes | bytearray | memoryview) -> bytes:
    """The digest of the model that wrote a file. Raises CodecError where it cannot be one."""
    return read_digest(_bytes(data))


def digest(model: VLAE) -> bytes:
    """Tells models apart: the start of the sha256 of configuration and weights."""
    return _sha256(model)[:DIGEST_BYTES]


def _sha256(model: VLAE) -> bytes:
    """Of configuration and weights.

    Of the configuration what is not as usual, so that a file stays readable when a version brings new fields.
    """
    fields, usual = (_flat(asdict(config)) for config in (model.config, VLAEConfig()))
    unusual = {name: value for name, value in fields.items() if value != usual.get(name)}
    hashed = hashlib.sha256(json.dumps(unusual, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(tensor.numpy(force=True)).data)
    return hashed.digest()


def _flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Fields of fields under names with dots."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat


def _bytes(data: Any) -> bytes:
    """Of a file. Raises TypeError."""
    return bytes(data if isinstance(data, (bytearray, memoryview)) else instance("data", data, bytes))


def _opened(model: VLAE, data: bytes) -> tuple[Exact, Header]:
    """The model, and what a file says of itself. Raises CodecError where they do not go together."""
    exact, found = Exact(model), header(model, data)
    if found.digest != digest(model):
        fail(f"written with another model, of digest {found.digest.hex()}; this one's is {digest(model).hex()}")
    if found.bits and exact.D == 0:
        fail("damaged: lossy, by a model without a code")
    return exact, found


def _lossless_group(exact: Exact, images: Tensor, report: Report) -> bytes:
    return pack_group(_bits_of(images), push_images(exact, images, report).to_bytes())


def _lossy_group(exact: Exact, images: Tensor, bits: int, seed: int, report: Report) -> bytes:
    listed = blocks(exact, _sha256(exact.model), bits)
    numbers, coder = picked(listed, 1 << bits, *exact.moments(images), seed, report), Coders(1)
    for _ in _contexts(exact, numbers):  # NonFiniteError now rather than to whoever reads
        pass
    push_numbers(coder, numbers, bits)
    return pack_group(numbers.astype("<u4").tobytes(), coder.to_bytes())


def _read_group(exact: Exact, data: bytes, found: Header, i: int, seed: int, report: Report) -> Tensor:
    if found.bits:
        return _redrawn(exact, _read_numbers(data, found, i), i * found.group, seed, report)
    count = found.images_of(i)
    lanes = lanes_of(count)
    wanted, coders = _stacks(data, lanes, -(-count // lanes) * room(exact), i)
    images = pop_images(exact, coders, count, report)
    _check(coders, _bits_of(images), wanted, i)
    return images


def _read_numbers(data: bytes, found: Header, i: int) -> Any:
    count = found.images_of(i)
    wanted, coder = _stacks(data, 1, 2 * count, i)
    numbers = pop_numbers(coder, count, found.bits)
    _check(coder, numbers.astype("<u4").tobytes(), wanted, i)
    return numbers


def _stacks(data: bytes, lanes: int, most_words: int, i: int) -> tuple[bytes, Coders]:
    """Checksum and coders of a group; no stack is longer than images make it. Raises CodecError."""
    wanted, stacks = unpack_group(data, lanes)
    if max(map(len, stacks)) > 4 * most_words + 8:
        fail(f"damaged or cut short, in group {i}")
    try:
        return wanted, Coders.from_bytes(stacks)
    except ValueError:
        fail(f"damaged or cut short, in group {i}")


def _check(coders: Coders, content: bytes, wanted: bytes, i: int) -> None:
    """Raises CodecError where the coders do not end empty, or with another content."""
    if coders.state.any() or coders.words.any() or checksum(content) != wanted:
        fail(f"damaged or cut short, in group {i}")


def _redrawn(exact: Exact, numbers: Any, first: int, seed: int, report: Report) -> Tensor:
    """Images from p(x|z) for listed codes."""
    model, images = exact.model, []
    for start, context in _contexts(exact, numbers):
        _, uniforms, _ = model._noise(seed, noise.RECONSTRUCTION, first + start, len(context), exact.D)
        images.append(model._draw(context, uniforms, 1.0, None))
        report(start + len(context), len(numbers))
    return torch.cat(images)


def _contexts(exact: Exact, numbers: Any) -> Iterator[tuple[int, Tensor]]:
    """What the PixelCNN is told of listed codes, some at a time. Raises NonFiniteError for a model of huge weights."""
    for start in range(0, len(numbers), exact.model.chunk):
        z, _ = exact.listed(numbers[start : start + exact.model.chunk])
        yield start, exact.context(z, len(z))


def _bits_of(images: Tensor) -> bytes:
    """Eight pixels a byte: what the checksum is of."""
    return np.packbits(images.numpy().astype(bool)).tobytes()
