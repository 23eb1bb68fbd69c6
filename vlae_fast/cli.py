"""The command line: `vlae-fast train | evaluate | sample | reconstruct | data | info`.

Exit status: 0, 2 for bad input, 1 for a failure, 130 for Ctrl-C (the state of a training is saved).
"""

import argparse
import dataclasses
import math
import os
import platform
import sys
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from vlae_fast import __version__, checkpoint, native, plots, pretrained
from vlae_fast.config import TrainConfig, VLAEConfig, from_dict
from vlae_fast.data import NAMES, Dataset, load, parse_size
from vlae_fast.data.download import download
from vlae_fast.evaluate import Evaluation, evaluate
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE
from vlae_fast.run_folder import check_output
from vlae_fast.train import DivergedError, Trainer

with cli_extra():
    import tyro
    from tqdm import tqdm
    from tyro.conf import Positional, arg, subcommand

__all__ = ["main"]

Run = Annotated[Path, arg(metavar="RUN")]


@dataclass
class Train:
    """Train a model on binary images; the same command resumes a run that was cut short."""

    out: Annotated[Path, arg(metavar="RUN")]
    """Run folder: weights, state, metrics.jsonl, curves.png, samples.png, data.png (what is learned from)."""
    data_dir: Path | None = None
    """Folder of the published files; default: $VLAE_DATA, else ./data."""
    minutes: float | None = None
    """Stop after so many minutes of training (validation not counted) since the run began, over all resumptions."""
    epochs: float | None = None
    """Stop after so many epochs since the run began. Without either, train until Ctrl-C."""
    preset: str = "paper"
    """Configuration that the --model flags start from: paper or tiny; with --start-from, that model's."""
    training: Annotated[TrainConfig, arg(name="")] = field(default_factory=TrainConfig)
    """How to train."""
    model: VLAEConfig = field(default_factory=VLAEConfig)
    """What to train."""

    def __call__(self) -> int:
        for name in ("minutes", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}: > 0 wanted, got {value}")
        training = self.training
        size = parse_size(training.image_size) if training.image_size else None
        dataset = load(training.data, self.data_dir, image_size=size, order=training.data_order)
        print(dataset.describe(), flush=True)
        split = dataset.train
        model = dataclasses.replace(self.model, height=split.height, width=split.width)
        native.keep_freed_memory()
        trainer = Trainer(model, training, dataset, self.out)
        if trainer.progress.step:
            print(f"{self.out}: resumed at step {trainer.progress.step}")
        finished = trainer.run(minutes=self.minutes, epochs=self.epochs)
        print(f"{self.out}: {'done' if finished else 'saved'} at step {trainer.progress.step}")
        return 0 if finished else 130


@dataclass
class Evaluate:
    """Bound, KL and importance-sampled likelihood of a model on a test split, with standard errors."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights. Figures of single images are kept in a folder:
    cut short, it goes on."""
    against: Annotated[Path | None, arg(metavar="RUN")] = None
    """Compare with this model on the same images and noise: NLL of each image here less that of the other."""
    samples: int = 4096
    """Importance samples of an image."""
    subset: int | None = None
    """Evaluate so many test images, drawn at random with --seed; default: all."""
    seed: int = 0
    """Seed of the subset and of the noise."""
    json: Path | None = None
    """Write the figures to this file too."""
    data: str | None = None
    """Data set; default: the one that the run was trained on."""
    data_dir: Path | None = None
    """Folder of the published files; default: $VLAE_DATA, else ./data."""

    def __call__(self) -> int:
        if self.json is not None:
            check_output("json", self.json, (".json",))
        model = VLAE.from_pretrained(self.run)
        dataset = _dataset(self.run, model, self.data, self.data_dir)
        print(dataset.describe(), flush=True)
        other = None if self.against is None else VLAE.from_pretrained(self.against)
        result = self._evaluate(model, self.run, dataset)
        content = {"run": str(self.run), "data": dataset.name, "split": "test", **result.to_dict()}
        print(f"data                    {dataset.name}, test\n{result}", flush=True)  # --json may be /dev/stdout
        if other is not None and self.against is not None:
            against = self._evaluate(other, self.against, dataset)
            difference = result.minus(against)
            print(f"\nagainst {self.against}\n{against}\n\nNLL less that of against {difference} nats, paired")
            content["against"] = {"run": str(self.against), **against.to_dict()}
            content["nll_less_against_nats"] = dataclasses.asdict(difference)
        if self.json is not None:
            checkpoint.write_json(self.json, content)
        return 0

    def _evaluate(self, model: VLAE, folder: Path, dataset: Dataset) -> Evaluation:
        _check_size(folder, model, dataset)
        with tqdm(unit="image", delay=1) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return evaluate(
                model,
                dataset.test,
                samples=self.samples,
                subset=self.subset,
                seed=self.seed,
                folder=folder if folder.is_dir() else None,  # shipped weights' folder is not ours to write to
                report=report,
            )


@dataclass
class Sample:
    """Draw images from a model."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """File to write: .png (a grid), .npy or .npz (uint8 [num, 1, H, W], 1 is ink)."""
    num: int = 64
    """Images to draw."""
    seed: int = 0
    """Seed; image i depends on (seed, first + i) alone."""
    first: int = 0
    """Number of the first image."""
    temperature: float = 1.0
    """Divides the logits of the pixels: below 1 the draws are more certain."""

    def __call__(self) -> int:
        if self.num < 1 or self.first < 0:
            raise ValueError(f"num: >= 1 and first: >= 0 wanted, got {self.num} and {self.first}")
        check_output("out", self.out, (".png", ".npy", ".npz"))
        model = VLAE.from_pretrained(self.run)
        images = model.sample(self.num, seed=self.seed, first=self.first, temperature=self.temperature)
        if self.out.suffix == ".png":
            plots.image_grid(images, math.ceil(math.sqrt(self.num)), self.out)
        else:
            content, bits = BytesIO(), images.to(torch.uint8).numpy()
            if self.out.suffix == ".npy":
                np.save(content, bits)
            else:
                np.savez_compressed(content, images=bits)
            checkpoint.write_file(self.out, content.getvalue())
        print(f"{self.out}: {self.num} images")
        return 0


@dataclass
class Reconstruct:
    """Compress test images to their codes and draw them anew: each image beside its reconstruction."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """PNG file to write."""
    num: int = 48
    """Images, drawn at random from the test split with --seed."""
    seed: int = 0
    """Seed of the choice and of the noise."""
    data: str | None = None
    """Data set; default: the one that the run was trained on."""
    data_dir: Path | None = None
    """Folder of the published files; default: $VLAE_DATA, else ./data."""

    def __call__(self) -> int:
        if self.num < 1:
            raise ValueError(f"num: >= 1 wanted, got {self.num}")
        check_output("out", self.out, (".png",))
        model = VLAE.from_pretrained(self.run)
        dataset = _dataset(self.run, model, self.data, self.data_dir)
        _check_size(self.run, model, dataset)
        images = dataset.test.fixed()
        chosen = torch.from_numpy(np.random.default_rng(self.seed).permutation(len(images))[: self.num])
        plots.pairs(images[chosen], model.reconstruct(images[chosen], seed=self.seed), self.out)
        print(f"{self.out}: {len(chosen)} test images, each beside its reconstruction")
        return 0


@dataclass
class Info:
    """What runs here, and what a run folder holds."""

    run: Positional[Annotated[Path | None, arg(metavar="[RUN]")]] = None
    """Run folder, folder of a saved model or name of shipped weights."""

    def __call__(self) -> int:
        print(f"vlae_fast        {__version__}")
        print(f"Python, torch    {platform.python_version()}, {torch.__version__}")
        usable = ", ".join(native.usable_isas())
        print(f"CPU bodies       {native.isa()} (of {usable}), {torch.get_num_threads()} threads")
        print(f"shipped weights  {', '.join(pretrained.shipped())}")
        print(f"CUDA device      {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
        if self.run is None:
            return 0
        model = VLAE.from_pretrained(self.run)
        print(f"\n{self.run}")
        for name, child in model.named_children():
            print(f"{name:<16} {sum(p.numel() for p in child.parameters()):,} parameters")
        for f in dataclasses.fields(model.config):
            print(f"{f.name:<16} {getattr(model.config, f.name)}")
        return 0


@dataclass
class Data:
    """Fetch the published files of a data set; a transfer that broke off goes on where it stopped."""

    action: Positional[Literal["download"]]
    """What to do."""
    name: Positional[Literal["static-mnist", "dynamic-mnist", "omniglot", "caltech101"]]
    """Data set."""
    data_dir: Path | None = None
    """Folder to put the files into; default: $VLAE_DATA, else ./data."""

    def __call__(self) -> int:
        for path in download(self.name, self.data_dir):
            print(f"{path}: checksum fits")
        return 0


def _dataset(run: Path, model: VLAE, data: str | None, data_dir: Path | None) -> Dataset:
    """The named data set, or the one that a run was trained on, held out as it was there."""
    path = pretrained.folder_of(run) / "config.json"
    content = checkpoint.read_json(path)
    training = from_dict(TrainConfig, content.get("training", {}), str(path))
    if data is None:
        if "training" not in content:
            raise checkpoint.CheckpointError(f"{path}: names no data set; say --data")
        data, name = training.data, content.get("data", training.data)
        if name != data and not str(name).startswith(f"{data} ("):  # from tensors in memory
            raise checkpoint.CheckpointError(f"{path}: the model learned from {name}; say --data")
    size = None if data in NAMES else (model.config.height, model.config.width)
    return load(data, data_dir, image_size=size, order=training.data_order)


def _check_size(run: Path, model: VLAE, dataset: Dataset) -> None:
    """Raises ValueError where a model is for images of another size."""
    c, split = model.config, dataset.test
    if (c.height, c.width) != (split.height, split.width):
        sizes = f"of {c.height}x{c.width} pixels, those of {dataset.name} have {split.height}x{split.width}"
        raise ValueError(f"{run}: its images are {sizes}")


def _expanded(argument: str) -> str:
    """`--out=~/x` as a shell expands `--out ~/x`."""
    flag, equals, value = argument.partition("=")
    return flag + equals + os.path.expanduser(value) if flag.startswith("--") else argument


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = [_expanded(argument) for argument in (sys.argv[1:] if argv is None else argv)]
    try:
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--preset", default="paper")
        early.add_argument("--start-from", default="")
        given = early.parse_known_args(argv)[0]
        started = given.start_from and pretrained.config_of(pretrained.folder_of(given.start_from))
        train = Train(out=tyro.MISSING, model=started or VLAEConfig.preset(given.preset))
        commands = (
            Annotated[Train, subcommand("train", default=train)]
            | Annotated[Evaluate, subcommand("evaluate")]
            | Annotated[Sample, subcommand("sample")]
            | Annotated[Reconstruct, subcommand("reconstruct")]
            | Annotated[Data, subcommand("data")]
            | Annotated[Info, subcommand("info")]
        )
        command = tyro.cli(commands, prog="vlae-fast", description=__doc__, args=argv)
        status: int = command()
        return status
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"vlae-fast: {' '.join(str(error).split())}", file=sys.stderr)  # file names may hold line feeds
        return 2
    except DivergedError as error:
        print(f"vlae-fast: {error}", file=sys.stderr)
        return 1
