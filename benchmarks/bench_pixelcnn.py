"""Scoring a PixelCNN, forward and forward + backward, against plain PyTorch on one thread.

The torch contenders run the op's meaning (`reference.pixelcnn_log_prob`) in float32, eagerly and compiled, with
contiguous and with channels-last activations: compare with the best of them.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vlae_fast import PixelCNNParams, PixelCNNSpec, ops, reference

Score = Callable[[Tensor, Tensor, PixelCNNParams, PixelCNNSpec], Tensor]


def channels_last(score: Score) -> Score:
    def run(x: Tensor, context: Tensor, params: PixelCNNParams, spec: PixelCNNSpec) -> Tensor:
        return score(x, context.contiguous(memory_format=torch.channels_last), params, spec)

    return run


def compiled(score: Score) -> Score:
    return torch.compile(score, dynamic=False)


CONTENDERS: dict[str, Callable[[], Score]] = {
    "native": lambda: ops.pixelcnn_log_prob,
    "eager": lambda: reference.pixelcnn_log_prob,
    "compile": lambda: compiled(reference.pixelcnn_log_prob),
    "compile channels-last": lambda: compiled(channels_last(reference.pixelcnn_log_prob)),
}
# masked layers, 1x1 blocks, wiring: readings R1 and R4 of the paper's decoder
NETWORKS = {
    "R1": (5, 4, PixelCNNSpec()),
    "R4": (12, 4, PixelCNNSpec(block_convs=2)),
}


def network(layers: int, blocks: int, C: int = 12, K: int = 4) -> PixelCNNParams:
    shapes = (
        (C, 1, 3, 3), (C, K, 3, 3), (C,),
        (1, C, C, 3, 3), (layers, C), (layers, C),
        (blocks, 2, C, C), (blocks, 2, C),
        (C,), (1,),
    )  # fmt: skip
    return PixelCNNParams(*(torch.randn(shape) * 0.1 for shape in shapes))


@pytest.fixture(params=CONTENDERS)
def score(request, benchmark) -> Score:
    benchmark.extra_info["contender"] = request.param
    return CONTENDERS[request.param]()


@pytest.mark.parametrize("N", [16, 64, 256])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward(benchmark, score, name, N):
    layers, blocks, spec = NETWORKS[name]
    benchmark.group = f"pixelcnn_log_prob forward {name} N={N}"
    x, context, params = (torch.rand(N, 1, 28, 28) < 0.3).float(), torch.randn(N, 4, 28, 28), network(layers, blocks)
    with torch.inference_mode():
        log_prob = benchmark.pedantic(score, (x, context, params, spec), rounds=30, warmup_rounds=3)
    torch.testing.assert_close(log_prob, reference.pixelcnn_log_prob(x, context, params, spec), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("N", [16, 64, 256])
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_and_backward(benchmark, score, name, N):
    layers, blocks, spec = NETWORKS[name]
    benchmark.group = f"pixelcnn_log_prob forward + backward {name} N={N}"
    x, context = (torch.rand(N, 1, 28, 28) < 0.3).float(), torch.randn(N, 4, 28, 28, requires_grad=True)
    params = PixelCNNParams(*(t.requires_grad_() for t in network(layers, blocks)))

    def step(score: Score) -> tuple[Tensor, ...]:
        return torch.autograd.grad(score(x, context, params, spec).sum(), [context, *params])

    gradients = benchmark.pedantic(step, (score,), rounds=20, warmup_rounds=3)
    for actual, expected in zip(gradients, step(reference.pixelcnn_log_prob), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
