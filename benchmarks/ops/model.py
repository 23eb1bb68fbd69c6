"""End to end with the paper's model: training, evaluation and drawing, against the same model in plain torch.

That is: the same weights, the ops' reference meaning, torch.compile where it helps.
"""

import copy
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.case import OURS, Call, Case, Contender, OnGpu, Size, Work, compiled
from benchmarks.ops import made, pixelcnn
from benchmarks.ops.made_contenders import inverse_incremental, inverse_naive
from benchmarks.ops.pixelcnn_contenders import WavefrontSampler, log_prob_channels_last, sample_naive
from vlae_fast import VLAE, VLAEConfig, masks, noise, reference, use_backend
from vlae_fast.optimizer import AveragingAdamax


class Inputs(NamedTuple):
    """A model, images and the noise of their codes. The model is copied by whatever changes it."""

    model: VLAE
    x: Tensor
    eps: Tensor

    def own(self) -> "Inputs":
        return copy.deepcopy(self)


def draw(N: int) -> Inputs:
    model = VLAE(VLAEConfig.preset("paper"))
    model.initialize((torch.rand(256, 1, 28, 28) < 0.2).float())
    return Inputs(model.eval(), (torch.rand(N, 1, 28, 28) < 0.2).float(), torch.randn(N, model.config.latent_size))


def work(N: int, encoded: int | None = None) -> Work:
    """The bound of N codes of `encoded` images (default N); 0: drawing, where the encoder does not run."""
    model, encoded = VLAE(VLAEConfig.preset("paper")), N if encoded is None else encoded
    c = model.config
    needed = pixelcnn.work(N, c.height, c.pixelcnn_channels, c.pixelcnn_layers, c.pointwise_blocks, c.context_maps)
    needed += made.flow_work(N, masks.made_degrees(c.latent_size, c.flow_hidden), c.latent_size, c.flow_steps)
    for network, inputs, count in (
        (model.encoder, torch.zeros(1, 1, c.height, c.width), encoded),
        (model.decoder, torch.zeros(1, c.latent_size), N),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), use_backend("reference"):
            network(inputs)
        weights = sum(p.numel() for p in network.parameters()) if count else 0
        needed += Work(count * counter.get_total_flops() / 2, 4 * weights)
    return needed


# --- ways to run the model ------------------------------------------------------------------------------------------


def in_torch(model: VLAE) -> VLAE:
    """The model with its convolutions laid out as torch does them fastest: channels last where they double."""

    def forward(net: Any, x: Tensor, weights: Any, output: Any = None) -> Tensor:
        layout = torch.contiguous_format if output is None else torch.channels_last
        return reference.resnet(x.contiguous(memory_format=layout), net.params(weights, output))

    for network in (model.encoder, model.decoder):
        network.blocks.forward = partial(forward, network.blocks)
    return model


def on_reference(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same call with the reference ops."""

    def run(*arguments: Any, **named: Any) -> Any:
        with use_backend("reference"):
            return function(*arguments, **named)

    return run


def channels_last(model: VLAE) -> VLAE:
    """The model with its PixelCNN's activations channels last, which suits torch.compile."""
    net = model.pixelcnn
    net.log_prob = lambda x, context: log_prob_channels_last(x, context, net.params(), net.spec)
    return model


ELBO: dict[str, Callable[[VLAE], Callable[..., Any]]] = {
    OURS: lambda model: model.elbo,
    "torch eager": lambda model: on_reference(in_torch(model).elbo),
    "torch.compile": lambda model: on_reference(compiled(in_torch(model).elbo)),
    "torch.compile, channels last": lambda model: on_reference(compiled(channels_last(in_torch(model)).elbo)),
}


# --- drawing: also the claim that it costs no more than scoring the same number of images once in plain torch ------

SCORING_ONCE = "scoring once, "


def scoring(elbo: Callable[[VLAE], Callable[..., Any]]) -> Contender:
    def prepare(inputs: Inputs) -> Call:
        score = elbo(copy.deepcopy(inputs.model))
        return torch.no_grad()(lambda: score(inputs.x, noise=inputs.eps).elbo)

    return prepare


SCORING = {name: scoring(elbo) for name, elbo in ELBO.items()}


def check_scored(inputs: Inputs, result: Tensor) -> None:
    torch.testing.assert_close(result, inputs.model.elbo(inputs.x, noise=inputs.eps).elbo, rtol=1e-4, atol=1e-2)


@torch.no_grad()
def drawing(inputs: Inputs, flow: Callable[..., Any], sampler: Callable[..., Any]) -> Call:
    """With the flow and the PixelCNN that these make of their parameters."""
    model, n = in_torch(copy.deepcopy(inputs.model)), len(inputs.x)
    c, decoder, codes = model.config, on_reference(compiled(model.decoder)), flow(model.prior_flow.params())
    pixels = sampler(model.pixelcnn.params(), model.pixelcnn.spec)

    @torch.no_grad()
    def run() -> Tensor:
        images = []
        for first in range(0, n, 256):  # as model.sample does: the caches stay small
            count = min(256, n - first)
            eps, uniforms = noise.normals_and_uniforms(0, noise.SAMPLE, first, count, c.latent_size, c.height * c.width)
            images.append(pixels(decoder(codes(eps)).contiguous(), uniforms.view(count, c.height, c.width)))
        return torch.cat(images)

    return run


DRAWING: dict[str, Contender] = {
    OURS: lambda inputs: partial(inputs.model.sample, len(inputs.x)),
    # the best plain torch that we know: incremental flow, compiled decoder, wavefront of cached activations
    "torch cached, wavefront": lambda inputs: drawing(inputs, inverse_incremental, WavefrontSampler),
    # a whole compiled pass of the PixelCNN for every pixel, and of a flow step for every dimension
    "torch naive, torch.compile": lambda inputs: drawing(
        inputs,
        inverse_naive,
        lambda params, spec: partial(sample_naive, params, spec, compiled(reference.pixelcnn_logits)),
    ),
    **{SCORING_ONCE + name: contender for name, contender in SCORING.items() if name != OURS},
}


def draws_quickly(contender: str, size: Size) -> bool:
    if contender in ("torch naive, torch.compile", SCORING_ONCE + "torch.compile"):
        return False
    return size["N"] in ((256,) if contender.startswith(SCORING_ONCE) else (1, 16, 256, 1024))


def check_drawn(inputs: Inputs, result: Tensor) -> None:
    if result.ndim == 1:  # scored instead, on purpose
        return check_scored(inputs, result)
    differ = (result != inputs.model.sample(len(result))).flatten(1).any(1)  # a tie, and all that follows it
    assert differ.sum() <= len(result) // 50


# --- evaluation: N codes of one image -------------------------------------------------------------------------------


def compiled_likelihood(model: VLAE) -> Callable[..., Tensor]:
    """`model.log_likelihood` with its inner part, the bound of up to 256 codes, compiled."""
    model._bound = compiled(in_torch(model)._bound)
    return on_reference(model.log_likelihood)


def evaluation(make: Callable[[VLAE], Callable[..., Tensor]]) -> Contender:
    def prepare(inputs: Inputs) -> Call:
        return partial(make(copy.deepcopy(inputs.model)), inputs.x[:1], samples=len(inputs.x))

    return prepare


EVALUATION = {
    OURS: evaluation(lambda model: model.log_likelihood),
    "torch eager": evaluation(lambda model: on_reference(in_torch(model).log_likelihood)),
    "torch.compile": evaluation(compiled_likelihood),
    "torch.compile, channels last": evaluation(lambda model: compiled_likelihood(channels_last(model))),
}


def check_evaluation(inputs: Inputs, log_likelihood: Tensor) -> None:
    torch.testing.assert_close(log_likelihood, EVALUATION[OURS](inputs)(), rtol=1e-4, atol=1e-3)


# --- training: one step of Adamax on the bound of N images ----------------------------------------------------------


class Training:
    """A model of its own with its optimiser; a call is a step and returns it."""

    def __init__(self, inputs: Inputs, elbo: Callable[[VLAE], Callable[..., Any]]) -> None:
        self.model, self.x, self.eps = inputs.own()
        self.elbo = elbo(self.model.train())
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=0.002)

    def gradients(self) -> list[Tensor]:
        self.optimizer.zero_grad()
        (-self.elbo(self.x, noise=self.eps).elbo.mean()).backward()
        return [p.grad for p in self.model.parameters()]

    def __call__(self) -> "Training":
        self.gradients()
        self.optimizer.step()
        return self


class TrainerStep(Training):
    """With the average of the weights, as a training makes its steps; torch's own way, all tensors in one call."""

    def __init__(self, inputs: Inputs, elbo: Callable[[VLAE], Callable[..., Any]]) -> None:
        super().__init__(inputs, elbo)
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=0.002, foreach=True)
        self.averages = [p.detach().clone() for p in self.model.parameters()]
        self.move_averages = torch.no_grad()(get_ema_multi_avg_fn(KEEP))

    def __call__(self) -> "Training":
        super().__call__()
        self.move_averages(self.averages, list(self.model.parameters()), 0)
        return self


class OurTrainerStep(Training):
    """In one pass, as `Trainer` does."""

    def __init__(self, inputs: Inputs, elbo: Callable[[VLAE], Callable[..., Any]]) -> None:
        super().__init__(inputs, elbo)
        weights = list(self.model.parameters())
        self.optimizer = AveragingAdamax(weights, [p.detach().clone() for p in weights], lr=0.002, keep=KEEP)


KEEP = 0.999
TRAINER_STEP: dict[str, Contender] = {
    name: partial(OurTrainerStep if name == OURS else TrainerStep, elbo=elbo) for name, elbo in ELBO.items()
}


def check_training(inputs: Inputs, theirs: Training) -> None:
    ours = Training(inputs, ELBO[OURS])
    ours.model.load_state_dict(theirs.model.state_dict())
    for actual, expected in zip(theirs.gradients(), ours.gradients(), strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm() + 1e-6


def training_work(N: int) -> Work:
    """Bound, gradients and a step of Adamax, which reads and writes every weight and its two moments."""
    weights = sum(p.numel() for p in VLAE(VLAEConfig.preset("paper")).parameters())
    return work(N).with_gradients() + Work(0, 4 * 6 * weights)


def trains_quickly(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 256))


# --- two threads over one -----------------------------------------------------------------------------------------


def on_threads(count: int, contender: Contender) -> Contender:
    """The call on so many threads; between calls there is one."""

    def prepare(inputs: Inputs) -> Call:
        call = contender(inputs)

        def run() -> Any:
            torch.set_num_threads(count)
            try:
                return call()
            finally:
                torch.set_num_threads(1)

        return run

    return prepare


def on_two_threads(case: Case, N: int) -> Case:
    """Ours against itself on one thread; the floor is that of two cores that share no memory."""

    def halved(N: int) -> Work:
        work = case.work(N)
        return Work(work.multiply_adds / 2, work.bytes / 2)

    ours = case.contenders[OURS]
    return Case(
        op=f"{case.op}, two threads",
        draw=case.draw,
        contenders={OURS: on_threads(2, ours), "one thread": on_threads(1, ours)},
        work=halved,
        check=case.check,
        base={},
        axes={"N": (N,)},
        quick=lambda contender, size: (os.cpu_count() or 1) > 1,
    )


def on_gpu(*contenders: str, batches: tuple[int, ...]) -> OnGpu:
    return OnGpu(tuple({"N": N} for N in batches), contenders, ungraphed=(OURS, *contenders))


COMMON: dict[str, Any] = {"draw": draw, "base": {}, "axes": {"N": (1, 16, 64, 256, 1024)}, "memory": True}
MODEL_CASES = (
    Case(
        op="model.sample",
        contenders=DRAWING,
        work=lambda N: work(N, encoded=0),
        check=check_drawn,
        quick=draws_quickly,
        runs=lambda contender, size: not contender.startswith("torch naive") or size["N"] <= 16,
        compared=({"N": 16},),
        gpu=on_gpu(SCORING_ONCE + "torch eager", batches=(1, 64, 4096)),
        **COMMON,
    ),
    Case(
        op="model.log_likelihood",
        contenders=EVALUATION,
        work=lambda N: work(N, encoded=1),
        check=check_evaluation,
        quick=lambda contender, size: contender != "torch.compile" and size["N"] == 256,
        gpu=on_gpu(batches=(256, 4096)),
        **COMMON,
    ),
    Case(
        op="model.elbo",
        contenders=SCORING,
        work=work,
        check=check_scored,
        quick=lambda contender, size: contender != "torch.compile" and size["N"] == 256,
        **COMMON,
    ),
    Case(
        op="training step",
        contenders={name: partial(Training, elbo=elbo) for name, elbo in ELBO.items()},
        work=training_work,
        check=check_training,
        quick=trains_quickly,
        compared=({"N": 16},),
        gpu=on_gpu("torch eager", batches=(128, 1024)),
        **COMMON,
    ),
)
TRAINER_CASE = Case(
    op="training step and average",
    contenders=TRAINER_STEP,
    work=lambda N: training_work(N) + Work(0, 4 * 2 * sum(p.numel() for p in draw(1).model.parameters())),
    check=check_training,
    quick=lambda contender, size: contender != "torch.compile",
    **COMMON | {"axes": {"N": (32, 64)}},
)
CASES = (
    *MODEL_CASES,
    TRAINER_CASE,
    *(on_two_threads(case, 64 if case.op == "training step" else 256) for case in MODEL_CASES),
)
