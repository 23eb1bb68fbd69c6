"""`vlae-fast evaluate`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vlae_fast import checkpoint
from vlae_fast.cli.common import ModelOptions, Run, check_size
from vlae_fast.data import Dataset
from vlae_fast.evaluate import Evaluation, evaluate
from vlae_fast.extra import cli_extra
from vlae_fast.model import VLAE
from vlae_fast.run_folder import check_output

with cli_extra():
    from tqdm import tqdm
    from tyro.conf import Positional, arg

__all__ = ["Evaluate"]


@dataclass(kw_only=True)
class Evaluate(ModelOptions):
    """Bound, KL and importance-sampled likelihood of a model on a split, with standard errors."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights. Figures of single images are kept in a folder:
    cut short, it goes on."""
    against: Annotated[Path | None, arg(metavar="RUN")] = None
    """Compare with this model on the same images and noise: NLL of each image here less that of the other."""
    split: Literal["test", "valid", "train"] = "test"
    """Images to evaluate on."""
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
            check_output("json", self.json, (".json",))
        model = self.model_of(self.run)
        dataset = self.data_of(self.run, model)
        self.say(dataset.describe())
        other = None if self.against is None else self.model_of(self.against)
        result = self._evaluate(model, self.run, dataset)
        content = {"run": str(self.run), "data": dataset.name, "split": self.split, **result.to_dict()}
        print(f"data                    {dataset.name}, {self.split}\n{result}", flush=True)  # --json may be /dev/stdout
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
        check_size(folder, model, dataset)
        with tqdm(unit="image", delay=1, disable=self.quiet) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            return evaluate(
                model,
                getattr(dataset, self.split),
                samples=self.samples,
                subset=self.subset,
                seed=self.seed,
                folder=folder if folder.is_dir() else None,  # shipped weights' folder is not ours to write to
                report=report,
            )
