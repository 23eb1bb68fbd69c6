"""How long calls tell how far they are."""

from collections.abc import Callable

__all__ = ["Report", "silent"]

Report = Callable[[int, int], None]
"""Is told now and then how many images are done, and of how many."""


def silent(done: int, total: int) -> None:
    """The Report that nobody reads."""
