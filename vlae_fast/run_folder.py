"""The folder of a training: config, state, metrics. Whatever is killed or fails, one good state stays there."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlae_fast import checkpoint, checks, pretrained
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.config import TrainConfig, VLAEConfig, from_dict, of_this_version
from vlae_fast.data import Dataset
from vlae_fast.folder_lock import FolderLock

__all__ = ["Progress", "Row", "RunFolder", "check_new_folder", "check_output", "configs_of"]

Row = dict[str, Any]

MAX_METRICS_BYTES = 1 << 26
"""Longest metrics.jsonl that is read: a quarter of a million validations."""
PLOTTED = ("epoch", "train_negative_elbo_nats", "train_kl_nats", "valid_negative_elbo_nats", "valid_kl_nats")
"""What every line of metrics.jsonl holds beside its step."""

_OWN = re.compile(
    r"(config\.json|model\.safetensors|state(\.\w+)?\.safetensors|evaluation-\w+\.safetensors|metrics\.jsonl"
    r"|(curves|samples|data)\.png)"
)
"""Files of a run folder."""
_BEGINNING = {"config.json", "data.png"}
"""Those of a run that was killed before it had anything to lose."""
FREE = {"data", "data_dir", "data_order", "image_size", "checkpoint_minutes", "validation_epochs"}
"""Options of a training that may change when it goes on; a digest tells whether the data are the same."""

_FIRST_FIELDS = {"step", "seconds", "kl_weight", "best_nats"}
"""Of Progress, those that states of every version hold."""

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
    gradient_norm: float = 0.0
    """Running mean of the gradient's norm; 0: none yet."""
    skipped_steps: int = 0
    """Steps that gave NaN or infinity and changed nothing."""
    clipped_steps: int = 0
    """Steps whose gradient was scaled down."""
    train_images: int = 0
    """Images trained on since the last line of metrics.jsonl, and their sums in nats:"""
    train_negative_elbo_nats: float = 0.0
    train_kl_nats: float = 0.0

    def add(self, images: int, elbo_nats: float, kl_nats: float) -> None:
        """Counts the images of a step with the means of their bounds and their KL."""
        self.train_images += images
        self.train_negative_elbo_nats -= images * elbo_nats
        self.train_kl_nats += images * kl_nats

    def forget_sums(self) -> None:
        """Begins anew, after a line of metrics.jsonl."""
        self.train_images, self.train_negative_elbo_nats, self.train_kl_nats = 0, 0.0, 0.0

    def to_json(self) -> str:
        """For the metadata of a state."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """What a state's metadata hold. Raises ValueError."""
        values = json.loads(text)
        defaults = dataclasses.asdict(cls())
        if not isinstance(values, dict) or not _FIRST_FIELDS <= values.keys() <= defaults.keys():
            raise ValueError("other fields")
        if any(type(value) is not type(defaults[name]) or math.isnan(value) for name, value in values.items()):
            raise ValueError("a value of another type")
        progress = cls(**values)
        counts = (progress.step, progress.skipped_steps, progress.clipped_steps, progress.train_images)
        sums = (progress.train_negative_elbo_nats, progress.train_kl_nats)
        if not (
            all(0 <= count < 2**63 for count in counts)
            and all(0 <= value < math.inf for value in (progress.seconds, progress.gradient_norm))
            and all(map(math.isfinite, sums))
            and 0 < progress.kl_weight <= 1
        ):
            raise ValueError("a value out of its range")
        return progress


def is_own(name: str) -> bool:
    """Is this the name of a file that a training or an evaluation keeps in its folder?"""
    return _OWN.fullmatch(name) is not None


def check_output(name: str, path: Path, suffixes: tuple[str, ...], source: str | Path | None = None) -> Path:
    """`path` as `checks.path` has it; refuses what a command must not write to, before it begins its work.

    Raises ValueError that names the argument, or CheckpointError: for another suffix (a device or pipe needs none where
    there is but one), a folder, a place that cannot be written to, a file of a run, and `source`, which is read.
    """
    path = checks.path(name, path)
    if path.is_dir():
        raise CheckpointError(f"{path}: cannot be written ({os.strerror(errno.EISDIR)})")
    special = checkpoint.is_special(path)
    if path.suffix not in suffixes and not (special and len(suffixes) == 1):
        wanted = " or ".join(", ".join(suffixes).rsplit(", ", 1))
        raise ValueError(f"{name}: a name that ends in {wanted} wanted, got {str(path)!r}")
    if special:
        return path
    if is_own(path.name) and (path.parent / "config.json").exists():
        raise CheckpointError(f"{path}: a file of the run in this folder; choose another name")
    if source is not None and path.exists() and os.path.exists(source) and os.path.samefile(path, source):
        raise ValueError(f"{name}: another file than the one that is read wanted, got {path}")
    _check_writable(path)
    return path


def check_new_folder(name: str, path: Path) -> Path:
    """The same for a folder: one that is not there, or an empty one whose place another folder can take."""
    path = checks.path(name, path)
    if there := _what_stays(path):
        raise ValueError(f"{name}: a new folder wanted where the name has no ending, got {path}, {there}")
    path = path.resolve() if path.is_symlink() else path  # a link to an empty folder stays one
    _check_writable(path)
    return path


def _what_stays(path: Path) -> str:
    """What is there that no new folder can take the place of."""
    if not path.is_dir():
        return "a file" if path.exists() else "a link to nothing" if path.is_symlink() else ""
    if any(path.iterdir()):
        return "a folder with something in it"
    if path.samefile("."):
        return "the folder that you are in"
    return "where another file system begins" if path.is_mount() else ""


def _check_writable(path: Path) -> None:
    above = next(part for part in path.parents if part.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = errno.EACCES if above.is_dir() else errno.EEXIST
        raise CheckpointError(f"{path}: cannot be written ({os.strerror(reason)})")


class RunFolder:
    """A run folder of this config: claimed if it is new or empty of runs, else found to be the same run.

    Other processes are kept out as long as the object lives. Within a process it is the state on the disk that counts:
    of two trainers of one folder the one that has not the newest state goes no further.
    Raises CheckpointError, nothing written, where it holds a run with another config or cannot be used.
    """

    def __init__(self, path: Path, dataset: Dataset, model: VLAEConfig, training: TrainConfig) -> None:
        self.path = path
        self.state = path / "state.safetensors"
        self.previous = path / "state.previous.safetensors"
        self._new = path / "state.new.safetensors"
        self._config = path / "config.json"
        if path.exists() and not path.is_dir():
            raise CheckpointError(f"{path}: a folder for the run wanted, this is a file")
        try:
            checkpoint.make_folder(path)
        except OSError as error:
            raise CheckpointError(f"{self._config}: cannot be written ({error.strerror})") from None
        self._lock = FolderLock.of(path)
        self._saves = self._lock.saves
        with self.locked():
            self._claim(
                {
                    "data": dataset.name,
                    "data_sha256": dataset.digest(),
                    "model": dataclasses.asdict(model),
                    "training": dataclasses.asdict(training),
                }
            )
            checkpoint.remove_stale(path)
            self._new.unlink(missing_ok=True)

    def _claim(self, config: Mapping[str, Any]) -> None:
        mine = json.loads(json.dumps(config))  # tuples become lists
        own = {name for name in os.listdir(self.path) if is_own(name)}
        if own and "config.json" not in own:
            raise CheckpointError(f"{self.path}: holds {min(own)} but no config.json; choose another folder")
        theirs = checkpoint.read_json(self._config) if own else None
        if theirs is not None and (own - _BEGINNING or configs_of(self.path) is None):
            self._check_same(theirs, mine)
            mine["model"] = theirs["model"]  # as it stands there: the weights are bound to it
        if theirs != mine:
            checkpoint.write_json(self._config, mine)

    def _check_same(self, theirs: Any, mine: Mapping[str, Any]) -> None:
        """Raises CheckpointError where the run is of another config than mine, or of other images."""
        there, here = _parsed(theirs), {**mine}
        if not isinstance(there, dict) or not {"model", "training"} <= there.keys():
            raise CheckpointError(f"{self._config}: not that of a run; choose another folder")
        if isinstance(there["training"], dict):
            there["training"] |= {name: here["training"][name] for name in FREE & there["training"].keys()}
        here["data_sha256"] = there.get("data_sha256")  # older versions wrote none
        if here["data_sha256"] is not None:
            here["data"] = there.get("data")
        if there != {name: value for name, value in here.items() if value is not None}:
            raise CheckpointError(
                f"{self.path}: holds a run with another config ({_difference('config', there, here)}); "
                "choose another folder, or the same options to resume it"
            )
        if here["data_sha256"] not in (None, mine["data_sha256"]):
            raise CheckpointError(
                f"{self.path}: learned from other images than {mine['data']} has now (their sha256 begins with "
                f"{str(here['data_sha256'])[:12]}, not {mine['data_sha256'][:12]}); choose another folder"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the other threads of this process out. Raises CheckpointError where one of them trains here.

        So it does where another trainer has saved since: going on from here would undo what that one did.
        """
        if not self._lock.in_process.acquire(blocking=False):
            raise CheckpointError(f"{self.path}: another training runs in this folder")
        try:
            if self._saves != self._lock.saves:
                raise CheckpointError(f"{self.path}: another trainer has gone on with this run; resume it anew")
            yield
        finally:
            self._lock.in_process.release()

    def _check_there(self) -> None:
        """Raises CheckpointError where the folder was moved or removed: what is written by its path would be lost."""
        if not self._lock.is_of(self.path):
            raise CheckpointError(f"{self.path}: not the folder any more that this training began in; move it back")

    # --- state --------------------------------------------------------------------------------------------------

    @staticmethod
    def has_state(path: Path) -> bool:
        """Whether there is something to resume in a folder."""
        return any(os.path.lexists(path / name) for name in ("state.safetensors", "state.previous.safetensors"))

    def save_state(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Writes the whole state, reads it back, and only then lets it take the place of the one before; then durable.

        That one is kept as state.previous.safetensors. Raises CheckpointError; the states there stay as they are.
        """
        with self.locked():
            self._check_there()
            try:
                checkpoint.write_tensors(self._new, tensors, {"progress": progress.to_json()})
                if self.state.exists():
                    self.state.replace(self.previous)
                self._new.replace(self.state)
                checkpoint.sync_folder(self.path)
            except OSError as error:
                raise CheckpointError(f"{self.state}: cannot be written ({error.strerror})") from None
            finally:
                self._new.unlink(missing_ok=True)
            self._lock.saves += 1
            self._saves = self._lock.saves

    def save_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes the model that an evaluation takes. Raises CheckpointError."""
        self._check_there()
        pretrained.write_weights(self.path, checkpoint.read_json(self._config), tensors)

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
        """Adds a line to metrics.jsonl, in place of one of the same step; returns all lines. Raises CheckpointError."""
        self._check_there()
        rows = [*(there for there in self.metrics() if there["step"] != row["step"]), row]
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
        """Removes the lines of steps that will be done again; says so where these are all, as the state has gone."""
        rows = self.metrics()
        kept = [row for row in rows if row["step"] <= step]
        if rows and not kept:
            print(f"{self.path}: no state of step {rows[-1]['step']} there; the training begins anew", file=sys.stderr)
        if len(kept) < len(rows):
            self._write_metrics(kept)

    def _write_metrics(self, rows: list[Row]) -> None:
        checkpoint.write_file(self.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def configs_of(path: Path) -> tuple[VLAEConfig, TrainConfig] | None:
    """How the run in a folder was made; None where there is none. Raises CheckpointError or ValueError."""
    file = path / "config.json"
    if not os.path.lexists(file):
        return None
    config = of_this_version(checkpoint.read_json(file))
    if not isinstance(config, dict) or not {"data", "model", "training"} <= config.keys():
        return None
    return (
        from_dict(VLAEConfig, config["model"], f"{file}: model"),
        from_dict(TrainConfig, config["training"], f"{file}: training"),
    )


def _parsed(config: Any) -> Any:
    """With the fields that a version before this one did not have; as it is where this version cannot read it."""
    config = of_this_version(config)
    kinds: dict[str, Any] = {"model": VLAEConfig, "training": TrainConfig}
    for name, kind in kinds.items():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            config = {**config, name: dataclasses.asdict(from_dict(kind, config[name], name))}
    return json.loads(json.dumps(config))


def _difference(name: str, there: Any, here: Any) -> str:
    """The first value that differs between two JSON contents."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(f"{name}.{key}", there.get(key), here.get(key))
    return f"{name}: {_SHORT.repr(there)} there, {_SHORT.repr(here)} here"
