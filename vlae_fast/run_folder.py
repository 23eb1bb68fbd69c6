"""The folder of a training: config, state, metrics. Whatever is killed or fails, one good state stays there."""

import dataclasses
import fcntl
import json
import math
import reprlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlae_fast import checkpoint
from vlae_fast.checkpoint import CheckpointError

__all__ = ["Progress", "Row", "RunFolder"]

Row = dict[str, Any]

MAX_METRICS_BYTES = 1 << 26
"""Longest metrics.jsonl that is read: a quarter of a million validations."""
PLOTTED = ("epoch", "train_negative_elbo_nats", "train_kl_nats", "valid_negative_elbo_nats", "valid_kl_nats")
"""What every line of metrics.jsonl holds beside its step."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = 200


@dataclass
class Progress:
    """What changes during a training beside tensors; written with them."""

    step: int = 0
    seconds: float = 0.0
    """Time spent in training steps, over all resumptions."""
    kl_weight: float = 1.0
    """gamma of soft free bits."""
    best_nats: float = float("inf")
    """Lowest validation negative ELBO so far, that of model.safetensors."""

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """What a state's metadata hold. Raises ValueError."""
        values = json.loads(text)
        defaults = dataclasses.asdict(cls())
        if not isinstance(values, dict) or values.keys() != defaults.keys():
            raise ValueError("other fields")
        if any(
            type(values[name]) is not type(default) or math.isnan(values[name]) for name, default in defaults.items()
        ):
            raise ValueError("a value of another type")
        in_range = 0 <= values["step"] < 2**63 and 0 <= values["seconds"] < math.inf and 0 < values["kl_weight"] <= 1
        if not in_range or math.isnan(values["best_nats"]):
            raise ValueError("a value out of its range")
        return cls(**values)


class RunFolder:
    """A run folder of this config: claimed if it is new or empty of runs, else found to be the same run.

    Raises CheckpointError, nothing written, where it holds a run with another config or cannot be used.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.state = path / "state.safetensors"
        self.previous = path / "state.previous.safetensors"
        self._new = path / "state.new.safetensors"
        mine = json.loads(json.dumps(config))  # tuples become lists
        file = path / "config.json"
        if not file.is_symlink() and not file.exists():
            checkpoint.write_json(file, mine)
        theirs = checkpoint.read_json(file)
        if theirs != mine:
            raise CheckpointError(
                f"{path}: holds a run with another config ({_difference('config', theirs, mine)}); "
                "choose another folder, or the same options to resume it"
            )
        with self.locked():
            checkpoint.remove_stale(path)
            self._new.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from training in this folder. Raises CheckpointError where another one does."""
        with (self.path / "config.json").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointError(f"{self.path}: another training runs in this folder") from None
            except OSError:  # a file system without locks
                pass
            yield

    # --- state --------------------------------------------------------------------------------------------------

    def has_state(self) -> bool:
        """Whether there is something to resume."""
        return self.state.exists() or self.previous.exists()

    def save_state(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the whole state, reads it back, and only then lets it take the place of the one before.

        That one is kept as state.previous.safetensors. Raises CheckpointError; the states there stay as they are.
        """
        try:
            checkpoint.write_tensors(self._new, tensors, {"progress": json.dumps(dataclasses.asdict(progress))})
            checkpoint.read_tensors(self._new, tensors)
            if self.state.exists():
                self.state.replace(self.previous)
            self._new.replace(self.state)
        except OSError as error:
            raise CheckpointError(f"{self.state}: cannot be written ({error.strerror})") from None
        finally:
            self._new.unlink(missing_ok=True)

    def load_state(self, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Progress]:
        """The newest state that is whole; says so where that is not the newest one.

        Raises CheckpointError where there is none.
        """
        try:
            return self._read_state(self.state, wanted)
        except CheckpointError as error:
            if not self.previous.exists():
                raise
            found = self._read_state(self.previous, wanted)
            if self.state.exists():  # else a kill came between the two renamings
                print(f"{error}; going on from {self.previous.name}, step {found[1].step}", file=sys.stderr)
            self.previous.replace(self.state)  # the next save must not push the whole state out by the damaged one
            return found

    def _read_state(self, path: Path, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Progress]:
        tensors, metadata = checkpoint.read_tensors(path, wanted)
        try:
            return tensors, Progress.from_json(metadata["progress"])
        except (KeyError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: no progress of a training in its metadata ({error})") from None

    # --- metrics ------------------------------------------------------------------------------------------------

    def append_metrics(self, row: Row) -> list[Row]:
        """Adds a line to metrics.jsonl; returns all lines."""
        rows = [*self.metrics(), row]
        self._write_metrics(rows)
        return rows

    def metrics(self) -> list[Row]:
        """The lines of metrics.jsonl. Raises CheckpointError where one of them is not what a training writes."""
        path = self.path / "metrics.jsonl"
        if not path.is_symlink() and not path.exists():
            return []
        rows = []
        for number, line in enumerate(checkpoint.read_file(path, MAX_METRICS_BYTES).splitlines(), 1):
            try:
                row = json.loads(line)
                whole = type(row["step"]) is int and all(type(row[name]) in (int, float) for name in PLOTTED)
            except (ValueError, KeyError, TypeError, RecursionError):
                whole = False
            if not whole:
                raise CheckpointError(f"{path}: line {number}: no metrics of a training; mend the file or remove it")
            rows.append(row)
        return rows

    def drop_metrics_after(self, step: int) -> None:
        """Removes the lines of steps that will be done again."""
        rows = self.metrics()
        kept = [row for row in rows if row["step"] <= step]
        if len(kept) < len(rows):
            self._write_metrics(kept)

    def _write_metrics(self, rows: list[Row]) -> None:
        checkpoint.write_file(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def _difference(name: str, there: Any, here: Any) -> str:
    """The first value that differs between two JSON contents."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(f"{name}.{key}", there.get(key), here.get(key))
    return f"{name}: {_SHORT.repr(there)} there, {_SHORT.repr(here)} here"
