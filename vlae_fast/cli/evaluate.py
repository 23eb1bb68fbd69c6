"""`vlae-fast evaluate`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vlae_fast import checkpoint
from vlae_fast.bar import said
from vlae_fast.cli.common import ModelOptions, Run, check_size, duration
from vlae_fast.data import Split
from vlae_fast.distributed import World
from vlae_fast.evaluate import Evaluation, evaluate, expected_seconds
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE
from vlae_fast.run_folder import check_output

with cli_extra():
    from tyro.conf import Positional, arg

__all__ = ["Evaluate"]

LONG_SECONDS = 60
"""What takes longer is said beforehand."""


@dataclass(kw_only=True)
class Evaluate(ModelOptions):
    """Bound, KL and importance-sampled likelihood of a model on images, with standard errors."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights. Figures of single images are kept in a folder:
    cut short, it goes on."""
    against: Annotated[Path | None, arg(metavar="RUN")] = None
    """Compare with this model on the same images and noise: NLL of each image here less that of the other."""
    samples: int = 4096
    """Importance samples of an image."""
    subset: int | None = None
    """Evaluate so many images, drawn at random with --seed; default: all."""
    seed: int = 0
    """Seed of the subset and of the noise."""
    json: Path | None = None
    """Write the figures to this file too."""

    def __call__(self) -> int:
        """Returns the exit status."""
        if self.json is not None:
            self.json = check_output("json", self.json, (".json",), self.data)
        with self.world() as world:
            return self._figures(world)

    def _figures(self, world: World) -> int:
        model = self.model_of(self.run)
        found = self.images_of(self.run, model)
        self.say(found.described)
        other = None
        if self.against is not None:
            other = self.model_of(self.against)
            check_size(self.against, other, found.data, found.split)
        result = self._evaluate(model, self.run, found.split, world)
        content = {"run": str(self.run), "data": found.data, "split": found.part, **result.to_dict()}

        text = f"data                    {found.data}, {found.part}\n{result}"
        if other is not None and self.against is not None:
            against = self._evaluate(other, self.against, found.split, world)
            difference = result.minus(against)
            text += f"\n\nagainst {self.against}\n{against}\n\nNLL less that of against {difference} nats, paired"
            content["against"] = {"run": str(self.against), **against.to_dict()}
            content["nll_less_against_nats"] = dataclasses.asdict(difference)
        if world.first:
            try:
                if self.json is not None:  # before anything is printed: whoever reads that may have gone
                    checkpoint.write_json(self.json, content)
            finally:
                print(text, flush=True)
        return 0

    def _evaluate(self, model: VLAE, folder: Path, split: Split, world: World) -> Evaluation:
        with self.bar() as bar:

            def report(done: int, total: int) -> None:
                if bar.total is None:
                    bar.total, bar.n = total, done
                    self._say_how_long(model, split, -(-(total - done) // world.size))
                bar.update(done - bar.n)

            return evaluate(
                model,
                split,
                samples=self.samples,
                subset=self.subset,
                seed=self.seed,
                # The folder of shipped weights is not ours to write to.
                folder=folder if (folder / "config.json").exists() else None,
                report=report,
                world=world,
            )

    def _say_how_long(self, model: VLAE, split: Split, images: int) -> None:
        """Before a long call; `images` are those of this process."""
        if self.quiet or images == 0:
            return
        seconds = expected_seconds(model, split, images, self.samples)
        if seconds > LONG_SECONDS:
            said(
                f"{images} images x {self.samples} samples will take about {duration(seconds)}; cut short, the same "
                "command goes on. Shorter: --samples, --subset\n"
            )
