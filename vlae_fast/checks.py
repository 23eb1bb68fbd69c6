"""Numbers as people hand them over, Python's, numpy's or torch's, and what every body says of NaN."""

import math
import operator
from typing import Any

__all__ = ["NonFiniteError", "real", "whole"]


class NonFiniteError(ValueError):
    """NaN or infinity where finite values are wanted; the message names the argument."""


def whole(name: str, value: Any, least: int = 0, most: int = 2**64 - 1) -> int:
    """`value` as an int: anything that is a whole number (`operator.index`), but no bool.

    Raises TypeError (no whole number) or ValueError (not in least..most) that names the argument.
    """
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):  # torch: "only integer tensors of a single element can be converted to an index"
        raise TypeError(f"{name}: a whole number wanted, got {value!r}") from None
    if not least <= number <= most:
        bounds = "0..2**64-1" if (least, most) == (0, 2**64 - 1) else f"{least}..{most}"
        raise ValueError(f"{name}: a whole number in {bounds} wanted, got {number}")
    return number


def real(name: str, value: Any, *, positive: bool = False) -> float:
    """`value` as a finite float: a number of Python, numpy or torch, but no text and no bool.

    Raises TypeError (no number) or ValueError (not finite, or not > 0 where `positive`) that names the argument.
    """
    try:
        if isinstance(value, (bool, str, bytes)) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        number = float(value)
    except OverflowError:  # an int beyond the largest float
        number = math.inf
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: a number wanted, got {value!r}") from None
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{name}: a {'positive' if positive else 'finite'} number wanted, got {number}")
    return number
