"""`vlae-fast train`."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from vlae_fast import checkpoint, native
from vlae_fast.checks import real
from vlae_fast.cli.common import Options, check_named, check_on_disk, load_data
from vlae_fast.config import TrainConfig, VLAEConfig
from vlae_fast.data import NAMES
from vlae_fast.distributed import World
from vlae_fast.extra import cli_extra
from vlae_fast.run_folder import configs_of
from vlae_fast.train import Trainer

with cli_extra():
    from tyro.conf import Positional, arg

__all__ = ["Train"]


@dataclass(kw_only=True)
class Train(Options):
    """Train a model on binary images; a run that is there goes on with its own options: `train RUN` is enough."""

    run: Positional[Annotated[Path | None, arg(metavar="[RUN]")]] = None
    """Run folder: weights, state, metrics.jsonl, curves.png, samples.png, data.png (what is learned from)."""
    out: Annotated[Path | None, arg(metavar="RUN")] = None
    """The same, as a flag."""
    minutes: float | None = None
    """Stop after so many minutes of training (validation not counted) since the run began, over all resumptions."""
    epochs: float | None = None
    """Stop after so many epochs since the run began. Without either, train until Ctrl-C."""
    preset: str = "paper"
    """Configuration that the --model flags start from: paper or tiny; with --start-from, unless said, that model's."""
    training: Annotated[TrainConfig, arg(name="")] = field(default_factory=TrainConfig)
    """How to train."""
    model: VLAEConfig = field(default_factory=VLAEConfig)
    """What to train."""

    @property
    def folder(self) -> Path:
        """The run folder. Raises ValueError where none is named, or two."""
        if self.run is not None and self.out is not None and self.run != self.out:
            raise ValueError(f"out: one run folder wanted, got {self.run} and {self.out}")
        folder = self.run or self.out
        if folder is None:
            raise ValueError("out: the name of a run folder wanted: vlae-fast train RUN")
        return folder

    def __call__(self) -> int:
        """Returns the exit status."""
        for name in ("minutes", "epochs"):
            value = getattr(self, name)
            if value is not None:
                real(name, value, positive=True)
        with self.world() as world:
            return self._train(world)

    def _train(self, world: World) -> int:
        there = configs_of(self.folder)
        if there is None:
            self._check_heeded()
        again = there is not None and there[1].data == self.training.data
        if again:
            config = self.folder / "config.json"
            check_on_disk(config, checkpoint.read_json(config), self.training)
        dataset = load_data(self.training, self.folder if again else None)
        self.say(dataset.describe())
        split = dataset.train
        model = dataclasses.replace(self.model, height=split.height, width=split.width)
        native.keep_freed_memory()
        trainer = Trainer(model, self.training, dataset, self.folder, device=self.device, quiet=self.quiet, world=world)
        if trainer.progress.step:
            self.say(f"{self.folder}: resumed at step {trainer.progress.step}")
        if self.minutes is None and self.epochs is None and not self.training.anneal_to:
            self.say(f"{self.folder}: training until Ctrl-C, as neither --minutes nor --epochs is given")
        finished = trainer.run(minutes=self.minutes, epochs=self.epochs)
        self.say(f"{self.folder}: {'done' if finished else 'saved'} at step {trainer.progress.step}")
        return 0 if finished else 130

    def _check_heeded(self) -> None:
        """Raises ValueError for an option that means nothing for these data."""
        data = self.training.data
        if self.training.data_dir:
            check_named(data)
        if data in NAMES and self.training.data_order != "shuffled":
            raise ValueError(f"data_order: it is of own files and folders, {data} is a named data set")
