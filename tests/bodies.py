"""The bodies of the ops that this process can run, for tests that take a `body`, and the memory that they run in.

On a CPU: every instruction set of the processor, Triton kernels under Triton's interpreter, CUDA sources as C++
(cuda_sim.py); with VLAE_FAST_PTX=80 what Triton and nvcc compiled, executed (ptx/). On a machine with a GPU: that.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from vlae_fast import gpu, native
from vlae_fast.ops.made import gpu as made_gpu

ARCHITECTURE = os.environ.get("VLAE_FAST_PTX")
HAS_GPU = ARCHITECTURE is None and torch.cuda.is_available()
ISAS = native.usable_isas()
TRITON = "ptx" if ARCHITECTURE else "cuda" if HAS_GPU else "interpreter"
CUDA = ["ptx"] if ARCHITECTURE else ["cuda_sim", *["cuda"] * HAS_GPU]
SIMULATED = ("cuda_sim", "ptx")
SANITIZER = os.environ.get("CUDA_SIM_CXXFLAGS", "")
MARGIN = 2048


class Body:
    """The functions of `native` or `gpu` on tensors that lie between NaNs, as do all that they allocate.

    A load that should not have been brings NaN into the result, as does an element that is not written; a store beyond
    an output's end overwrites NaN.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = native if name in ISAS else gpu
        self.device = "cuda" if name == "cuda" else "cpu"
        self.threads = (1, 2, 3) if name in ISAS else ()
        """Numbers of threads worth a try."""
        self.around: list[tuple[Tensor, int]] = []

    def __getattr__(self, op: str) -> Any:
        return getattr(self.module, op)

    def empty(self, shape: Collection[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Like torch.empty, of NaN; of 99 where there is no NaN."""
        size, fill = math.prod(shape), float("nan") if dtype.is_floating_point else 99
        buffer = torch.full((size + 2 * MARGIN,), fill, dtype=dtype, device=self.device)
        self.around.append((buffer, size))
        return buffer[MARGIN : MARGIN + size].view(shape)

    def put(self, value: Any) -> Any:
        """An input, or a list of them, on the device between NaNs."""
        if isinstance(value, list | tuple):
            return [self.put(v) for v in value]
        return self.empty(value.shape, value.dtype).copy_(value) if isinstance(value, Tensor) else value

    def check(self) -> None:
        """Nothing was written around any of the tensors."""
        for buffer, size in self.around:
            outside = torch.cat([buffer[:MARGIN], buffer[MARGIN + size :]])
            assert (outside.isnan() if buffer.is_floating_point() else outside == 99).all()


def _parameters(names: Collection[str]) -> list[Any]:
    """The best instruction set is part of `make test`, the others of `make isa`."""
    marks = {name: [pytest.mark.native] if name in ISAS else [pytest.mark.gpu] for name in names}
    for name in ISAS[1:]:
        if name in marks:
            marks[name] += [pytest.mark.isa, pytest.mark.slow]
    return [pytest.param(name, id=name, marks=marks[name]) for name in names]


def every(*names: str) -> pytest.MarkDecorator:
    """Parameter `body`."""
    return pytest.mark.parametrize("body", _parameters(names), indirect=True)


def every_case(cases: Mapping[str, Any], *names: str, large: Mapping[str, Any] | None = None) -> pytest.MarkDecorator:
    """Parameters (body, case); the large ones not where an operation takes a thousand times as long."""
    chosen = [
        pytest.param(*body.values, case, id=f"{name}-{body.id}", marks=body.marks)
        for body in _parameters(names)
        for name, case in (cases | (large or {} if body.id in (*ISAS, "cuda") else {})).items()
    ]
    return pytest.mark.parametrize(("body", "case"), chosen, indirect=["body"])


@pytest.fixture(scope="module")
def simulated() -> Iterator[ModuleType]:
    """The CUDA extension without a GPU."""
    import cuda_sim

    if ARCHITECTURE is None:
        folder = cuda_sim.ROOT / "build" / ("cuda-sim-sanitized" if SANITIZER else "cuda-sim")
        yield cuda_sim.load(cuda_sim.build(folder, flags=SANITIZER))
        return
    from ptx import cuda

    if not cuda.available():
        pytest.skip("needs nvcc")
    with cuda.module(int(ARCHITECTURE)) as (module, _):
        yield module


@pytest.fixture(params=_parameters(ISAS))
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set of all native code in a test."""
    with native.use_isa(request.param):
        yield request.param


@pytest.fixture
def body(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Body]:
    """The parameter, ready to run; what lies around all memory is looked at when the test is over."""
    body, new_empty = Body(request.param), Tensor.new_empty

    def empty(tensor: Tensor, *shape: Any, **rest: Any) -> Tensor:
        if rest:  # the interpreter's own
            return new_empty(tensor, *shape, **rest)
        return body.empty(shape[0] if shape and not isinstance(shape[0], int) else shape, tensor.dtype)

    monkeypatch.setattr(torch, "empty_like", lambda t: body.empty(t.shape, t.dtype))
    monkeypatch.setattr(Tensor, "new_empty", empty)
    if body.name in SIMULATED:
        module = request.getfixturevalue("simulated")
        monkeypatch.setattr(made_gpu, "_cuda", lambda: module)
    with native.use_isa(body.name) if body.name in ISAS else nullcontext():
        yield body
    body.check()
