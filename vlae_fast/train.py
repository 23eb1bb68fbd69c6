"""Training: Adamax with free bits and Polyak averaging (the paper's appendix A), resumable at every step."""

import copy
import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vlae_fast import latent, noise, plots
from vlae_fast.bar import progress
from vlae_fast.config import TrainConfig, VLAEConfig
from vlae_fast.data import Dataset
from vlae_fast.device import pick
from vlae_fast.model import VLAE, Bound
from vlae_fast.run_folder import Progress, Row, RunFolder

__all__ = ["DivergedError", "Trainer"]

Bar = Any  # tqdm carries no types
LEAST_STEPS = 20
"""Steps between two validations at least: on a small data set they would take longer than the training."""
BAD_STEPS = 10
"""Steps in a row that the gradient guard skips before it ends the training."""

RESIDENT_BYTES = 2**30
"""Training images that take no more live on the GPU."""


class DivergedError(RuntimeError):
    """The training cannot go on; the last good state is on the disk."""


class Trainer:
    """One training in a run folder; creating it for a folder that holds a state resumes that.

    Raises CheckpointError where the folder holds another config or damaged files, or was learned from other images, and
    ValueError where the model to start from is another than `model`, or the device does not work.
    """

    def __init__(
        self,
        model: VLAEConfig,
        config: TrainConfig,
        dataset: Dataset,
        out: str | Path,
        *,
        device: str | torch.device = "cpu",
        quiet: bool = False,
    ) -> None:
        self.config, self.dataset, self.out = config, dataset, Path(out)
        self.device = pick(device)
        """Where the model and its optimiser are; noise and initial weights are made on the CPU, the same for all."""
        self.quiet = quiet
        """Show no bar and no figures."""
        both = config.train_on == "train+validation"
        self.split = dataset.train.joined(dataset.valid) if both else dataset.train
        """Images to learn from."""
        self.progress = Progress()
        """Steps done, and what else changes beside tensors."""
        resumed = RunFolder.has_state(self.out)
        start = VLAE.from_pretrained(config.start_from) if config.start_from and not resumed else None
        torch.manual_seed(config.seed)
        self.model = VLAE(model)
        """What the optimiser moves."""
        if start is not None:
            self._start_from(start)
        self._resident = self._pixels() if self.device.type != "cpu" else None
        self.valid_images = self._validation_images().to(self.device)
        """Images [n, 1, H, W] that every validation looks at."""
        self.folder = RunFolder(self.out, dataset, model, config)
        """What lies on the disk."""
        resumed = resumed or RunFolder.has_state(self.out)  # somebody may have trained here since
        if not resumed and start is None:
            count = min(8 * config.batch_size, len(self.split))
            self.model.initialize(self._images(np.arange(count), self._noise(-1, count)[1]).cpu())
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        """Polyak average of the weights: what is validated and written to model.safetensors."""
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=config.learning_rate)
        """Adamax."""
        self._saved_step: int | None = None
        if resumed:
            self._load()
        self.folder.drop_metrics_after(self.progress.step)
        if self.progress.step == 0:
            first = noise.permutation(config.seed, 0, len(self.split))[:100]
            plots.image_grid(self._images(first, self._noise(-1, len(first))[1]), 10, self.out / "data.png")

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every training image once."""
        return -(-len(self.split) // self.config.batch_size)

    def run(self, *, minutes: float | None = None, epochs: float | None = None) -> bool:
        """Trains until the run has `minutes` of training steps or `epochs` behind it, is annealed, or a signal comes.

        Both count from the run's beginning, over all resumptions. Returns False if a signal ended it.

        Raises DivergedError, the last good state saved, where ten steps in a row fail; CheckpointError where another
        process trains in this folder.
        """
        ends = [epoch for epoch in (epochs, self.config.anneal_to or None) if epoch is not None]
        last_step = round(min(ends) * self.steps_per_epoch) if ends else None
        total_seconds = None if minutes is None else 60 * minutes
        interval = max(LEAST_STEPS, round(self.config.validation_epochs * self.steps_per_epoch))
        rows: list[Bound] = []
        bad_steps = 0
        saved = time.monotonic()

        def done() -> bool:
            p = self.progress
            return (last_step is not None and p.step >= last_step) or (
                total_seconds is not None and p.seconds >= total_seconds
            )

        with self.folder.locked(), _stop_on_signal() as stopped, self._bar(last_step, total_seconds) as bar:
            while not (done() or stopped):
                start = time.monotonic()
                bound = self._step()
                bad_steps = 0 if bound is not None else bad_steps + 1
                if bad_steps == BAD_STEPS:
                    self.save()
                    raise DivergedError(
                        f"{BAD_STEPS} steps in a row gave NaN or a gradient norm above {self.config.gradient_limit:g}; "
                        f"the last good state is in {self.out}"
                    )
                self.progress.step += 1
                seconds = time.monotonic() - start
                self.progress.seconds += seconds
                if bound is not None:
                    rows.append(bound)
                    self._show(bar, bound, seconds, total_seconds is not None)
                if rows and (self.progress.step % interval == 0 or done()):
                    try:
                        self._validate(rows, bar)
                    except ValueError as error:  # an op met NaN or infinity
                        raise DivergedError(f"validation failed ({error}); the last state is in {self.out}") from None
                    rows.clear()
                    self.save()
                    saved = time.monotonic()
                elif time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
            self.save()
        return not stopped

    def _start_from(self, other: VLAE) -> None:
        for field in dataclasses.fields(other.config):
            wanted, got = getattr(other.config, field.name), getattr(self.model.config, field.name)
            if got != wanted:
                raise ValueError(f"model.{field.name}: {wanted}, as in {self.config.start_from}, wanted, got {got}")
        self.model.load_state_dict(other.state_dict())

    # --- one step -----------------------------------------------------------------------------------------------

    def _step(self) -> Bound | None:
        """Moves the weights by one batch; None if the guard skipped it."""
        epoch, position = divmod(self.progress.step, self.steps_per_epoch)
        B = self.config.batch_size
        order = noise.permutation(self.config.seed, epoch, len(self.split))
        indices = order[position * B : (position + 1) * B]
        normals, uniforms = self._noise(self.progress.step, len(indices))
        self.optimizer.zero_grad()
        try:
            bound = self.model.elbo(self._images(indices, uniforms), noise=normals)
        except ValueError:  # an op met NaN or infinity
            return None
        loss = self._loss(bound)
        loss.backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not (torch.isfinite(loss) and norm <= self.config.gradient_limit):  # NaN is not below the limit
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._annealed()
        self.optimizer.step()
        with torch.no_grad():
            # Early on the average forgets faster, or the first weights would weigh in it for a thousand steps.
            decay = min(self.config.polyak, (1 + self.progress.step) / (10 + self.progress.step))
            blend = get_ema_multi_avg_fn(decay)
            blend(list(self.average.parameters()), list(self.model.parameters()), 0)
        return Bound(*(t.detach() for t in bound))

    def _annealed(self) -> float:
        """Share of the step size that this step has."""
        start, end = self.config.anneal_from, self.config.anneal_to
        epoch = self.progress.step / self.steps_per_epoch
        return min(1.0, (end - epoch) / (end - start)) if end else 1.0

    def _loss(self, bound: Bound) -> Tensor:
        """Negative bound in nats with free bits: what the optimiser sees, never what is reported."""
        config, free = self.config, self.config.free_bits_nats
        if config.free_bits == "soft":  # Chen et al. 2017, appendix C
            weight, kl = self.progress.kl_weight, bound.kl.mean()
            if kl.item() > 1.05 * free:
                self.progress.kl_weight = min(1.0, 1.1 * weight)
            elif kl.item() < free:
                self.progress.kl_weight = weight / 1.1
            return weight * kl - bound.reconstruction.mean()
        # Kingma et al. 2016, eq. 15: the mean over the batch stands inside the maximum.
        groups = bound.kl.mean()[None] if config.free_bits_groups == "all" else bound.kl_dimensions.mean(0)
        return groups.clamp_min(free / len(groups)).sum() - bound.reconstruction.mean()

    def _noise(self, step: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Normals [count, D] for z and, for data that are drawn, uniforms [count, 1, H, W] of a step."""
        split, B, D = self.split, max(self.config.batch_size, count), self.model.config.latent_size
        pixels = split.height * split.width if split.dynamic else 0
        normals, uniforms = noise.normals_and_uniforms(
            self.config.seed, noise.TRAINING, step % 2**63, 1, B * D, B * pixels
        )
        shaped = uniforms.view(B, 1, split.height, split.width)[:count] if split.dynamic else None
        shaped = None if shaped is None else shaped.to(self.device)
        return normals.view(B, D)[:count].to(self.device), shaped

    def _images(self, indices: NDArray[np.int64], uniforms: Tensor | None) -> Tensor:
        if self._resident is None:
            chances = self.split.probabilities(indices).to(self.device)
        else:
            chances = self._resident[torch.tensor(indices, device=self.device)]
        return chances if uniforms is None else (uniforms < chances).float()

    def _pixels(self) -> Tensor | None:
        """All training images on the device, or None where they would take more than RESIDENT_BYTES."""
        pixels = len(self.split) * self.split.height * self.split.width
        return self.split.probabilities(slice(None)).to(self.device) if 4 * pixels <= RESIDENT_BYTES else None

    # --- validation ---------------------------------------------------------------------------------------------

    def _validation_images(self) -> Tensor:
        split = self.dataset.valid
        chosen = noise.permutation(self.config.seed, 2**32, len(split))[: self.config.validation_images]
        return split.fixed()[torch.from_numpy(np.sort(chosen))]

    @torch.no_grad()
    def _validate(self, rows: list[Bound], bar: Bar) -> None:
        """Writes a line of metrics.jsonl, curves and samples, and the weights if they are the best so far."""
        D = self.model.config.latent_size
        normals, _ = noise.normals_and_uniforms(self.config.seed, noise.POSTERIOR, 0, len(self.valid_images), D)
        normals = normals.to(self.device)
        bounds = [
            self.average.elbo(images, noise=eps)
            for images, eps in zip(self.valid_images.split(256), normals.split(256), strict=True)
        ]
        row: Row = {
            "step": self.progress.step,
            "epoch": self.progress.step / self.steps_per_epoch,
            "seconds": round(self.progress.seconds, 3),
            "kl_weight": self.progress.kl_weight,
        }
        for split, parts in (("train", rows), ("valid", bounds)):
            row[f"{split}_negative_elbo_nats"] = -torch.cat([b.elbo for b in parts]).double().mean().item()
            row[f"{split}_kl_nats"] = torch.cat([b.kl for b in parts]).double().mean().item()
        gaussian = latent.moments(self.average, self.valid_images)
        row["active_units"] = None if gaussian is None else latent.active_units(gaussian[0])
        coded = self.average.encoder is not None
        row["warning"] = latent.collapse(row["valid_kl_nats"], row["active_units"]) if coded else None
        if not self.quiet:
            bar.write(
                f"epoch {row['epoch']:.2f}: validation {row['valid_negative_elbo_nats']:.2f} nats, "
                f"KL {row['valid_kl_nats']:.2f} nats; training {row['train_negative_elbo_nats']:.2f} nats"
            )
        if row["warning"] is not None:
            bar.write(f"WARNING: {row['warning']}")
        plots.curves(self.folder.append_metrics(row), self.out / "curves.png")
        plots.image_grid(self.average.sample(100, seed=self.config.seed), 10, self.out / "samples.png")
        if row["valid_negative_elbo_nats"] < self.progress.best_nats or self.config.train_on == "train+validation":
            self.progress.best_nats = row["valid_negative_elbo_nats"]
            self.folder.save_weights(self.average.state_dict())

    def _bar(self, last_step: int | None, total_seconds: float | None) -> Bar:
        if total_seconds is not None:
            bar = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of training, {remaining} left{postfix}"
            done = min(self.progress.seconds, total_seconds)
            return progress(quiet=self.quiet, total=total_seconds, initial=done, bar_format=bar)
        return progress(quiet=self.quiet, total=last_step, initial=self.progress.step, unit="step")

    @staticmethod
    def _show(bar: Bar, bound: Bound, seconds: float, in_seconds: bool) -> None:
        bar.update(min(seconds, bar.total - bar.n) if in_seconds else 1)
        bar.set_postfix(
            {
                "nats": f"{-bound.elbo.mean().item():.1f}",
                "KL": f"{bound.kl.mean().item():.1f}",
                "images/s": f"{len(bound.kl) / seconds:.0f}",
            },
            refresh=False,
        )

    # --- the state ----------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            if not state:  # what Adamax starts from
                state.update(
                    step=torch.tensor(0.0), exp_avg=torch.zeros_like(parameter), exp_inf=torch.zeros_like(parameter)
                )
            tensors |= {f"optimizer.{name}.{key}": t for key, t in state.items()}
        return tensors

    def save(self) -> None:
        """Writes the whole state, once a step. Raises CheckpointError; the state on the disk stays as it is."""
        if self._saved_step != self.progress.step:
            self.folder.save_state(self._tensors(), self.progress)
            self._saved_step = self.progress.step

    def _load(self) -> None:
        mine = self._tensors()
        tensors, self.progress = self.folder.load_state(mine)
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])
        self._saved_step = self.progress.step


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list instead of dying of the first; a second one acts as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handler(number: int, frame: Any) -> None:
        received.append(number)
        for signal_number, old in previous.items():
            signal.signal(signal_number, old)

    for interrupt in (signal.SIGINT, signal.SIGTERM):
        previous[interrupt] = signal.signal(interrupt, handler)
    try:
        yield received
    finally:
        for signal_number, old in previous.items():
            signal.signal(signal_number, old)
