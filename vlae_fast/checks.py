"""Numbers and paths as people hand them over, and what every body says of NaN."""

import math
import operator
import os
import re
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = ["NonFiniteError", "choice", "flag", "function", "instance", "path", "real", "shown", "text", "whole"]

T = TypeVar("T")


class NonFiniteError(ValueError):
    """NaN or infinity where finite values are wanted; the message names the argument."""


def shown(value: Any) -> str:
    """`value` as it stands in a message: in one line, however large it is."""
    if isinstance(value, int) and value.bit_length() > 128:  # Python refuses to write down the largest ones
        return f"a number of {value.bit_length()} bits"
    return " ".join(_SHORT.repr(value).split())


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


def instance(name: str, value: Any, kind: type[T]) -> T:
    """`value`, which must be of this class. Raises TypeError that names the argument."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: {kind.__name__} wanted, got {type(value).__name__}")
    return value


def function(name: str, value: Any) -> None:
    """Raises TypeError that names the argument where `value` cannot be called."""
    if not callable(value):
        raise TypeError(f"{name}: a function wanted, got {shown(value)}")


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value`, which must be one of these texts. Raises ValueError that names the argument."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name}: one of {', '.join(choices)} wanted, got {shown(value)}")
    return value


def flag(name: str, value: Any) -> bool:
    """`value` as a bool: true or false of Python or numpy. Raises TypeError that names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: true or false wanted, got {shown(value)}")
    return bool(value)


def text(name: str, value: Any) -> str:
    """`value`, a text that UTF-8 can write. Raises TypeError or ValueError that names the argument."""
    if re.search("[\ud800-\udfff]", instance(name, value, str)):
        raise ValueError(f"{name}: a text without lone surrogates wanted, got {shown(value)}")
    return value


def path(name: str, value: Any) -> Path:
    """`value`, a text or a path, as a path; ~ is a home folder. Raises TypeError or ValueError that names the argument.

    An empty text is refused: the variable that it came from was never set, and the current folder is not meant. So is
    what no file can be called.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(f"{name}: a path wanted, got {shown(value)}")
    if not text or "\0" in text:
        raise ValueError(f"{name}: a path, not empty and without NUL, wanted, got {shown(text)}")
    if not _fits_a_file(text):
        raise ValueError(f"{name}: a path of at most 4095 bytes, 255 a name, wanted, got {shown(text)}")
    return Path(os.path.expanduser(text))


def _fits_a_file(text: str) -> bool:
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return len(encoded) <= 4095 and max(map(len, encoded.split(b"/"))) <= 255


def whole(name: str, value: Any, least: int = 0, most: int = 2**64 - 1) -> int:
    """`value` as an int: anything that is a whole number (`operator.index`), but no bool.

    Raises TypeError (no whole number) or ValueError (not in least..most) that names the argument.
    """
    number = value if type(value) is int else _index(name, value)  # an int of torch.compile is let through as it is
    if not least <= number <= most:
        bounds = f"{least}..2**64-1" if most == 2**64 - 1 else f"{least}..{most}"
        raise ValueError(f"{name}: a whole number in {bounds} wanted, got {shown(number)}")
    return number


def _index(name: str, value: Any) -> int:
    try:
        if _is_bool(value):
            raise TypeError
        return operator.index(value)
    except (TypeError, RuntimeError):  # torch: "only integer tensors of a single element can be converted to an index"
        raise TypeError(f"{name}: a whole number wanted, got {shown(value)}") from None


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite float: a number of Python, numpy or torch, but no text and no bool.

    Raises TypeError (no number) or ValueError (not finite, or not > 0 where `positive`) that names the argument.
    """
    number = value if type(value) is float else _float(name, value)
    if not abs(number) <= sys.float_info.max or (positive and number <= 0):  # no math.isfinite in torch.compile
        wanted = "positive" if positive else "finite"
        raise ValueError(f"{name}: a {wanted} number wanted, got {shown(value)}")
    return number


def _float(name: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)) or _is_bool(value):
            raise TypeError
        return float(value)
    except OverflowError:  # an int beyond the largest float
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: a number wanted, got {shown(value)}") from None


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
