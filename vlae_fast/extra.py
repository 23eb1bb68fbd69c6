"""The extra `cli`: the packages that only the command line, trainings and pictures need."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["cli_extra"]


@contextmanager
def cli_extra() -> Iterator[None]:
    """Around imports: raises a ModuleNotFoundError of one line that names the extra where a package is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        mend = "install vlae_fast with its extra cli (pip install '.[cli]')"
        raise ModuleNotFoundError(f"{error.name} is not installed: {mend}", name=error.name) from None
