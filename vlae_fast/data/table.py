"""Tables of numbers as text (CSV and its kin): one line an image, its pixels in columns, maybe a label beside them."""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlae_fast.checks import shown
from vlae_fast.data.files import MAX_UNPACKED_BYTES, Source
from vlae_fast.data.levels import ImageSize

__all__ = ["read_table"]

_LINE_BYTES = 2**24
"""Longest line."""
_BLOCK_BYTES = 2**22
"""Text that is turned into numbers at once."""
Array = NDArray[Any]


def read_table(source: Source, size: ImageSize | None) -> Array:
    """Rows of pixels [n, P], uint8 or float32, of lines of numbers with commas, semicolons, tabs or spaces between.

    In a first line of names those with a number are pixels. Without one, a column more than `size` has pixels is the
    label, first or last, if the other one of the two is 0 in all lines. Raises DataError.
    """
    lines = _lines(source)
    first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")  # what Excel writes in front
    separator = next((mark for mark in b";\t," if mark in first), None)  # a comma may be a decimal one
    mark = None if separator is None else chr(separator)
    names = [name.strip(" \"'") for name in first.decode("latin-1").split(mark)]
    named = _pixel_columns(source, names)
    columns = list(range(len(names))) if named is None else named
    pixels = len(columns) if size is None else size[0] * size[1]
    label = named is None and len(columns) == pixels + 1
    if not columns:
        source.fail(
            f"the first line, {shown(first.decode('latin-1'))}, is neither numbers nor names of columns, as in "
            "label,p1,p2,...: a line of numbers for each image wanted"
        )
    if len(columns) != pixels and not label:
        of = "" if size is None else f" for images of {size[0]}x{size[1]}"
        got = "are there" if named is None else "have a number in their name, and so are pixels"
        source.fail(f"{len(columns)} of {len(names)} columns {got}; {pixels} wanted{of}")
    rows = _numbers(source, lines if named is not None else chain([first], lines), mark, len(names), columns)
    if label:
        paper = [not rows[:, end].any() for end in (0, -1)]
        if paper[0] == paper[1]:
            source.fail(
                f"{len(columns)} columns, one more than pixels, first or last a label? "
                "Name them in a first line, as in label,p1,p2,..."
            )
        rows = rows[:, 1:] if paper[1] else rows[:, :-1]
    return rows


def _pixel_columns(source: Source, names: list[str]) -> list[int] | None:
    """The columns of pixels, those with a number in their name, in a first line of names; None where it has none."""
    numbers = [i for i, name in enumerate(names) if _is_number(name)]
    if numbers:  # pandas numbers what has no name
        counted = [names[i] for i in numbers] in ([str(i + start) for i in range(len(numbers))] for start in (0, 1))
        if counted and len(numbers) > 2:
            return numbers
        if len(numbers) < len(names):
            source.fail("the first line holds numbers and other text: name the columns in it, as in label,p1,p2,...")
        return None
    return [i for i, name in enumerate(names) if re.search(r"\d", name) and not name.lower().startswith("unnamed")]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _lines(source: Source) -> Iterator[bytes]:
    """The lines that are not empty, without their ends."""
    rest = b""
    for block in source.blocks(2**20):
        *lines, rest = (rest + block.tobytes()).split(b"\n")
        yield from filter(None, map(bytes.strip, lines))
        if len(rest) > _LINE_BYTES:
            source.fail(f"a line of more than {_LINE_BYTES} bytes")
    if rest.strip():
        yield rest.strip()


def _numbers(source: Source, lines: Iterator[bytes], mark: str | None, count: int, columns: list[int]) -> Array:
    """The numbers in these of the `count` columns: bytes, where all are whole numbers in 0..255."""
    found: list[Array] = []
    total = number = 0
    for text in _blocks(lines):
        for line in text:
            number += 1
            if (len(line.split()) if mark is None else line.count(mark) + 1) != count:
                source.fail(f"line {number} of numbers has not the {count} columns of the first line")
        try:
            rows = np.loadtxt(text, np.float32, comments=None, delimiter=mark, usecols=columns, ndmin=2, quotechar='"')
        except ValueError as error:
            source.fail(f"lines up to {number}: {str(error)[:100]}")
        whole = ((rows >= 0) & (rows <= 255) & (rows == np.rint(rows))).all()
        found.append(rows.astype(np.uint8) if whole else rows)
        total += rows.size
        if total * max(rows.itemsize for rows in found) > MAX_UNPACKED_BYTES:
            source.fail(f"more than {total} numbers, too many for a text: save them as .npy")
    if not found:
        source.fail("no line of numbers in it")
    return np.concatenate(found)


def _blocks(lines: Iterator[bytes]) -> Iterator[list[str]]:
    """Some lines at a time."""
    block: list[str] = []
    size = 0
    for line in lines:
        block.append(line.decode("latin-1"))
        size += len(line)
        if size > _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block
