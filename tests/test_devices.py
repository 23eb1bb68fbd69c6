"""The public ops on every device that is there: CPU, and a GPU where the machine has one."""

from functools import partial

import pytest
import torch
from conftest import TOLERANCE
from op_cases import BATCHED, CASES, CPU_ALONE, DIFFERENTIABLE, mapped, outputs, tensors_of

from vlae_fast import PixelCNNSpec, ops, reference, use_backend

SIZES = {
    "masked_conv3x3": {
        "small": {},
        "one row": dict(N=3, C=1, K=5, H=1, W=9),
        "odd": dict(N=2, C=33, K=17, H=9, W=32),
        "paper": dict(N=9, C=12, K=12, H=28, W=28),
    },
    "pixelcnn": {
        "small": {},
        "one pixel": dict(N=1, K=0, H=1, W=1, L=0, P=0, C=1),
        "paper": dict(N=3, K=4, H=28, W=28, L=12, P=4, C=12),
        "R1": dict(N=9, K=4, H=28, W=28, L=5, P=4, C=12, spec=PixelCNNSpec()),
        "odd": dict(N=2, K=3, H=9, W=33, L=2, P=1, C=20, spec=PixelCNNSpec(visible_stride=2)),
    },
    "made_flow": {
        "small": {},
        "one": dict(N=1, D=1, M=3, T=1),
        "odd": dict(N=33, D=5, M=33, T=3),
        "paper": dict(N=65, D=64, M=640, T=1),
    },
    **{op: {"small": {}, "one": dict(N=1, D=1, M=3), "paper": dict(N=65, D=20, M=40)} for op in CPU_ALONE},
    "weight_norm": {"small": {}},
    "exp": {"small": {}, "one": dict(N=1), "paper": dict(N=10_001)},
    "resnet": {"small": {}, "one pixel": dict(N=1, C=1, H=1, W=1), "paper": dict(N=9, C=16, H=14, W=14)},
    "bernoulli": {"small": {}, "one": dict(N=1, H=1, W=1), "paper": dict(N=65, H=28, W=28)},
    "dense": {"small": {}, "one": dict(N=1, C=1, K=1), "paper": dict(N=65, C=512, K=450)},
}
every_size = pytest.mark.parametrize(
    ("op", "size"),
    [
        pytest.param(op, size, id=f"{op}-{name}")
        for op in CASES
        for stem, sizes in SIZES.items()
        if op.startswith(stem)
        for name, size in sizes.items()
    ],
)
pytestmark = pytest.mark.usefixtures("device")


def results(op, arguments):
    """What an op gives, then its gradients for an upstream gradient that depends on the shapes alone."""
    if op not in DIFFERENTIABLE:
        with torch.no_grad():
            return list(outputs(getattr(ops, op)(**arguments)))
    leaves = mapped(arguments, lambda t: t.detach().clone().requires_grad_())
    found = outputs(getattr(ops, op)(**leaves))
    upstream = [(0.3 + torch.arange(t.numel()).cos()).to(t.dtype).view(t.shape) for t in found]
    options = dict(allow_unused=True, materialize_grads=True)  # no layers, no use of their weights
    return [*found, *torch.autograd.grad(found, tensors_of(leaves), upstream, **options)]


@every_size
def test_values_and_gradients_are_those_of_the_float64_reference(op, size):
    """Where float32 torch errs by more than a quarter of the tolerance, 4 times its error is allowed."""
    arguments = CASES[op](**size)
    if op == "pixelcnn_sample":
        check_sample(**arguments)
        return
    actual, n_values = results(op, arguments), len(outputs(getattr(ops, op)(**arguments)))
    with use_backend("reference"):
        exact = results(op, mapped(arguments, torch.Tensor.double))
        plain = results(op, arguments)
    for i, (a, e, p) in enumerate(zip(actual, exact, plain, strict=True)):
        if e.numel():
            limit = TOLERANCE["value" if i < n_values else "gradient"] * max(e.abs().max().item(), 1e-3)
            limit = max(limit, 4 * (p.double() - e).abs().max().item())
            assert (a.double() - e).abs().max().item() <= limit, f"result {i}"


def check_sample(context, params, uniforms, spec, temperature, given):
    """Every pixel against the float64 logits of the image that was drawn; ties may go either way."""
    x = ops.pixelcnn_sample(context, params, uniforms, spec, temperature=temperature, given=given)
    doubles = mapped({"context": context, "params": params}, torch.Tensor.double)
    p = (reference.pixelcnn_logits(x.double(), **doubles, spec=spec)[:, 0] / temperature).sigmoid()
    expected = torch.where(given < 0, (uniforms < p).float(), given.float())
    certain = ((uniforms - p).abs() >= TOLERANCE["tie"]) | (given >= 0)
    assert torch.equal(x[:, 0][certain], expected[certain])


@pytest.mark.parametrize(
    ("device", "N"), [("cpu", 40), ("cuda", 40), ("cuda", 2500), ("cuda", 20000)], indirect=["device"]
)
@pytest.mark.parametrize("op", [op for op in CASES if not op.startswith("weight_norm")])
def test_parts_of_a_batch_give_the_bits_of_the_whole(op, N):
    sizes = next(sizes for stem, sizes in SIZES.items() if op.startswith(stem))
    arguments = CASES[op](**{**sizes["R1" if op.startswith("pixelcnn") else "paper"], "N": N})
    with torch.no_grad():
        whole = outputs(getattr(ops, op)(**arguments))
        for part in (slice(0, 1), slice(N - 3, N), slice(N // 3, N // 3 + min(N // 2, 300))):
            pieces = {name: arguments[name][part].contiguous() for name in BATCHED & arguments.keys()}
            for a, e in zip(outputs(getattr(ops, op)(**arguments | pieces)), whole, strict=True):
                assert torch.equal(a, e[part]), f"{part} alone"


@pytest.mark.parametrize("device", ["cuda"], indirect=True)
@pytest.mark.parametrize("op", CASES)
def test_a_captured_call_replayed_on_other_inputs_gives_what_a_plain_one_gives(op):
    arguments = CASES[op]()
    call = partial(results, op, arguments)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for name in BATCHED & arguments.keys():
        if arguments[name].is_floating_point():
            arguments[name].copy_(arguments[name].flip(0))
    graph.replay()
    for a, e in zip(captured, call(), strict=True):
        assert torch.equal(a, e)
