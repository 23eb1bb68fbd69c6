"""Training: Adamax with free bits and Polyak averaging (the paper's appendix A), resumable at every step."""

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlae_fast import latent, noise, plots
from vlae_fast.batches import Batch, Batches
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.checks import NonFiniteError, flag, instance, path, real
from vlae_fast.config import TrainConfig, VLAEConfig
from vlae_fast.console import Bar, stop_on_signal
from vlae_fast.data import Dataset
from vlae_fast.device import pick
from vlae_fast.distributed import ALONE, LostError, World, launched
from vlae_fast.model import VLAE, Bound
from vlae_fast.objective import free_bits_loss
from vlae_fast.optimizer import AveragingAdamax
from vlae_fast.run_folder import FREE, Progress, Row, RunFolder

__all__ = ["DivergedError", "Trainer", "UnsavedError"]

LEAST_STEPS = 20
"""Steps between two validations at least: on a small data set they would take longer than the training."""
BAD_STEPS = 10
"""Steps in a row that are skipped, as they gave NaN or infinity, before the training ends."""
BAD_SHARE = 0.1
"""Share of skipped steps from which on a training has failed."""
NORM_KEPT = 0.98
"""Share of the running norm of the gradient that each step keeps."""


class DivergedError(RuntimeError):
    """The training cannot go on, or skipped too many steps; the last good state is on the disk."""


class UnsavedError(RuntimeError):
    """The training ended, and its last state or its last figures could not be written."""


class Trainer:
    """One training in a run folder; creating it for a folder that holds a state resumes that.

    Each process of a `world` has one: they train as one process would, up to the order of summation. The first of them
    alone needs the folder.

    Raises CheckpointError where the folder holds another config or damaged files, or was learned from other images, and
    ValueError where the model to start from is another than `model`, the device does not work, or the processes have
    not all got the same; LostError where one of them has gone.
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
        world: World = ALONE,
    ) -> None:
        self.config = instance("config", config, TrainConfig)
        """How it learns."""
        self.dataset, self.out = instance("dataset", dataset, Dataset), path("out", out)
        self.world = instance("world", world, World)
        """The processes that train together."""
        sizes = tuple((images.height, images.width) for images in (instance("model", model, VLAEConfig), dataset.train))
        if sizes[0] != sizes[1]:
            raise ValueError(f"model: height, width {sizes[1]}, those of {dataset.name}, wanted, got {sizes[0]}")
        self.device = pick(device)
        """Where the model and its optimiser are; noise and initial weights are made on the CPU, the same for all."""
        self.quiet = flag("quiet", quiet) or not world.first
        """Show no bar and no figures."""
        both = config.train_on == "train+validation"
        self.split = dataset.train.joined(dataset.valid) if both else dataset.train
        """Images to learn from."""
        self.progress = Progress()
        """Steps done, and what else changes beside tensors."""
        resumed = world.first and RunFolder.has_state(self.out)
        start = VLAE.from_pretrained(config.start_from) if world.first and config.start_from and not resumed else None
        torch.manual_seed(config.seed)
        with torch.device("cpu"):
            self.model = VLAE(model).float()  # whatever torch's default dtype is
        """What the optimiser moves."""
        if start is not None:
            self._start_from(start)
        self.batches = Batches(self.split, config, model.latent_size, self.device, world)
        """What each step learns from."""
        self.valid_images = self._validation_images().to(self.device)
        """Images [n, 1, H, W] that every validation looks at."""
        self.folder = RunFolder(self.out, dataset, model, config) if world.first else None
        """What lies on the disk; None in a process that does not write."""
        resumed = world.first and RunFolder.has_state(self.out)  # somebody may have trained here since
        if world.first and not resumed and start is None:
            count = min(max(self.model.chunk, self.batches.size), len(self.split))
            self.model.initialize(self.batches.beginning(np.arange(count)).cpu())
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model)
        """Polyak average of the weights: what is validated and written to model.safetensors."""
        self.optimizer = AveragingAdamax(
            list(self.model.parameters()), list(self.average.parameters()), config.learning_rate
        )
        """Adamax."""
        self._saved_step: int | None = None
        self._saved_seconds = time.monotonic()
        self._unwritten: str | None = None
        if self.folder is not None:
            if resumed:
                self._load(self.folder)
            self.folder.drop_metrics_after(self.progress.step)
            if self.progress.step == 0:
                first = noise.permutation(config.seed, 0, len(self.split))[:100]
                plots.image_grid(self.batches.beginning(first), 10, self.out / "data.png")
        if world.size > 1:
            self._begin_alike(model)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that show every training image once."""
        return self.batches.steps_per_epoch

    def run(self, *, minutes: float | None = None, epochs: float | None = None) -> bool:
        """Trains until the run has `minutes` of training steps or `epochs` behind it, is annealed, or a signal comes.

        It is one step at least. Both count from the run's beginning, over all resumptions. Returns False if a signal
        ended it, or nobody reads its output any more; the state is saved. In a thread other than the main one signals
        act as usual. What cannot be written is tried again later.

        Of several processes all end at the same step, whichever gets the signal; the first one's minutes count.

        Raises TypeError or ValueError where these are no positive numbers;
        DivergedError, the last good state saved, where ten steps in a row, or a tenth of all, give NaN or
        infinity; UnsavedError where in the end something remains unwritten; CheckpointError where another training runs
        in this folder; LostError where another process of the job has gone, the state saved if the first one is left.
        """
        minutes = None if minutes is None else real("minutes", minutes, positive=True)
        epochs = None if epochs is None else real("epochs", epochs, positive=True)
        ends = [epoch for epoch in (epochs, self.config.anneal_to or None) if epoch is not None]
        last_step = max(1, round(min(ends) * self.steps_per_epoch)) if ends else None
        total_seconds = None if minutes is None or not self.world.first else 60 * minutes
        p = self.progress

        def done() -> bool:
            return (last_step is not None and p.step >= last_step) or (
                total_seconds is not None and p.seconds >= total_seconds
            )

        locked = nullcontext() if self.folder is None else self.folder.locked()
        signals = stop_on_signal(insistent=not launched())
        with locked, signals as stopped, self._bar(last_step, total_seconds) as bar:
            try:
                finished = self._steps(done, stopped, bar, total_seconds is not None)
            except LostError as error:
                if self.folder is None:
                    raise
                self._save_at_end()
                raise LostError(f"{error}; the state of step {p.step} is in {self.out}") from None
            self._save_at_end()
        if finished and p.skipped_steps >= BAD_SHARE * p.step > 0:
            raise DivergedError(
                f"{p.skipped_steps} of {p.step} steps gave NaN or infinity and were skipped; the state is in {self.out}"
            )
        return finished

    def _steps(self, done: Callable[[], bool], stopped: list[int], bar: Bar, in_seconds: bool) -> bool:
        """Trains until all is done, or something else ends it: False. `in_seconds` is what the bar counts."""
        interval = max(LEAST_STEPS, round(self.config.validation_epochs * self.steps_per_epoch))
        p = self.progress
        bad_steps = 0
        self._saved_seconds = time.monotonic()
        while True:
            if self.folder is not None:
                self._record(bar, p.train_images > 0 and (p.step % interval == 0 or done()))
            finished, ended = self.world.any(done(), bool(stopped) or bar.gone, device=self.device)
            if finished or ended:
                return finished
            start = time.monotonic()
            batch = self.batches.of_step(p.step)
            mean = self._step(batch)
            bad_steps = 0 if mean is not None else bad_steps + 1
            if bad_steps == BAD_STEPS:
                self._save_at_end()
                raise DivergedError(
                    f"{BAD_STEPS} steps in a row gave NaN or infinity; the last good state is in {self.out}"
                )
            p.step += 1
            seconds = time.monotonic() - start
            p.seconds += seconds
            figures = {}
            if mean is None:
                p.skipped_steps += 1
            else:
                elbo, kl = mean.elbo.item(), mean.kl.item()
                p.add(batch.size, elbo, kl)
                figures = {"nats": f"{-elbo:.1f}", "KL": f"{kl:.1f}", "images/s": f"{batch.size / seconds:.0f}"}
            skipped = {"skipped": str(p.skipped_steps)} if p.skipped_steps else {}
            bar.update(seconds if in_seconds else 1, skipped | figures)

    def _record(self, bar: Bar, due: bool) -> None:
        """Validates where that is due, and writes the state then and every few minutes."""
        if due:
            self._unwritten = _attempt(lambda: self._validate(bar), bar)
        if due or time.monotonic() - self._saved_seconds > 60 * self.config.checkpoint_minutes:
            _attempt(self.save, bar)
            self._saved_seconds = time.monotonic()

    def _begin_alike(self, model: VLAEConfig) -> None:
        """Takes the first process's state, once it is clear that all have the same to do."""
        training = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in FREE}
        self.world.check_same("options", json.dumps([dataclasses.asdict(model), training, self.device.type]))
        self.world.check_same("data", self.dataset.digest())
        self.world.spread(self._tensors().values())
        self.progress = Progress.from_json(self.world.text(self.progress.to_json()))

    def _start_from(self, other: VLAE) -> None:
        for field in dataclasses.fields(other.config):
            wanted, got = getattr(other.config, field.name), getattr(self.model.config, field.name)
            if got != wanted:
                raise ValueError(f"model.{field.name}: {wanted}, as in {self.config.start_from}, wanted, got {got}")
        self.model.load_state_dict(other.state_dict())

    # --- one step -----------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> Bound | None:
        """Moves the weights by one batch; None if the guard skipped it, else the means of its bounds: [], [], [D]."""
        self.optimizer.zero_grad()
        mean = self._mean_bound(batch)
        pixels = self.split.height * self.split.width
        loss, kl_weight = free_bits_loss(mean, self.config, pixels, self.progress.kl_weight)
        if not math.isfinite(loss.item()):
            return None
        loss.backward()
        if not self._clip():
            return None
        self.progress.kl_weight = kl_weight
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._annealed()
        # Early on the average forgets faster, or the first weights would weigh in it for a thousand steps.
        self.optimizer.keep = min(self.config.polyak, (1 + self.progress.step) / (10 + self.progress.step))
        self.optimizer.step()
        return Bound(*(t.detach() for t in mean))

    def _mean_bound(self, batch: Batch) -> Bound:
        """Over the images of all processes, the same bits in each; NaN where one of them says NonFiniteError."""
        try:
            bound = self.model.elbo(batch.images, noise=batch.normals)
            sums = torch.cat([bound.reconstruction.sum()[None], bound.kl.sum()[None], bound.kl_dimensions.sum(0)])
        except NonFiniteError:
            D = 1 if self.model.encoder is None else self.model.config.latent_size
            sums = torch.full((2 + D,), math.nan, device=self.device)
        means = self.world.total(sums) / batch.size
        return Bound(means[0], means[1], means[2:])

    def _annealed(self) -> float:
        """Share of the step size that this step has."""
        start, end = self.config.anneal_from, self.config.anneal_to
        epoch = self.progress.step / self.steps_per_epoch
        return min(1.0, (end - epoch) / (end - start)) if end else 1.0

    def _clip(self) -> bool:
        """Adds up the gradients of all processes, and scales the sum down where it is far longer than those before it.

        False where it is not finite.

        A limit in absolute numbers would depend on the pixels that the bound sums over, and a step left out would leave
        the weights where the gradient is large.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.world.add(*gradients)
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

    # --- validation ---------------------------------------------------------------------------------------------

    def _validation_images(self) -> Tensor:
        split = self.dataset.valid
        chosen = noise.permutation(self.config.seed, 2**32, len(split))[: self.config.validation_images]
        return split.fixed()[torch.from_numpy(np.sort(chosen))]

    @torch.no_grad()
    def _validate(self, bar: Bar) -> None:
        """Writes a line of metrics.jsonl, the weights if they are the best so far, and curves and samples."""
        assert self.folder is not None
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
        rows = self.folder.append_metrics(row)
        if row["valid_negative_elbo_nats"] < p.best_nats or self.config.train_on == "train+validation":
            self.folder.save_weights(self.average.state_dict())
            p.best_nats = row["valid_negative_elbo_nats"]
        plots.curves(rows, self.out / "curves.png")
        plots.image_grid(self.average.sample(100, seed=self.config.seed), 10, self.out / "samples.png")
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

    # --- the state ----------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            if not state:  # what Adamax starts from
                state.update(
                    step=torch.tensor(0.0, device="cpu"),
                    exp_avg=torch.zeros_like(parameter),
                    exp_inf=torch.zeros_like(parameter),
                )
            tensors |= {f"optimizer.{name}.{key}": t for key, t in state.items()}
        return tensors

    def save(self) -> None:
        """Writes the whole state, once a step; the first process does. Raises CheckpointError, nothing changed then."""
        if self.folder is not None and self._saved_step != self.progress.step:
            self.folder.save_state(self._tensors(), self.progress)
            self._saved_step = self.progress.step

    def _save_at_end(self) -> None:
        """Raises UnsavedError where that, or the last validation, cannot be written."""
        try:
            self.save()
        except CheckpointError as error:
            self._unwritten = str(error)
        if self._unwritten is not None:
            saved = "no state was" if self._saved_step is None else f"the state of step {self._saved_step} was"
            raise UnsavedError(f"{self._unwritten}; {saved} saved before")

    def _load(self, folder: RunFolder) -> None:
        mine = self._tensors()
        tensors, self.progress = folder.load_state(mine)
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
