"""What several commands share: how a model, its data and a device are named."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from vlae_fast import checkpoint, device, distributed, pretrained
from vlae_fast.bar import progress, said
from vlae_fast.config import TrainConfig, from_dict, of_this_version
from vlae_fast.data import NAMES, DataError, Dataset, MissingDataError, Split, load, parse_size, read_images
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE

with cli_extra():
    from tyro.conf import arg

__all__ = [
    "ModelOptions",
    "Options",
    "Run",
    "Speaking",
    "check_named",
    "check_on_disk",
    "check_size",
    "duration",
    "load_data",
]

Run = Annotated[Path, arg(metavar="RUN")]


@dataclass(kw_only=True)
class Speaking:
    """Of every command that takes a while."""

    quiet: bool = False
    """Say nothing but results and errors."""

    def say(self, line: str) -> None:
        """Prints what is no result."""
        if not self.quiet:
            said(f"{line}\n", sys.stdout)

    def say_of(self, out: Path, line: str) -> None:
        """The same of a file that was written, unless its content may have gone where the line would."""
        if not checkpoint.is_special(out):
            self.say(f"{out}: {line}")

    def warn_of(self, images: Path | str, split: Split) -> None:
        """Prints to stderr what looks wrong about images that a user has named."""
        for doubt in [] if self.quiet else split.doubts():
            said(f"WARNING: {images}: {doubt}\n", sys.stderr)

    def bar(self, total: int | None = None) -> Any:
        """A progress bar that counts images, for what takes more than a second."""
        return progress(quiet=self.quiet, total=total, unit="image", delay=1)


@dataclass(kw_only=True)
class Options(Speaking):
    """Of every command that computes on any device."""

    device: str = "auto"
    """Where to compute: auto (a GPU where it works, else the CPU), cpu or cuda[:i]."""

    @contextmanager
    def world(self) -> Iterator[distributed.World]:
        """The processes that torchrun started for this command. Only the first of them speaks."""
        with distributed.joined() as world:
            self.quiet = self.quiet or not world.first
            yield world

    def model_of(self, run: Path) -> VLAE:
        """The model in a folder, on the device."""
        where = device.pick(self.device)
        return VLAE.from_pretrained(run).to(where)


class Images(NamedTuple):
    """What a command looks at with a model."""

    data: str
    """What they are of."""
    part: str
    """Which of it: a split, or all."""
    split: Split
    """The images."""
    described: str
    """What was read, and what looks wrong about it, in lines."""


@dataclass(kw_only=True)
class ModelOptions(Options):
    """Of every command that looks at images with a model."""

    data: str | None = None
    """Data set, file or folder; default: what the run was trained on."""
    data_dir: Path | None = None
    """Folder of the published files; default: that of the training, else $VLAE_DATA, else ./data."""
    split: Literal["test", "valid", "train"] | None = None
    """Images to take, held out as for a training; default: test, but of a file that the run did not learn from all."""

    def images_of(self, run: Path, model: VLAE) -> Images:
        """The images that are asked for, of the named data or of what a run was trained on.

        Raises ValueError where there are none, where they have changed since, or for another size than the model's.
        """
        path = pretrained.folder_of(run) / "config.json"
        content = of_this_version(checkpoint.read_json(path))
        training = from_dict(TrainConfig, content.get("training", {}), str(path))
        learned_from = content.get("data_sha256")
        if self.data is not None:
            training = dataclasses.replace(training, data=self.data)
        elif "training" not in content:
            raise checkpoint.CheckpointError(f"{path}: names no data set; say --data")
        else:
            check_on_disk(path, content, training)
        own = training.data not in NAMES
        if self.data_dir is not None:
            check_named(training.data)
            training = dataclasses.replace(training, data_dir=str(self.data_dir))
        if own:
            training = dataclasses.replace(training, image_size=f"{model.config.height}x{model.config.width}")
        another = self.data is not None and own and (learned_from is None or learned_from != _digest(training))
        if another and self.split is None:
            whole = read_images(training.data, (model.config.height, model.config.width))
            kind = "dynamic" if whole.dynamic else "static"
            lines = [f"{training.data}: all {len(whole)} images, {kind}, ink {whole.ink():.1%}"]
            lines += [f"WARNING: {doubt}" for doubt in whole.doubts()]
            return Images(training.data, "all", whole, "\n".join(lines))
        dataset = load_data(training, run if self.data is None else None)
        if self.data is None and learned_from not in (None, dataset.digest()):
            raise ValueError(
                f"{run}: the images of {dataset.name} are not those that it learned from; say --data {training.data} "
                "to take them all the same"
            )
        part = self.split or "test"
        split: Split = getattr(dataset, part)
        check_size(run, model, dataset.name, split)
        return Images(dataset.name, part, split, dataset.describe())


def _digest(training: TrainConfig) -> str | None:
    """Of the data of a training; None where they cannot be any, as they are too few to hold some out."""
    try:
        return load_data(training).digest()
    except DataError:
        return None


def check_named(data: str) -> None:
    """Raises ValueError where these data lie in no folder of published files, and one was said."""
    if data not in NAMES:
        raise ValueError(f"data_dir: it is of named data sets, {data} is a file or folder")


def check_on_disk(path: Path, content: Any, training: TrainConfig) -> None:
    """Raises CheckpointError where a run, of this content of its config.json, learned from tensors in memory."""
    name = content.get("data", training.data)
    if name != training.data and not str(name).startswith(f"{training.data} ("):
        raise checkpoint.CheckpointError(f"{path}: the model learned from {name}; say --data")


def load_data(training: TrainConfig, run: Path | None = None) -> Dataset:
    """The data set of a training. Raises ValueError, with the way out where the file that a `run` names has gone."""
    size = parse_size(training.image_size) if training.image_size else None
    folder = Path(training.data_dir) if training.data_dir else None
    try:
        return load(training.data, folder, image_size=size, order=training.data_order)
    except MissingDataError:
        if run is None or training.data in NAMES:
            raise
        seen = "" if os.path.isabs(training.data) else f" in {os.getcwd()}"
        gone = f"{run}: it learned from {training.data}, which is not there{seen}; say --data and where it is"
        raise MissingDataError(gone) from None


def check_size(run: Path, model: VLAE, name: str, split: Split) -> None:
    """Raises ValueError where a model is for images of another size than those of a data set."""
    c = model.config
    if (c.height, c.width) != (split.height, split.width):
        sizes = f"of {c.height}x{c.width} pixels, those of {name} have {split.height}x{split.width}"
        raise ValueError(f"{run}: its images are {sizes}")


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
