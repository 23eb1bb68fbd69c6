"""Times one op, the whole model, or all, on a GPU, a worker of `gpu_report.py`.

`python gpu_timings.py OP|model|all cuda|cpu`

Contenders are timed in turns, round after round; a time is the median of all rounds. "graph" is the same call replayed
from a CUDA graph. On the CPU (a dry run) everything runs once, tiny, without torch.compile and without graphs.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import contenders_made
import gpu_cases
import torch
from contenders_flows import LIBRARIES, cyclic_degrees
from contenders_pixelcnn import WavefrontSampler, sample_naive
from gpu_cases import R1, R4, attempt
from torch import Tensor

from vlae_fast import VLAE, PixelCNNParams, VLAEConfig, masks, ops, reference, use_backend

COPY, FMA = 4.3e12, 67e12  # of an H200: bytes/s, float32 operations/s
SECONDS = 1.2  # for all rounds of a case
Call = Callable[[], Any]
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
CUDA = DEVICE == "cuda"


def graphed(call: Call) -> Call:
    """The call, captured."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def once(call: Call, repeats: int) -> float:
    """Milliseconds of a call: by the GPU's clock, from when it is free to when it has done."""
    if not CUDA:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


def measure(case: str, N: int, floor: float, contenders: dict[str, Call], graphs: bool = True) -> None:
    """Times all contenders of a case of N samples whose counted floor on an H200 is `floor` seconds."""
    ready, repeats = {}, {}

    def prepare(name: str, make: Callable[[], Call]) -> None:
        call = make()
        first = [once(call, 1) for _ in range(3 if CUDA else 1)]
        ready[name], repeats[name] = call, max(1, min(50, int(1 / max(first[-1], 1e-3))))

    for name, call in contenders.items():
        attempt(f"{case}: {name} runs", lambda name=name, call=call: prepare(name, lambda: call))
        if CUDA and graphs:
            graph = f"{name}, graph"
            attempt(f"{case}: {graph} runs", lambda graph=graph, call=call: prepare(graph, lambda: graphed(call)))
    times: dict[str, list[float]] = {name: [] for name in ready}
    deadline = time.monotonic() + SECONDS
    while not all(times.values()) or (CUDA and time.monotonic() < deadline and len(next(iter(times.values()))) < 100):
        for name, call in ready.items():
            times[name].append(once(call, repeats[name]))
    for name, values in times.items():
        ms = median(values)
        record = {"case": case, "contender": name, "ms": ms, "rounds": len(values), "per_second": 1e3 * N / ms}
        attempt(f"{case}: {name}", lambda record=record: {**record, "of_floor": 1e3 * floor / record["ms"]})


def compiled(function: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """`function` under torch.compile, where that is worth its time."""
    return {"compile": torch.compile(function, dynamic=False)} if CUDA else {}


def batches(*sizes: int) -> tuple[int, ...]:
    return sizes if CUDA else (2,)


def gradients(function: Callable[..., Tensor], leaves: list[Tensor], *args: Any) -> Call:
    return lambda: torch.autograd.grad(function(*args).sum(), leaves)


def masked_conv3x3() -> None:
    for N, C in [(n, c) for c in (12, 32) for n in batches(64, 1024)]:
        shapes = (N, C, 28, 28), (C, C, 3, 3), (C,), (C,), (N, C, 28, 28)
        leaves = [torch.randn(shape, device=DEVICE).requires_grad_() for shape in shapes]
        x, weight, bias, gain, residual = leaves
        options = {"mask": "B", "pre_elu": True, "gain": gain, "residual": residual, "residual_scale": 0.5}
        torch_way = partial(reference.masked_conv3x3, **options)
        ways = {"ours": partial(ops.masked_conv3x3, **options), "eager": torch_way, **compiled(torch_way)}
        floor = max(4 * 3 * x.numel() / COPY, 2 * 5 * C * x.numel() / FMA)
        with torch.no_grad():
            measure(f"masked_conv3x3 C={C} N={N}", N, floor, {k: partial(f, x, weight, bias) for k, f in ways.items()})
        both = {k: gradients(f, leaves, x, weight, bias) for k, f in ways.items()}
        floor = max(4 * 7 * x.numel() / COPY, 6 * 5 * C * x.numel() / FMA)
        measure(f"masked_conv3x3 forward + backward C={C} N={N}", N, floor, both)


def pixelcnn_case(N: int, spec: Any) -> tuple[Tensor, Tensor, PixelCNNParams, float, float]:
    """x, context, parameters, and the floors of a forward pass: by bytes and by operations."""
    L, C, K, P = 5 if spec == R1 else 12, 12, 4, 4
    size = {"N": N, "C": C, "K": K, "L": L, "P": P, "H": 28, "W": 28}
    values = gpu_cases.arguments("pixelcnn_logits", DEVICE, spec=spec, **size)
    multiply_adds = 4 * C + 9 * K * C + 5 * L * C * C + 2 * P * C * C + C
    pixels = 784 * N
    return (
        values["x"],
        values["context"],
        values["params"],
        4 * (K + 2) * pixels / COPY,
        2 * multiply_adds * pixels / FMA,
    )


def pixelcnn(op: str, cases: list[tuple[str, Any, int]]) -> None:
    for name, spec, largest in cases:
        N = batches(largest)[0]
        x, context, params, bytes_floor, operations_floor = pixelcnn_case(N, spec)
        torch_way = getattr(reference, op)
        ways = {"ours": getattr(ops, op), "eager": torch_way, **compiled(torch_way)}
        floor = max(bytes_floor, operations_floor)
        with torch.no_grad():
            calls = {k: partial(f, x, context, params, spec) for k, f in ways.items()}
            measure(f"{op} {name} N={N}", N, floor, calls)
        context = context.requires_grad_()
        params = PixelCNNParams(*(p.requires_grad_() for p in params))
        both = {k: gradients(f, [context, *params], x, context, params, spec) for k, f in ways.items()}
        measure(f"{op} forward + backward {name} N={N}", N, 3 * floor, both)


def pixelcnn_sample() -> None:
    for name, N, spec in [("R1", n, R1) for n in batches(1, 16, 256, 1024, 4096, 16384)] + [
        ("R4", n, R4) for n in batches(1, 4096)
    ]:
        _, context, params, bytes_floor, operations_floor = pixelcnn_case(N, spec)
        uniforms = torch.rand(N, 28, 28, device=DEVICE)
        floor = max(bytes_floor, operations_floor)
        case = f"pixelcnn_sample {name} N={N}"
        ways = {"ours": partial(ops.pixelcnn_sample, context, params, uniforms, spec)}
        if N <= 4096:
            ways["torch wavefront"] = partial(WavefrontSampler(params, spec), context, uniforms)
        with torch.no_grad():
            measure(case, N, floor, ways)
            if N == 1 and CUDA and spec == R1:
                measure(
                    f"{case}, a pass a pixel",
                    N,
                    floor,
                    {"naive": partial(sample_naive, params, spec, context, uniforms)},
                    False,
                )


def made_case() -> tuple[Any, float]:
    """Parameters of the paper's flow, and its live multiply-adds a sample."""
    params = gpu_cases.moved(gpu_cases.made_params(), DEVICE)
    params = params._replace(weight3=params.weight3 / 4)
    live = sum(mask.sum().item() for mask in masks.made_masks(params.degrees, 64, like=params.weight1))
    return params, live * len(params.weight1)


def library_flows(direction: int, sample: Tensor) -> dict[str, Call]:
    """The same flow by the libraries that are found here."""
    found = {}
    for name, make in LIBRARIES.items():
        if find_spec(name):
            with torch.device(DEVICE):
                params = gpu_cases.made_params(degrees=cyclic_degrees(64, 640).sort().values)
                found[name] = partial(make(gpu_cases.moved(params, DEVICE))[direction], sample)
    return found


def made_flow_forward() -> None:
    params, live = made_case()
    for N in batches(1, 64, 1024, 4096):
        z = torch.randn(N, 64, device=DEVICE)
        floor = max(4 * live / COPY, 2 * live * N / FMA)
        dense = contenders_made.density_folded(params)
        ways = {"ours": lambda z=z: ops.made_flow_forward(z, params), "torch, folded": partial(dense, z)}
        ways |= {name: partial(f, z) for name, f in compiled(dense).items()}
        with torch.no_grad():
            measure(f"made_flow_forward N={N}", N, floor, ways)
            measure(f"made_flow_forward N={N}, libraries", N, floor, library_flows(0, z), False)
        if N >= 1024 or not CUDA:
            leaves = [t.clone().requires_grad_() for t in (z, *params[:6])]
            own = params._replace(**dict(zip(params._fields, leaves[1:], strict=False)))
            both = {
                "ours": lambda leaves=leaves, own=own: torch.autograd.grad(
                    ops.made_flow_forward(leaves[0], own)[0].sum(), leaves
                ),
                "torch autograd": partial(contenders_made.density_and_gradients(params), z),
            }
            measure(f"made_flow_forward + backward N={N}", N, 3 * floor, both)


def made_flow_inverse() -> None:
    params, live = made_case()
    for N in batches(1, 64, 1024, 4096):
        eps = torch.randn(N, 64, device=DEVICE)
        floor = max(4 * live / COPY, 2 * live * N / FMA)
        ways = {
            "ours": lambda eps=eps: ops.made_flow_inverse(eps, params),
            "torch incremental": partial(contenders_made.inverse_incremental(params), eps),
        }
        with torch.no_grad():
            measure(f"made_flow_inverse N={N}", N, floor, ways)
            slow = {"torch naive": partial(contenders_made.inverse_naive(params), eps), **library_flows(1, eps)}
            measure(f"made_flow_inverse N={N}, whole passes", N, floor, slow, False)


def weight_norm() -> None:
    degrees = masks.made_degrees(64, 640)
    live = masks.made_live(degrees, 64)[1].repeat(4).to(DEVICE)
    mask = masks.made_masks(degrees, 64, like=torch.ones(()))[1].repeat(4, 1)
    v = torch.randn_like(mask, device=DEVICE).requires_grad_()
    g = torch.rand(len(v), device=DEVICE).requires_grad_()
    ways = {"ours": ops.weight_norm, "eager": reference.weight_norm, **compiled(reference.weight_norm)}
    case, floor = f"weight_norm {list(v.shape)}", 4 * v.numel() / COPY
    with torch.no_grad():
        measure(case, 1, 2 * floor, {k: partial(f, v, g, live) for k, f in ways.items()})
    measure(f"{case} forward + backward", 1, 4 * floor, {k: gradients(f, [v, g], v, g, live) for k, f in ways.items()})


def model() -> None:
    """The paper's model: images a second drawn, trained, scored; with our kernels and with the reference ops."""
    model = VLAE(VLAEConfig.preset("paper" if CUDA else "tiny")).to(DEVICE)
    model.initialize((torch.rand(64, 1, 28, 28, device=DEVICE) < 0.2).float())
    for N in batches(1, 64, 4096):
        measure(f"model.sample N={N}", N, 0, {"ours": partial(model.sample, N)}, False)
    for N in batches(128, 1024):
        images = (torch.rand(N, 1, 28, 28, device=DEVICE) < 0.2).float()
        optimizer = torch.optim.Adamax(model.parameters(), lr=0.0)

        def step(backend: str, images: Tensor = images, optimizer: Any = optimizer) -> None:
            with use_backend(backend):
                optimizer.zero_grad()
                (-model.elbo(images).elbo.mean()).backward()
                optimizer.step()

        ways = {"ours": partial(step, "auto"), "reference ops": partial(step, "reference")}
        measure(f"training step N={N}", N, 0, ways, False)
    for N, samples in [(16, 256)] if CUDA else [(2, 2)]:
        images = (torch.rand(N, 1, 28, 28, device=DEVICE) < 0.2).float()
        case = f"model.log_likelihood N={N}, {samples} samples"
        measure(case, N, 0, {"ours": lambda images=images, s=samples: model.log_likelihood(images, samples=s)}, False)


TIMINGS = {
    "masked_conv3x3": masked_conv3x3,
    "pixelcnn_logits": partial(pixelcnn, "pixelcnn_logits", [("R1", R1, 64), ("R1", R1, 1024), ("R4", R4, 1024)]),
    "pixelcnn_log_prob": partial(pixelcnn, "pixelcnn_log_prob", [("R1", R1, 1024)]),
    "pixelcnn_sample": pixelcnn_sample,
    "made_flow_forward": made_flow_forward,
    "made_flow_inverse": made_flow_inverse,
    "weight_norm": weight_norm,
    "model": model,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name in TIMINGS if sys.argv[1] == "all" else [sys.argv[1]]:
        attempt(f"{name}: timings", TIMINGS[name])
