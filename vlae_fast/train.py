"""Training: Adamax with free bits and Polyak averaging (the paper's appendix A), resumable at every step."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vlae_fast import latent, noise, plots
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.checks import NonFiniteError
from vlae_fast.config import TrainConfig, VLAEConfig
from vlae_fast.console import Bar, stop_on_signal
from vlae_fast.data import Dataset
from vlae_fast.device import pick
from vlae_fast.model import VLAE, Bound
from vlae_fast.objective import free_bits_loss
from vlae_fast.run_folder import Progress, Row, RunFolder

__all__ = ["DivergedError", "Trainer", "UnsavedError"]

LEAST_STEPS = 20
"""Steps between two validations at least: on a small data set they would take longer than the training."""
BAD_STEPS = 10
"""Steps in a row that are skipped, as they gave NaN or infinity, before the training ends."""
BAD_SHARE = 0.1
"""Share of skipped steps from which on a training has failed."""
NORM_KEPT = 0.98
"""Share of the running norm of the gradient that each step keeps."""

RESIDENT_BYTES = 2**30
"""Training images that take no more live on the GPU."""


class DivergedError(RuntimeError):
    """The training cannot go on, or skipped too many steps; the last good state is on the disk."""


class UnsavedError(RuntimeError):
    """The training ended, and its last state or its last figures could not be written."""


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
            count = min(max(self.model.chunk, self._batch), len(self.split))
            self.model.initialize(self._images(np.arange(count), self._noise(-1, count)[1]).cpu())
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        """Polyak average of the weights: what is validated and written to model.safetensors."""
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=config.learning_rate)
        """Adamax."""
        self._saved_step: int | None = None
        self._unwritten: str | None = None
        if resumed:
            self._load()
        self.folder.drop_metrics_after(self.progress.step)
        if self.progress.step == 0:
            first = noise.permutation(config.seed, 0, len(self.split))[:100]
            plots.image_grid(self._images(first, self._noise(-1, len(first))[1]), 10, self.out / "data.png")

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every training image once."""
        return -(-len(self.split) // self._batch)

    @property
    def _batch(self) -> int:
        """Images of a step, the last one of an epoch excepted."""
        return min(self.config.batch_size, len(self.split))

    def run(self, *, minutes: float | None = None, epochs: float | None = None) -> bool:
        """Trains until the run has `minutes` of training steps or `epochs` behind it, is annealed, or a signal comes.

        Both count from the run's beginning, over all resumptions. Returns False if a signal ended it, or nobody reads
        its output any more; the state is saved. In a thread other than the main one signals act as usual. What cannot
        be written is tried again later.

        Raises DivergedError, the last good state saved, where ten steps in a row, or a tenth of all, give NaN or
        infinity; UnsavedError where in the end something remains unwritten; CheckpointError where another process
        trains in this folder.
        """
        ends = [epoch for epoch in (epochs, self.config.anneal_to or None) if epoch is not None]
        last_step = round(min(ends) * self.steps_per_epoch) if ends else None
        total_seconds = None if minutes is None else 60 * minutes
        interval = max(LEAST_STEPS, round(self.config.validation_epochs * self.steps_per_epoch))
        p = self.progress
        bad_steps = 0
        saved = time.monotonic()

        def done() -> bool:
            return (last_step is not None and p.step >= last_step) or (
                total_seconds is not None and p.seconds >= total_seconds
            )

        with self.folder.locked(), stop_on_signal() as stopped, self._bar(last_step, total_seconds) as bar:
            while True:
                if p.train_images and (p.step % interval == 0 or done()):
                    self._unwritten = _attempt(lambda: self._validate(bar), bar)
                    _attempt(self.save, bar)
                    saved = time.monotonic()
                elif time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    _attempt(self.save, bar)
                    saved = time.monotonic()
                if done() or stopped or bar.gone:
                    break
                start = time.monotonic()
                bound = self._step()
                bad_steps = 0 if bound is not None else bad_steps + 1
                if bad_steps == BAD_STEPS:
                    self._save_at_end()
                    raise DivergedError(
                        f"{BAD_STEPS} steps in a row gave NaN or infinity; the last good state is in {self.out}"
                    )
                p.step += 1
                seconds = time.monotonic() - start
                p.seconds += seconds
                if bound is None:
                    p.skipped_steps += 1
                else:
                    p.add(bound.elbo, bound.kl)
                self._show(bar, bound, seconds, total_seconds is not None)
            finished = done()
            self._save_at_end()
        if finished and p.skipped_steps >= BAD_SHARE * p.step > 0:
            raise DivergedError(
                f"{p.skipped_steps} of {p.step} steps gave NaN or infinity and were skipped; the state is in {self.out}"
            )
        return finished

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
        B = self._batch
        order = noise.permutation(self.config.seed, epoch, len(self.split))
        indices = order[position * B : (position + 1) * B]
        normals, uniforms = self._noise(self.progress.step, len(indices))
        self.optimizer.zero_grad()
        try:
            bound = self.model.elbo(self._images(indices, uniforms), noise=normals)
        except NonFiniteError:
            return None
        pixels = self.split.height * self.split.width
        loss, kl_weight = free_bits_loss(bound, self.config, pixels, self.progress.kl_weight)
        loss.backward()
        if not (math.isfinite(loss.item()) and self._clip()):
            return None
        self.progress.kl_weight = kl_weight
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

    def _clip(self) -> bool:
        """Scales a gradient down that is far longer than those before it; False where it is not finite.

        A limit in absolute numbers would depend on the pixels that the bound sums over, and a step left out would leave
        the weights where the gradient is large.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(norm):
            return False
        usual = self.progress.gradient_norm or norm
        limit = self.config.gradient_clip * usual
        if norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
            self.progress.clipped_steps += 1
        self.progress.gradient_norm = NORM_KEPT * usual + (1 - NORM_KEPT) * min(norm, limit)
        return True

    def _noise(self, step: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Normals [count, D] for z and, for data that are drawn, uniforms [count, 1, H, W] of a step."""
        split, B, D = self.split, max(self._batch, count), self.model.config.latent_size
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
    def _validate(self, bar: Bar) -> None:
        """Writes a line of metrics.jsonl, curves and samples, and the weights if they are the best so far."""
        D, chunk, p = self.model.config.latent_size, self.model.chunk, self.progress
        normals, _ = noise.normals_and_uniforms(self.config.seed, noise.POSTERIOR, 0, len(self.valid_images), D)
        normals = normals.to(self.device)
        try:
            bounds = [
                self.average.elbo(images, noise=eps)
                for images, eps in zip(self.valid_images.split(chunk), normals.split(chunk), strict=True)
            ]
        except NonFiniteError as error:
            raise DivergedError(f"validation failed ({error}); the last state is in {self.out}") from None
        elbo, kl = (torch.cat([getattr(b, name) for b in bounds]).double() for name in ("elbo", "kl"))
        row: Row = {
            "step": p.step,
            "epoch": p.step / self.steps_per_epoch,
            "seconds": round(p.seconds, 3),
            "kl_weight": p.kl_weight,
            "skipped_steps": p.skipped_steps,
            "clipped_steps": p.clipped_steps,
            "train_negative_elbo_nats": p.train_negative_elbo_nats / p.train_images,
            "train_kl_nats": p.train_kl_nats / p.train_images,
            "valid_negative_elbo_nats": -elbo.mean().item(),
            "valid_kl_nats": kl.mean().item(),
        }
        gaussian = latent.moments(self.average, self.valid_images)
        row["active_units"] = None if gaussian is None else latent.active_units(gaussian[0])
        coded = self.average.encoder is not None
        row["warning"] = latent.collapse(kl, row["active_units"]) if coded else None
        plots.curves(self.folder.append_metrics(row), self.out / "curves.png")
        plots.image_grid(self.average.sample(100, seed=self.config.seed), 10, self.out / "samples.png")
        if row["valid_negative_elbo_nats"] < p.best_nats or self.config.train_on == "train+validation":
            self.folder.save_weights(self.average.state_dict())
            p.best_nats = row["valid_negative_elbo_nats"]
        p.forget_sums()
        if not self.quiet:
            bar.write(
                f"epoch {row['epoch']:.2f}: validation {row['valid_negative_elbo_nats']:.2f} nats, "
                f"KL {row['valid_kl_nats']:.2f} nats; training {row['train_negative_elbo_nats']:.2f} nats"
            )
        if row["warning"] is not None:
            bar.write(f"WARNING: {row['warning']}")

    def _bar(self, last_step: int | None, total_seconds: float | None) -> closing[Bar]:
        if total_seconds is not None:
            form = "{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of training, {remaining} left{postfix}"
            done = min(self.progress.seconds, total_seconds)
            return closing(Bar(quiet=self.quiet, total=total_seconds, initial=done, bar_format=form))
        return closing(Bar(quiet=self.quiet, total=last_step, initial=self.progress.step, unit="step"))

    def _show(self, bar: Bar, bound: Bound | None, seconds: float, in_seconds: bool) -> None:
        figures = {"skipped": str(self.progress.skipped_steps)} if self.progress.skipped_steps else {}
        if bound is not None:
            figures |= {
                "nats": f"{-bound.elbo.mean().item():.1f}",
                "KL": f"{bound.kl.mean().item():.1f}",
                "images/s": f"{len(bound.kl) / seconds:.0f}",
            }
        bar.update(seconds if in_seconds else 1, figures)

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

    def _save_at_end(self) -> None:
        """Raises UnsavedError where that, or the last validation, cannot be written."""
        try:
            self.save()
        except CheckpointError as error:
            self._unwritten = str(error)
        if self._unwritten is not None:
            raise UnsavedError(f"{self._unwritten}; the state there is that of step {self._saved_step}")

    def _load(self) -> None:
        mine = self._tensors()
        tensors, self.progress = self.folder.load_state(mine)
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])
        self._saved_step = self.progress.step


def _attempt(write: Callable[[], None], bar: Bar) -> str | None:
    """Writes something to the run folder; says and returns what prevents it, which is no reason to end the training."""
    try:
        write()
    except CheckpointError as error:
        bar.write(f"WARNING: {error}; the training goes on and tries again")
        return str(error)
    return None
