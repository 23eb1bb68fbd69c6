"""`vlae-fast sample` and `vlae-fast reconstruct`."""

import dataclasses
import json
import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlae_fast import checkpoint, plots
from vlae_fast.checks import whole
from vlae_fast.cli.common import ModelOptions, Options, Run, check_size
from vlae_fast.distributed import World
from vlae_fast.extra import cli_extra
from vlae_fast.rounds import Kept, in_rounds
from vlae_fast.run_folder import check_output

with cli_extra():
    from tyro.conf import Positional

__all__ = ["Reconstruct", "Sample"]

AT_ONCE = 256
"""Images that a process draws between two reports of progress."""


@dataclass(kw_only=True)
class Sample(Options):
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
        """Returns the exit status."""
        if self.num < 1 or self.first < 0:
            raise ValueError(f"num: >= 1 and first: >= 0 wanted, got {self.num} and {self.first}")
        check_output("out", self.out, (".png", ".npy", ".npz"))
        with self.world() as world:
            images, kept = self._drawn(world)
            if world.first:
                self._write(images)
                if kept is not None:
                    kept.unlink(missing_ok=True)
        return 0

    def _drawn(self, world: World) -> tuple[Tensor, Path | None]:
        """Images, bool [num, 1, H, W], and the file that keeps them meanwhile where they take more than one round."""
        model = self.model_of(self.run)
        options = [self.num, self.seed, self.first, self.temperature, dataclasses.asdict(model.config)]
        key = checkpoint.digest(model.state_dict(), {"options": json.dumps(options)})[:16]
        world.check_same("model and options", key)
        rounds = -(-self.num // (world.size * AT_ONCE))
        several = rounds > 1 and not checkpoint.is_special(self.out)
        kept = self.out.with_name(f"{self.out.name}.{key}.part") if several else None
        images = torch.zeros(self.num, 1, model.config.height, model.config.width, dtype=torch.bool)

        def compute(first: int, count: int) -> Tensor:
            return model.sample(count, seed=self.seed, first=self.first + first, temperature=self.temperature)

        with self.bar(self.num) as bar:
            in_rounds(
                images,
                -(-self.num // (world.size * rounds)),
                compute,
                world=world,
                kept=Kept(kept, "images"),
                report=lambda done, total: bar.update(done - bar.n),
            )
        return images, kept

    def _write(self, images: Tensor) -> None:
        if self.out.suffix == ".png":
            plots.image_grid(images.float(), math.ceil(math.sqrt(self.num)), self.out)
        else:
            content, bits = BytesIO(), images.to(torch.uint8).numpy()
            if self.out.suffix == ".npy":
                np.save(content, bits)
            else:
                np.savez_compressed(content, images=bits)
            checkpoint.write_file(self.out, content.getvalue())
        self.say(f"{self.out}: {self.num} images")


@dataclass(kw_only=True)
class Reconstruct(ModelOptions):
    """Compress test images to their codes and draw them anew: each image beside its reconstruction."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """PNG file to write."""
    num: int = 48
    """Images, drawn at random from the test split with --seed."""
    seed: int = 0
    """Seed of the choice and of the noise."""

    def __call__(self) -> int:
        """Returns the exit status."""
        if self.num < 1:
            raise ValueError(f"num: >= 1 wanted, got {self.num}")
        check_output("out", self.out, (".png",))
        seed = whole("seed", self.seed)
        model = self.model_of(self.run)
        dataset = self.data_of(self.run, model)
        check_size(self.run, model, dataset)
        images = dataset.test.fixed()
        chosen = images[torch.from_numpy(np.random.default_rng(seed).permutation(len(images))[: self.num])]
        drawn = model.reconstruct(chosen.to(next(model.parameters()).device), seed=seed)
        plots.pairs(chosen, drawn.cpu(), self.out)
        self.say(f"{self.out}: {len(chosen)} test images, each beside its reconstruction")
        return 0
