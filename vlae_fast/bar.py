"""Progress bars, and few lines instead where nobody looks."""

import sys
from typing import Any

from vlae_fast.extra import cli_extra

with cli_extra():
    from tqdm import tqdm

__all__ = ["progress"]

LOG_SECONDS = 60
"""Seconds between two lines where standard error is no terminal."""


def progress(*, quiet: bool = False, **options: Any) -> Any:
    """A tqdm with these options on standard error: a bar on a terminal, else a line now and then; nothing if quiet."""
    if quiet or sys.stderr is None:
        return tqdm(disable=True, **options)
    if sys.stderr.isatty():
        return tqdm(**options)
    every = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "miniters": 1}
    return tqdm(file=_Lines(), ncols=100, **every, **options)


class _Lines:
    """What tqdm writes to move about in a line becomes lines."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()
