"""How long calls tell how far they are."""

from collections.abc import Callable

__all__ = ["Report", "part_of", "silent"]

Report = Callable[[int, int], None]
"""Is told now and then how many images are done, and of how many."""


def part_of(report: Report, first: int, count: int, total: int) -> Report:
    """Of a part's work, in any unit: tells as far as it is with `count` images of `total`, behind `first` others."""
    return lambda done, of: report(first + count * done // of, total)


def silent(done: int, total: int) -> None:
    """The Report that nobody reads."""
