"""A training and the outside: its progress bar and lines, and the signals that end it."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vlae_fast.bar import progress
from vlae_fast.extra import cli_extra

with cli_extra():
    from tqdm import tqdm

__all__ = ["Bar", "stop_on_signal"]

INSISTENT = ("SIGINT", "SIGTERM")
"""Ctrl-C and kill."""
ENDING = (*INSISTENT, "SIGHUP", "SIGUSR1")
"""These, a closed terminal, and what a batch system sends before its time limit; not every system has them all."""


class Bar:
    """`progress` on standard error and lines on standard output.

    Writing never fails: where nobody reads any more, as after `| head -1`, `gone` becomes true.
    """

    def __init__(self, **options: Any) -> None:
        self.gone = False
        """Whether somebody read this output and has stopped."""
        self._tqdm: Any = None  # carries no types
        self._guarded(lambda: setattr(self, "_tqdm", progress(**options)))

    def update(self, by: float, figures: dict[str, str]) -> None:
        """Moves on, no further than its total, and shows figures beside the bar."""
        bar = self._tqdm
        if bar is not None:
            bar.set_postfix(figures, refresh=False)
            self._guarded(lambda: bar.update(by if bar.total is None else min(by, bar.total - bar.n)))

    def write(self, line: str) -> None:
        """Prints a line above the bar."""
        if sys.stdout is not None:
            self._guarded(lambda: (tqdm.write(line), sys.stdout.flush()))

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._tqdm is not None:
            self._guarded(self._tqdm.close)

    def _guarded(self, write: Callable[[], Any]) -> None:
        if not self.gone:
            try:
                write()
            except BrokenPipeError:
                self.gone = True
            except OSError:  # a full disk, a closed terminal: the training can do without
                pass


@contextmanager
def stop_on_signal(*, insistent: bool = True) -> Iterator[list[int]]:
    """Collects the signals of ENDING in a list instead of dying of them; a second Ctrl-C or kill acts as usual.

    Not so where they are not `insistent`: torchrun passes on the Ctrl-C that a terminal has sent to all processes. A
    signal that is ignored (`nohup`) stays so. Python lets only its main thread have handlers: elsewhere the list stays
    empty.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        if insistent and signal.Signals(number).name in INSISTENT:  # a terminal that closes sends SIGHUP more than once
            signal.signal(number, previous[number])

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    previous[number] = signal.signal(number, handler)
        yield received
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
