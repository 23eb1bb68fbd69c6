"""`vlae-fast sample` and `vlae-fast reconstruct`."""

import dataclasses
import json
import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlae_fast import checkpoint, plots
from vlae_fast.checks import whole
from vlae_fast.cli.common import ModelOptions, Options, Run
from vlae_fast.distributed import World
from vlae_fast.extra import cli_extra
from vlae_fast.rounds import GrowingFile, in_rounds
from vlae_fast.run_folder import check_output

with cli_extra():
    from tyro.conf import Positional

__all__ = ["Reconstruct", "Sample"]

AT_ONCE = 256
"""Images that a process draws between two reports of progress."""


@dataclass(kw_only=True)
class Sample(Options):
    """Draw images from a model. Cut short, the same command goes on with what OUT.<hash>.part holds."""

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
        first = whole("first", self.first)
        whole("num", self.num, 1, min(2**64 - 1, 2**64 - first))
        self.out = check_output("out", self.out, (".png", ".npy", ".npz"))
        with self.world() as world:
            self._draw(world)
        return 0

    def _draw(self, world: World) -> None:
        """The first process keeps the images in a file beside `out`, so that the same command goes on with them."""
        model = self.model_of(self.run)
        row = torch.zeros(1, model.config.height, model.config.width, dtype=torch.bool, device="cpu")
        if self.out.suffix == ".png":
            plots.grid_of(self.num, model.config.height, model.config.width, self._columns)
        options = [self.num, self.seed, self.first, self.temperature, dataclasses.asdict(model.config)]
        key = checkpoint.digest(model.state_dict(), {"options": json.dumps(options)})[:16]
        world.check_same("model and options", key)

        def compute(first: int, count: int) -> Tensor:
            return model.sample(count, seed=self.seed, first=self.first + first, temperature=self.temperature)

        with ExitStack() as stack:
            drawn = None
            if world.first:
                part = self.out.with_name(f"{self.out.name}.{key}.part")
                growing = GrowingFile(None if checkpoint.is_special(self.out) else part, self.num, row.shape)
                drawn = stack.enter_context(closing(growing))
                if drawn.done:
                    self.say(f"{self.out}: going on at image {drawn.done}")
            bar = stack.enter_context(self.bar(self.num))
            rounds = -(-self.num // (world.size * AT_ONCE))
            for _, images in in_rounds(
                row,
                0 if drawn is None else drawn.done,
                self.num,
                -(-self.num // (world.size * rounds)),
                compute,
                world=world,
                report=lambda done, total: bar.update(done - bar.n),
            ):
                if drawn is not None:
                    drawn.append(images)
            bar.close()
            if drawn is not None:
                self._write(drawn)
                self.say_of(self.out, f"{self.num} images")

    @property
    def _columns(self) -> int:
        return math.isqrt(self.num - 1) + 1

    def _write(self, drawn: GrowingFile) -> None:
        if self.out.suffix == ".npy" and drawn.path is not None:
            drawn.become(self.out)
            return
        if self.out.suffix == ".npy":
            checkpoint.write_through(self.out, drawn.pieces())
        elif self.out.suffix == ".npz":
            content = BytesIO()
            np.savez_compressed(content, images=drawn.rows())
            checkpoint.write_file(self.out, content.getvalue())
        else:
            plots.image_grid(torch.from_numpy(np.array(drawn.rows())), self._columns, self.out)
        drawn.remove()


@dataclass(kw_only=True)
class Reconstruct(ModelOptions):
    """Compress images to their codes and draw them anew: each image beside its reconstruction."""

    run: Positional[Run]
    """Run folder, folder of a saved model or name of shipped weights."""
    out: Path
    """PNG file to write."""
    num: int = 48
    """Images, drawn at random with --seed."""
    seed: int = 0
    """Seed of the choice and of the noise."""

    def __call__(self) -> int:
        """Returns the exit status."""
        whole("num", self.num, 1)
        self.out = check_output("out", self.out, (".png",), self.data)
        seed = whole("seed", self.seed)
        model = self.model_of(self.run)
        found = self.images_of(self.run, model)
        self.warn_of(found.data, found.split)
        images = found.split.fixed()
        chosen = images[torch.from_numpy(np.random.default_rng(seed).permutation(len(images))[: self.num])]
        drawn = model.reconstruct(chosen.to(next(model.parameters()).device), seed=seed)
        plots.pairs(chosen, drawn.cpu(), self.out)
        self.say_of(self.out, f"{len(chosen)} images of {found.data}, {found.part}, each beside its reconstruction")
        return 0
