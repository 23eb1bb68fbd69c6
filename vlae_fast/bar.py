"""Progress bars, and few lines instead where nobody looks."""

import sys
from typing import Any, TextIO

from vlae_fast.extra import cli_extra

with cli_extra():
    from tqdm import tqdm

__all__ = ["progress", "said"]

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


def said(text: str, stream: TextIO | None = None) -> None:
    """Writes what is no result to a stream (default: standard error); lost where that is on a full disk.

    Raises BrokenPipeError where nobody reads on.
    """
    stream = stream or sys.stderr
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError:
        pass


class _Lines:
    """What tqdm writes to move about in a line becomes lines; a full disk behind them is no reason to stop."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            said(f"{line}\n")

    def flush(self) -> None:
        said("")
