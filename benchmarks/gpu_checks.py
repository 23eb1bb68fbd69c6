"""Checks one op, or all, on a GPU, a worker of `gpu_report.py`: `python gpu_checks.py OP|all cuda|cpu [--small]`.

On the CPU (a dry run) the smallest case runs on the compiled C++, and every Triton launch that the GPU would see is
compiled for sm_90 instead.
"""

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_cases import OPS, Recorder, SkippedError, arguments, attempt, batch_axis, sizes, tests
from torch import Tensor

from vlae_fast import ops, reference, use_backend

TOLERANCE = tests.TOLERANCE


def results(op: str, values: dict[str, Any]) -> list[Tensor]:
    """What an op gives, then its gradients for an upstream gradient that depends on the shapes alone."""
    if op not in tests.DIFFERENTIABLE:
        with torch.no_grad():
            return list(tests.outputs(getattr(ops, op)(**values)))
    leaves = tests.mapped(values, lambda t: t.detach().clone().requires_grad_())
    outputs = tests.outputs(getattr(ops, op)(**leaves))
    upstream = [(0.3 + torch.arange(t.numel(), device=t.device).cos()).to(t.dtype).view(t.shape) for t in outputs]
    return [*outputs, *torch.autograd.grad(outputs, tests.tensors_of(leaves), upstream)]


def reference_results(op: str, values: dict[str, Any], dtype: torch.dtype) -> list[Tensor]:
    with use_backend("reference"):
        return results(op, tests.mapped(values, lambda t: t.to(dtype)))


def check_reference(op: str, values: dict[str, Any]) -> dict[str, Any]:
    """Values and gradients against float64; 4 times the error of float32 torch is allowed where that is more."""
    actual = results(op, values)
    exact, plain = (reference_results(op, values, dtype) for dtype in (torch.float64, torch.float32))
    n_values = len(tests.outputs(getattr(ops, op)(**values)))
    worst = 0.0
    for i, (a, e, p) in enumerate(zip(actual, exact, plain, strict=True)):
        if e.numel() == 0:
            continue
        scale = max(e.abs().max().item(), 1e-3)
        limit = TOLERANCE["value" if i < n_values else "gradient"] * scale
        limit = max(limit, 4 * (p.double() - e).abs().max().item())
        error = (a.double() - e).abs().max().item()
        assert error <= limit, f"result {i}: error {error:.3g} of {scale:.3g}, {limit:.3g} allowed"
        worst = max(worst, error / limit)
    return {"detail": f"{worst:.2f} of what is allowed"}


def check_sample(op: str, values: dict[str, Any]) -> None:
    """Every pixel against the float64 logits of the image that was drawn; ties may go either way."""
    x = ops.pixelcnn_sample(**values)
    doubles = tests.mapped({name: values[name] for name in ("context", "params")}, lambda t: t.double())
    p = reference.pixelcnn_logits(x.double(), doubles["context"], doubles["params"], values["spec"])[:, 0].sigmoid()
    uniforms, given = values["uniforms"], values["given"]
    expected = torch.where(given < 0, (uniforms < p).float(), given.float())
    wrong = ((uniforms - p).abs() >= TOLERANCE["tie"]) | (given >= 0)
    wrong &= x[:, 0] != expected
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} pixels"


def check_opcheck(op: str, values: dict[str, Any]) -> None:
    leaves = tests.mapped(values, lambda t: t.clone().requires_grad_(op in tests.DIFFERENTIABLE))
    with Recorder() as recorder:
        getattr(ops, op)(**leaves)
    overload, args = recorder.calls[0]
    torch.library.opcheck(overload, args)


def check_compile(op: str, values: dict[str, Any]) -> None:
    compiled = torch.compile(getattr(ops, op), fullgraph=True, backend="aot_eager")
    for a, e in zip(*(tests.outputs(f(**values)) for f in (compiled, getattr(ops, op))), strict=True):
        assert torch.equal(a, e)


def check_graph(op: str, values: dict[str, Any]) -> None:
    """A captured call, replayed on other inputs, gives what a plain call gives."""
    call = partial(results, op, values)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for name in batch_axis(op, values):
        if values[name].is_floating_point():
            values[name].copy_(values[name].flip(0))
    graph.replay()
    for a, e in zip(captured, call(), strict=True):
        assert torch.equal(a, e)


def check_split(op: str, N: int, values: dict[str, Any]) -> None:
    """Parts of a large batch give the bits of the whole (values; sums over the batch have no such parts)."""
    with torch.no_grad():
        whole = tests.outputs(getattr(ops, op)(**values))
        for part in (slice(0, 1), slice(N - 3, N), slice(N // 3, N // 3 + min(N // 2, 300))):
            pieces = {name: values[name][part].contiguous() for name in batch_axis(op, values)}
            for a, e in zip(tests.outputs(getattr(ops, op)(**values | pieces)), whole, strict=True):
                assert torch.equal(a, e[part]), f"images {part} alone"


def check_launches(op: str, values: dict[str, Any]) -> dict[str, Any]:
    """Compiles all Triton launches of an op and its gradient for sm_90: no driver is needed."""
    if op.startswith("made_flow"):
        raise SkippedError("a CUDA extension, compiled already")
    with Recorder() as recorder:
        results(op, values)
    import triton
    from triton.backends.compiler import GPUTarget

    from vlae_fast import gpu, kernels

    class NoDriver:
        get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
        get_current_device = staticmethod(lambda: 0)
        get_current_stream = staticmethod(lambda device: 0)

    compiled: list[Any] = []
    run = triton.runtime.JITFunction.run

    def compile_only(self: Any, *args: Any, **options: Any) -> Any:
        compiled.append(run(self, *args, **options | {"warmup": True}))
        return compiled[-1]

    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"vlae_fast.kernels.{module.name}")
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels were imported; now the launchers take CPU tensors
    triton.runtime.driver.set_active(NoDriver())
    triton.runtime.JITFunction.run = compile_only
    try:
        for overload, args in recorder.calls:
            body = getattr(gpu, overload._schema.name.split("::")[1], None)
            if body is None:
                raise SkippedError(f"no CUDA body of {overload}")
            body(*args)
    finally:
        triton.runtime.JITFunction.run = run
        del os.environ["TRITON_INTERPRET"]
    if not compiled:
        raise SkippedError("no Triton kernel")
    return {"detail": ", ".join(f"{k.name}: {k.metadata.shared} bytes shared" for k in compiled)}


def large(op: str, device: str, N: int) -> dict[str, Any]:
    """A tuned case of N samples."""
    if op.startswith("pixelcnn"):
        return arguments(op, device, **{**sizes(op)[3], "N": N})
    return arguments(op, device, **{**sizes(op)[-1], "N": N})


def check(op: str, device: str, small: bool) -> None:
    """All checks of an op. `small`: only those that compute-sanitizer finishes soon."""

    def run(name: str, function: Callable[[], dict[str, Any] | None]) -> None:
        torch.manual_seed(0)
        attempt(f"{op}: {name}", function)

    against = check_sample if op == "pixelcnn_sample" else check_reference
    for size in sizes(op)[:1] if small or device == "cpu" else sizes(op):
        run(f"float64 reference {size or ''}", lambda size=size: against(op, arguments(op, device, **size)))
    if small:
        return
    run("opcheck", lambda: check_opcheck(op, arguments(op, device)))
    run("torch.compile(fullgraph=True)", lambda: check_compile(op, arguments(op, device)))
    if device == "cpu":
        run("launches compile", lambda: check_launches(op, arguments(op, device)))
        return
    run("CUDA graph", lambda: check_graph(op, arguments(op, device)))
    if op != "weight_norm":
        for N in (40, 2500, 20000):
            run(f"same bits for any split of N={N}", lambda N=N: check_split(op, N, large(op, device, N)))


if __name__ == "__main__":
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    chosen, device, *flags = sys.argv[1:]
    for op in OPS if chosen == "all" else [chosen]:
        check(op, device, "--small" in flags)
