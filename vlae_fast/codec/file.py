"""The file format; docs/codec.md has it on a page. Nothing read here is trusted."""

import zlib
from dataclasses import dataclass
from typing import NoReturn

__all__ = ["CodecError", "Header", "checksum", "pack_group", "read_digest", "read_header", "unpack_group", "write_file"]

MAGIC = b"V\xc6"
VERSION = 1
"""In the three high bits of the next byte."""
DIGEST_BYTES = 3
_FIXED = len(MAGIC) + 1 + DIGEST_BYTES
"""Bytes before the numbers."""
_CHECKSUM_BYTES = 3
MOST_IMAGES = 2**40
GROUP_PIXELS = 2**24
"""Of the images of a group at most: what a reader must hold in memory."""


class CodecError(ValueError):
    """What was read is no file of this format, not whole, not as it was written, or of another model."""


def fail(message: str) -> NoReturn:
    """Raises CodecError."""
    raise CodecError(f"data: {message}")


@dataclass(frozen=True)
class Header:
    """What stands before the groups."""

    digest: bytes
    """Of the model, DIGEST_BYTES of them."""
    bits: int
    """Of the number of a code where the file is lossy; 0: it is lossless."""
    count: int
    """Images."""
    group: int
    """Images of a group; the last one holds the rest."""
    ends: tuple[int, ...]
    """Where the groups end, bytes of the file."""
    start: int
    """Where the first one begins."""

    def images_of(self, group: int) -> int:
        """How many a group holds."""
        return min(self.group, self.count - group * self.group)

    def place_of(self, group: int) -> slice:
        """Its bytes."""
        return slice(self.ends[group - 1] if group else self.start, self.ends[group])


def write_file(digest: bytes, bits: int, count: int, group: int, groups: list[bytes]) -> bytes:
    """A whole file."""
    numbers = [count, group, *map(len, groups)] if count > group else [count, 0]
    return b"".join([MAGIC, bytes([VERSION << 5 | bits]), digest, *map(_varint, numbers), *groups])


def read_digest(data: bytes) -> bytes:
    """Of the model that wrote a file. Raises CodecError."""
    if data[: len(MAGIC)] != MAGIC:
        fail(f"no file of this format (it does not begin with the bytes {MAGIC.hex(' ')})")
    if len(data) < _FIXED:
        fail("cut short in its header")
    if data[len(MAGIC)] >> 5 != VERSION:
        fail(f"version {VERSION} of the format wanted, got {data[len(MAGIC)] >> 5}")
    return data[len(MAGIC) + 1 : _FIXED]


def read_header(data: bytes, pixels: int, most_bits: int) -> Header:
    """What a file says of itself, for images of so many pixels. Raises CodecError."""
    digest = read_digest(data)
    bits = data[len(MAGIC)] & 31
    if bits > most_bits:
        fail(f"damaged: codes of {bits} bits, at most {most_bits} wanted")
    count, place = _read_varint(data, _FIXED)
    group, place = _read_varint(data, place)
    one = group == 0
    if one:
        group = max(1, count)
    if count > MOST_IMAGES or group > max(1, GROUP_PIXELS // max(1, pixels)):
        fail(f"damaged: {count} images in groups of {group}")
    if one:
        return Header(digest, bits, count, group, (len(data),) if count else (), place)
    n_groups = -(-count // group)
    if n_groups > len(data):
        fail(f"damaged or cut short: {n_groups} groups in {len(data)} bytes")
    ends: list[int] = []
    for _ in range(n_groups):
        length, place = _read_varint(data, place)
        ends.append(length + (ends[-1] if ends else 0))
    if place + (ends[-1] if ends else 0) != len(data):
        fail(f"damaged or cut short: {place + (ends[-1] if ends else 0)} bytes wanted, got {len(data)}")
    return Header(digest, bits, count, group, tuple(place + end for end in ends), place)


def pack_group(content: bytes, stacks: list[bytes]) -> bytes:
    """Stacks behind the checksum of what they hold."""
    sizes = b"".join(_varint(len(stack)) for stack in stacks[:-1])
    return b"".join([checksum(content), sizes, *stacks])


def unpack_group(data: bytes, lanes: int) -> tuple[bytes, list[bytes]]:
    """The checksum, and so many stacks. Raises CodecError."""
    if len(data) < _CHECKSUM_BYTES:
        fail("damaged: a group without its checksum")
    sizes, place = [], _CHECKSUM_BYTES
    for _ in range(lanes - 1):
        size, place = _read_varint(data, place)
        sizes.append(size)
    rest = len(data) - place - sum(sizes)
    if rest < 0:
        fail("damaged: stacks of a group are longer than it")
    stacks = []
    for size in [*sizes, rest]:
        stacks.append(data[place : place + size])
        place += size
    return data[:_CHECKSUM_BYTES], stacks


def checksum(content: bytes) -> bytes:
    """The low bytes of the CRC-32."""
    return zlib.crc32(content).to_bytes(4, "little")[:_CHECKSUM_BYTES]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last are 128 and more."""
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number there, and where it ends. Raises CodecError."""
    number = 0
    for shift in range(0, 63, 7):
        if place >= len(data):
            fail("cut short")
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    fail("damaged: a number of more than nine bytes")
