"""What only a GPU can check: CUDA graphs, operators, large batches, repeatability. `gpu_report.py` calls these.

Each function raises AssertionError, or returns nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vlae_fast import ops, reference
from vlae_fast.config import PixelCNNSpec
from vlae_fast.reference import PixelCNNParams


def r1_arguments(N: int, H: int = 28, W: int = 28, C: int = 12, K: int = 4, L: int = 5, P: int = 4):
    """(x, context, params) of reading R1 on the GPU, drawn from a fixed seed."""
    draw = torch.Generator("cuda").manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device="cuda")

    shapes = (
        (C, 1, 3, 3), (C, K, 3, 3), (C,), (1, C, C, 3, 3), (L, C), (L, C), (P, 2, C, C), (P, 2, C), (C,), (1,),
    )  # fmt: skip
    params = PixelCNNParams(*(randn(*shape) / 4 for shape in shapes))
    return (randn(N, 1, H, W) > 0).float(), randn(N, K, H, W), params


def with_gradients(op: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """A function of (x, context, params) that returns the op's value and all gradients of its sum of squares."""

    def run(x: Tensor, context: Tensor, params: PixelCNNParams) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, context, *params)]
        value = op(leaves[0], leaves[1], PixelCNNParams(*leaves[2:]))
        return [value.detach(), *torch.autograd.grad(value.square().sum(), leaves)]

    return run


def largest_error(actual: Tensor, expected: Tensor) -> float:
    """Relative to the largest expected value."""
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-3)).item()


def check_stack_matches_reference(N: int = 300) -> None:
    """Values within 1e-5 and gradients within 1e-4 of float64, with more images than programs."""
    for op in ("pixelcnn_logits", "pixelcnn_log_prob"):
        x, context, params = r1_arguments(N)
        exact = x.double(), context.double(), PixelCNNParams(*(p.double() for p in params))
        expected = with_gradients(getattr(reference, op))(*exact)
        actual = with_gradients(getattr(ops, op))(x, context, params)
        assert largest_error(actual[0], expected[0]) < 1e-5, op
        for i, (a, e) in enumerate(zip(actual[1:], expected[1:], strict=True)):
            assert largest_error(a, e) < 1e-4, f"{op}: gradient {i}: {largest_error(a, e):.2g}"


def check_convolution_matches_reference() -> None:
    """masked_conv3x3 and its gradients, on odd sizes."""
    for mask, (N, C, K, H, W) in (("A", (3, 7, 16, 17, 23)), ("B", (65, 12, 12, 28, 28))):
        shapes = (N, C, H, W), (K, C, 3, 3), (K,), (K,), (N, K, H, W)
        leaves = [torch.randn(s, device="cuda", requires_grad=True) for s in shapes]
        exact = [t.detach().double().requires_grad_() for t in leaves]
        options = {"mask": mask, "pre_elu": True, "residual_scale": 0.7}
        y, expected = (
            function(t[0], t[1], t[2], gain=t[3], residual=t[4], **options)
            for function, t in ((ops.masked_conv3x3, leaves), (reference.masked_conv3x3, exact))
        )
        assert largest_error(y, expected) < 1e-5
        dy = torch.randn_like(y)
        gradients = torch.autograd.grad(y, leaves, dy)
        for a, e in zip(gradients, torch.autograd.grad(expected, exact, dy.double()), strict=True):
            assert largest_error(a, e) < 1e-4


def check_repeatable() -> None:
    """Two runs give the same bits, gradients included; a part of a batch gives the bits of the whole."""
    arguments = r1_arguments(300)
    run = with_gradients(ops.pixelcnn_log_prob)
    assert all(torch.equal(a, b) for a, b in zip(run(*arguments), run(*arguments), strict=True))
    x, context, params = arguments
    whole = ops.pixelcnn_log_prob(*arguments)
    assert torch.equal(ops.pixelcnn_log_prob(x[7:19], context[7:19], params), whole[7:19])


def check_cuda_graph() -> None:
    """Captured on a stream that is not the default one, replayed on other images."""
    x, context, params = r1_arguments(64)
    run = with_gradients(ops.pixelcnn_log_prob)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(x, context, params)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(x, context, params)
    x.copy_(1 - x)
    graph.replay()
    for a, b in zip(captured, run(x, context, params), strict=True):
        assert torch.equal(a, b)


def check_large_batch() -> None:
    """More than 2^31 elements: context [800,000, 4, 28, 28] (10 GB); the last images equal those of a small batch."""
    x, context, params = r1_arguments(800_000)
    log_prob = ops.pixelcnn_log_prob(x, context, params)
    assert torch.equal(ops.pixelcnn_log_prob(x[-9:].clone(), context[-9:].clone(), params), log_prob[-9:])
    maps, bias = context.view(-1, 4, 28, 28), torch.zeros(4, device="cuda")
    weight = torch.randn(4, 4, 3, 3, device="cuda")
    y = ops.masked_conv3x3(maps, weight, bias, mask="B")
    assert torch.equal(ops.masked_conv3x3(maps[-9:].clone(), weight, bias, mask="B"), y[-9:])


def check_operators() -> None:
    """torch.library.opcheck of the operators on CUDA tensors."""
    x, context, params = r1_arguments(3, 5, 6, C=3, L=2, P=1)
    leaves = [p.requires_grad_() for p in params]
    spec = PixelCNNSpec()
    wiring = spec.residual_scale, spec.block_convs, [0], spec.visible_stride
    for op in ("pixelcnn_logits", "pixelcnn_log_prob"):
        torch.library.opcheck(getattr(torch.ops.vlae_fast, op).default, (x, context, leaves, *wiring))
    maps, weight, vector = context[:, :3], params.hidden_weight[0].detach().requires_grad_(), params.output_weight
    arguments = (maps.contiguous(), weight, vector, vector, maps.contiguous(), "B", True, 0.5)
    torch.library.opcheck(torch.ops.vlae_fast.masked_conv3x3.default, arguments)


CHECKS = (
    check_convolution_matches_reference,
    check_stack_matches_reference,
    check_repeatable,
    check_cuda_graph,
    check_operators,
    check_large_batch,
)
"""All of them, the quick ones first."""
