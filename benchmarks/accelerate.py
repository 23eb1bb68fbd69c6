"""The slow sides of other libraries' flows with and without `vlae_fast.accelerate`: `python -m benchmarks.accelerate`.

Writes the table of docs/accelerate.md, of the libraries that are there. One thread; `without`, and `with` at once after
it (in turns) and once more after itself (alone), round after round; medians of those that had the core for themselves.
"""

import copy
import gc
import statistics
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cpuinfo import get_cpu_info
from torch import Tensor

import vlae_fast
from benchmarks.case import Call
from benchmarks.ops import made_accelerate
from benchmarks.timing import NotQuietError, time_block
from vlae_fast import native

PAGE = Path(__file__).parents[1] / "docs/accelerate.md"
BEGIN, END = "<!-- speed: written by benchmarks/accelerate.py -->\n", "<!-- /speed -->\n"
ROUNDS, MOST_ROUNDS, ALONE = 15, 60, 20


class Row(NamedTuple):
    """Two calls that give the same, and how many times as fast the second is to be."""

    name: str
    without: Call
    fast: Call
    target: float | str


def flows() -> Iterator[Row]:
    """nflows' and zuko's own, with default nets."""
    steps = {"nflows": 5, "zuko": 3}
    for library in made_accelerate.MAKE:
        for latent, N, target in ((64, 256, 100), (64, 1, 20), (8, 256, 5)) if find_spec(library) else ():
            inputs = made_accelerate.draw(library, N, latent)
            calls = (made_accelerate.contender(library, which)(inputs) for which in ("plain", "fast"))
            yield Row(f"{library}, {steps[library]} steps, D = {latent}, N = {N}", *calls, target)


def training() -> Iterator[Row]:
    """normflows' forward Kullback-Leibler divergence, whose density is its slow side, and its gradients."""
    import normflows as nf

    for D in (64, 8):
        steps = [nf.flows.MaskedAffineAutoregressive(D, 64) for _ in range(5)]
        plain, x = nf.NormalizingFlow(nf.distributions.DiagGaussian(D, trainable=False), steps), torch.randn(256, D)

        def gradients(flow: Any, x: Tensor = x) -> Callable[[], Tensor]:
            parameters = [*flow.parameters()]

            def call() -> Tensor:
                return torch.cat([g.flatten() for g in torch.autograd.grad(flow.forward_kld(x), parameters)])

            return call

        fast = vlae_fast.accelerate(copy.deepcopy(plain))
        yield Row(
            f"normflows, 5 steps, `forward_kld` and its gradients, D = {D}, N = 256",
            gradients(plain),
            gradients(fast),
            "",
        )


def posteriors() -> Iterator[Row]:
    """sbi's, with its default nets, untrained."""
    from sbi.inference.posteriors import DirectPosterior
    from sbi.neural_nets import posterior_nn

    theta, seen = torch.randn(1000, 10), torch.randn(1000, 10)
    prior = torch.distributions.MultivariateNormal(torch.zeros(10), 100 * torch.eye(10))
    for model, target in (("maf", 8), ("zuko_maf", 8)):
        plain = DirectPosterior(posterior_nn(model)(theta, seen).eval(), prior)
        fast = vlae_fast.accelerate(copy.deepcopy(plain))

        def sample(posterior: Any) -> Callable[[], Tensor]:
            def call() -> Tensor:
                torch.manual_seed(0)
                samples: Tensor = posterior.sample((10_000,), x=seen[:1], show_progress_bars=False)
                return samples

            return call

        yield Row(f"sbi `{model}`, `posterior.sample((10_000,))`, D = 10", sample(plain), sample(fast), target)


def line(row: Row) -> str:
    """A line of the table."""
    expected, found = row.without(), row.fast()
    error = ((found - expected).norm() / expected.norm()).item()
    assert error < 1e-4, f"{row.name}: error {error:.3g} of the norm"
    kept: list[tuple[float, float, float]] = []
    for _ in range(MOST_ROUNDS):
        blocks = time_block(row.without, 1), time_block(row.fast, 1), time_block(row.fast, ALONE)
        gc.collect()
        if all(block.quiet for block in blocks):
            kept.append((blocks[0].wall, blocks[1].wall, blocks[2].wall))
        if len(kept) == ROUNDS:
            break
    else:
        raise NotQuietError(f"{row.name}: {len(kept)} of {MOST_ROUNDS} rounds had the core for themselves")
    without, alone = (1e3 * statistics.median(times[i] for times in kept) for i in (0, 2))
    in_turns, ratio = (statistics.median(times[0] / times[i] for times in kept) for i in (1, 2))
    return f"| {row.name} | {without:.3g} ms | {alone:.3g} ms | **{ratio:.3g}** | {in_turns:.3g} | {row.target} |"


def main() -> None:
    """Prints the table and puts it into the page."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [*flows(), *(training() if find_spec("normflows") else ()), *(posteriors() if find_spec("sbi") else ())]
    gc.disable()
    head = ["| | without | with | times as fast | in turns | wanted |", "| --- | --- | --- | --- | --- | --- |"]
    tail = ["", f"One core of {get_cpu_info()['brand_raw']} ({native.isa()}), torch {torch.__version__}."]
    text = "\n".join([*head, *map(line, rows), *tail]) + "\n"
    print(text)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
