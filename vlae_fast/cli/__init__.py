"""The command line: `vlae-fast train | evaluate | sample | reconstruct | compress | decompress | explore | data |
info`; `vlae-fast --version`.

Exit status: 0, 2 for bad input, 1 for a failure, 130 where Ctrl-C, a signal or the end of the pipe behind it stopped it
(the state of a training is saved).
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any, NoReturn

from vlae_fast import pretrained
from vlae_fast.cli.codec import Compress, Decompress
from vlae_fast.cli.draw import Reconstruct, Sample
from vlae_fast.cli.evaluate import Evaluate
from vlae_fast.cli.explore import Explore
from vlae_fast.cli.info import Data, Info
from vlae_fast.cli.train import Train
from vlae_fast.config import VLAEConfig
from vlae_fast.distributed import LostError, launched
from vlae_fast.extra import cli_extra
from vlae_fast.run_folder import configs_of
from vlae_fast.train import DivergedError, UnsavedError

with cli_extra():
    import tyro
    from tyro.conf import subcommand

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `2>&-`: a file of ours must not get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):  # a name that it cannot write is no failure
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings(), _interrupted_by_signals():
        warnings.showwarning = lambda message, *_: _complain(f"warning: {message}")
        status = _status(sys.argv[1:] if argv is None else argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        unheard = _unheard(error)
        status = status or unheard
    return status


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """What ends a process acts as Ctrl-C does: nothing half-written stays. torchrun's processes die at once, as else
    one of them might wait for those that have.
    """
    previous: dict[int, Any] = {}

    def handler(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        if threading.current_thread() is threading.main_thread() and not launched():
            for number in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
                if signal.getsignal(number) == signal.SIG_DFL:
                    previous[number] = signal.signal(number, handler)
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _status(argv: list[str]) -> int:
    try:
        argv = [_expanded(argument, flag) for flag, argument in zip(["", *argv], argv, strict=False)]
        early = _Early(prog="vlae-fast", add_help=False, allow_abbrev=False)
        early.add_argument("--preset")
        early.add_argument("--start-from")
        given = early.parse_known_args(argv)[0]
        command = _parsed(argv, Train(model=VLAEConfig.preset(given.preset or "paper")))
        if isinstance(command, Train):  # now that the folder is known, its options stand in for those not given
            command = _parsed(argv, _defaults(command.folder, given.preset, given.start_from))
        status: int = command()
        return status
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            return _unheard(error)
        _complain(error)
        return 2
    except (DivergedError, LostError, UnsavedError) as error:
        _complain(error)
        return 1


class _Early(argparse.ArgumentParser):
    """Looks at what decides about the defaults of all else."""

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{message}; see --help")


def _unheard(error: OSError) -> int:
    """The exit status where standard output takes no more: nobody reads on, or its disk is full."""
    gone = isinstance(error, BrokenPipeError)
    if not gone:
        _complain(f"standard output: cannot be written ({error.strerror or error})")
    _drop_output()
    return 130 if gone else 1


def _complain(error: Exception | str) -> None:
    try:
        print(f"vlae-fast: {' '.join(str(error).split())}", file=sys.stderr, flush=True)  # names may hold line feeds
    except OSError:
        _drop_output()


def _drop_output() -> None:
    """Or Python would try to write what is left as it ends, and exit with status 120."""
    with open(os.devnull, "wb") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)


def _parsed(argv: list[str], train: Train) -> Any:
    """The command of these arguments; `train` holds the defaults of that one."""
    commands = (
        Annotated[Train, subcommand("train", default=train)]
        | Annotated[Evaluate, subcommand("evaluate")]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Reconstruct, subcommand("reconstruct")]
        | Annotated[Compress, subcommand("compress")]
        | Annotated[Decompress, subcommand("decompress")]
        | Annotated[Explore, subcommand("explore")]
        | Annotated[Data, subcommand("data")]
        | Annotated[Info, subcommand("info")]
    )
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # all that tyro looks at
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(commands, prog="vlae-fast", description=__doc__, args=argv)
    except SystemExit as error:
        if not error.code:  # after --help
            raise
        raise ValueError(_unboxed(said.getvalue())) from None


def _unboxed(text: str) -> str:
    """What tyro says first in a box, in a line like all other errors; without its stand-in for a name that is empty.

    Where the output is not UTF-8, the box is a line of - below the title and one after each part.
    """

    def empty(line: str) -> bool:
        return not line.strip("-")

    title, *lines = [line.strip("╭╮╰╯│─ ") for line in text.splitlines()]
    said = " ".join(takewhile(lambda line: not empty(line), dropwhile(empty, lines))).rstrip(" .")
    said = said.removeprefix(f"{title}: ")
    return f"{title}: {said}; see --help".replace("__tyro-dummy-inner__.", "")


def _defaults(folder: Path, preset: str | None, start_from: str | None) -> Train:
    """What a training does where no flag says otherwise: as the run in its folder, if there is one."""
    train, there = Train(), configs_of(folder)
    if there is not None:
        train.model, train.training = there
    elif start_from:
        train.model = pretrained.config_of(pretrained.folder_of(start_from))
    if preset is not None:
        train.model = replace(VLAEConfig.preset(preset))
    return train


def _expanded(argument: str, before: str) -> str:
    """`--out=~/x` as a shell expands `--out ~/x`; `before` it may stand a flag.

    Raises ValueError where it is empty: . is not meant.
    """
    flag, equals, value = argument.partition("=")
    if argument == "" or (equals and value == "" and flag.startswith("--")):
        named = flag or (before if before.startswith("--") else "")
        raise ValueError(f"{named.lstrip('-') or 'an argument'}: it is empty; was a variable never set?")
    return flag + equals + os.path.expanduser(value) if flag.startswith("--") else argument
