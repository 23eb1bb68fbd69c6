"""Which contenders run at which sizes."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

Size = dict[str, int]
Choice = Callable[[str, Size], bool]
"""Of a contender and a size."""


def name(size: Size) -> str:
    """As in `N=16 image=28`."""
    return " ".join(f"{axis}={value}" for axis, value in size.items())


def cases(
    contenders: Iterable[str],
    base: Size,
    axes: Mapping[str, tuple[int, ...]],
    quick: Choice,
    runs: Choice = lambda contender, size: True,
) -> Any:
    """Decorator with the parameters (size, contender): every axis grows alone, the others stay as in `base`.

    `quick` says what is part of `make bench`, `runs` what is part of `make bench-all`. To compile one contender takes
    torch about ten seconds, so few of them are quick.
    """
    sizes = {name(size): size for axis, values in axes.items() for size in (base | {axis: v} for v in values)}
    return pytest.mark.parametrize(
        ("size", "contender"),
        [
            pytest.param(size, contender, id=f"{label} {contender}", marks=[pytest.mark.quick] * quick(contender, size))
            for label, size in sizes.items()
            for contender in contenders
            if runs(contender, size)
        ],
    )
