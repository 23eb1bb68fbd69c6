"""Progress bars, and few lines instead where nobody looks."""

import sys
from typing import Any, TextIO

from vlae_fast.extra import cli_extra

with cli_extra():
    from tqdm import tqdm

__all__ = ["progress", "said"]

LOG_SECONDS = 60
"""Seconds between two lines where standard error is no terminal."""


class _Bar(tqdm):  # type: ignore[misc,unused-ignore]
    """tqdm keeps its lock for good where its output fails within `refresh`; then bars of other threads would wait."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
        if nolock:
            return super().refresh(nolock=True)
        with self.get_lock():
            return super().refresh(nolock=True)


def progress(*, quiet: bool = False, **options: Any) -> Any:
    """A tqdm with these options on standard error: a bar on a terminal, else a line now and then; nothing if quiet."""
    if quiet or sys.stderr is None:
        return _Bar(disable=True, **options)
    if sys.stderr.isatty():
        return _Bar(**options)
    every = {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "miniters": 1}
    return _Bar(file=_Lines(), ncols=100, **every, **options)


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
