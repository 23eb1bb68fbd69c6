"""End to end with the paper's model: training, evaluation and drawing, against the same model in plain torch.

Each also tells how much memory a call needs at its peak.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import contenders_model as contenders
import torch
import work
from cases import Size, cases
from contenders_torch import compiled
from torch import Tensor

from vlae_fast import VLAE, VLAEConfig

BASE: Size = {}
AXES = {"N": (1, 16, 64, 256, 1024)}


def paper_model() -> VLAE:
    torch.manual_seed(0)
    model = VLAE(VLAEConfig.preset("paper"))
    model.initialize(images(256))
    return model


def images(N: int) -> Tensor:
    return (torch.rand(N, 1, 28, 28) < 0.2).float()


@lru_cache
def batch(N: int, latent_size: int) -> tuple[Tensor, Tensor]:
    """Images and the noise of their codes; the same each time."""
    return images(N), torch.randn(N, latent_size)


ELBO: dict[str, Callable[[VLAE], Callable[..., Any]]] = {
    "native": lambda model: model.elbo,
    "torch eager": lambda model: contenders.on_reference(model.elbo),
    "torch.compile": lambda model: contenders.on_reference(compiled(model.elbo)),
    "torch.compile, channels last": lambda model: contenders.on_reference(
        compiled(contenders.channels_last(model).elbo)
    ),
}


# --- drawing: also the claim that it costs no more than scoring the same number of images once in plain torch ------

SCORING_ONCE = "scoring once, "


def scoring(elbo: Callable[[VLAE], Callable[..., Any]]) -> Callable[[VLAE], Callable[[int], Tensor]]:
    def make(model: VLAE) -> Callable[[int], Tensor]:
        score = elbo(copy.deepcopy(model))

        @torch.no_grad()
        def run(N: int) -> Tensor:
            x, eps = batch(N, model.config.latent_size)
            return score(x, noise=eps).elbo

        return run

    return make


DRAWING: dict[str, Callable[[VLAE], Callable[[int], Tensor]]] = {
    "native": lambda model: model.sample,
    "torch cached, wavefront": contenders.cached,
    "torch naive, torch.compile": contenders.naive,
    **{SCORING_ONCE + name: scoring(elbo) for name, elbo in ELBO.items() if name != "native"},
}


def draws(contender: str, size: Size) -> bool:
    return not contender.startswith("torch naive") or size["N"] <= 16


def draws_quickly(contender: str, size: Size) -> bool:
    if contender in ("torch naive, torch.compile", SCORING_ONCE + "torch.compile"):
        return False
    return size["N"] in ((256,) if contender.startswith(SCORING_ONCE) else (1, 16, 256, 1024))


@cases(DRAWING, BASE, AXES, quick=draws_quickly, runs=draws)
def test_sample(race: Any, size: Size, contender: str) -> None:
    N, model = size["N"], paper_model().eval()
    draw = DRAWING[contender](model)
    result = race(
        "model.sample",
        size,
        contender,
        lambda: model.sample(N),
        lambda: draw(N),
        work.vlae(model, N, encoded=0),
        memory=True,
    )
    if contender.startswith(SCORING_ONCE):  # other work on purpose
        x, eps = batch(N, model.config.latent_size)
        torch.testing.assert_close(result, model.elbo(x, noise=eps).elbo, rtol=1e-4, atol=1e-2)
    else:
        differ = (result != model.sample(N)).flatten(1).any(1)  # a tie may fall the other way, and all after it
        assert differ.sum() <= N // 50


# --- evaluation: N codes of one image ------------------------------------------------------------------------------

EVALUATION: dict[str, Callable[[VLAE], Callable[..., Tensor]]] = {
    "native": lambda model: model.log_likelihood,
    "torch eager": lambda model: contenders.on_reference(model.log_likelihood),
    "torch.compile": contenders.compiled_likelihood,
    "torch.compile, channels last": lambda model: contenders.compiled_likelihood(contenders.channels_last(model)),
}


@cases(EVALUATION, BASE, AXES, quick=lambda contender, size: contender != "torch.compile" and size["N"] == 256)
def test_importance_sampling(race: Any, size: Size, contender: str) -> None:
    N, model = size["N"], paper_model().eval()
    evaluate = EVALUATION[contender](copy.deepcopy(model))
    x = images(1)
    nll = race(
        "model.log_likelihood",
        size,
        contender,
        lambda: model.log_likelihood(x, samples=N),
        lambda: evaluate(x, samples=N),
        work.vlae(model, N, encoded=1),
        memory=True,
    )
    torch.testing.assert_close(nll, model.log_likelihood(x, samples=N), rtol=1e-4, atol=1e-3)


# --- training: one step of Adamax on the bound of N images ---------------------------------------------------------


class Training:
    """A model of its own with its optimiser."""

    def __init__(self, contender: str) -> None:
        self.model = paper_model()
        self.elbo = ELBO[contender](self.model)
        self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=0.002)

    def gradients(self, x: Tensor, eps: Tensor) -> list[Tensor]:
        self.optimizer.zero_grad()
        (-self.elbo(x, noise=eps).elbo.mean()).backward()
        return [p.grad for p in self.model.parameters()]

    def step(self, x: Tensor, eps: Tensor) -> None:
        self.gradients(x, eps)
        self.optimizer.step()


def trains_quickly(contender: str, size: Size) -> bool:
    return contender != "torch.compile" and size["N"] in ((64,) if "torch.compile" in contender else (1, 64, 256))


@cases(ELBO, BASE, AXES, quick=trains_quickly)
def test_training(race: Any, size: Size, contender: str) -> None:
    N = size["N"]
    ours, theirs = Training("native"), Training(contender)
    x, eps = batch(N, ours.model.config.latent_size)
    race(
        "training step",
        size,
        contender,
        lambda: ours.step(x, eps),
        lambda: theirs.step(x, eps),
        work.training(ours.model, N),
        memory=True,
    )
    ours.model.load_state_dict(theirs.model.state_dict())
    for actual, expected in zip(theirs.gradients(x, eps), ours.gradients(x, eps), strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm() + 1e-6
