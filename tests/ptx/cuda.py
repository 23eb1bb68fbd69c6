"""The CUDA extension whose kernels are what nvcc compiled: its host code is compiled as C++ (tests/cuda_sim.h)."""

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cuda_sim
import torch

from ptx import executor
from ptx.program import BUILD, Program, parse

Hook = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_size_t, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t
)


def programs(architecture: int) -> dict[str, Program]:
    """All kernels of csrc/*/*.cu, by their demangled names; compiled where that is needed."""
    found = {}
    csrc = cuda_sim.ROOT / "csrc"
    newest = max(p.stat().st_mtime for p in csrc.rglob("*"))
    for path in sorted(csrc.glob("*/*.cu")):
        ptx = BUILD / f"{path.parent.name}_{path.stem}.sm_{architecture}.ptx"
        if not ptx.exists() or ptx.stat().st_mtime < newest:
            BUILD.mkdir(parents=True, exist_ok=True)
            new = BUILD / f"{ptx.name}.{os.getpid()}"  # several test processes may compile at once
            flags = [
                "-std=c++20",
                "-O3",
                f"-arch=compute_{architecture}",
                f"-I{csrc}",
                "-ptx",
                str(path),
                "-o",
                str(new),
            ]
            subprocess.run(["nvcc", *flags], check=True, env=cuda_sim.without_preloads())
            new.replace(ptx)
        found |= {_demangled(name): program for name, program in parse(ptx.read_text()).items()}
    return found


def _demangled(name: str) -> str:
    """The name as it stands in C++; nvcc calls an anonymous namespace otherwise than g++."""
    text = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout.strip()
    return re.sub(r"_GLOBAL__N__\w+", "(anonymous namespace)", text)


def _names(library: Path) -> dict[int, str]:
    """Functions of a shared library by their place in it."""
    table = subprocess.run(["nm", "-C", str(library)], capture_output=True, text=True, check=True).stdout
    return {int(place, 16): name for place, name in re.findall(r"^([0-9a-f]+) [tTwW] (.*)$", table, re.MULTILINE)}


def available() -> bool:
    """Whether there is an nvcc to compile with."""
    return shutil.which("nvcc") is not None


@contextmanager
def module(architecture: int) -> Iterator[tuple[ModuleType, executor.Session]]:
    """The extension, and how its launches run. Raises PTXError from within the launches' callers."""
    path = cuda_sim.build(cuda_sim.ROOT / "build/cuda-sim-ptx", flags="-DCUDA_SIM_PTX")
    kernels, names, session = programs(architecture), _names(path), executor.Session()
    known: dict[int, int] = {}
    errors: list[Exception] = []

    @Hook
    def launch(kernel: int, blocks: int, threads: int, shared: int, content: int, content_bytes: int) -> int:
        if errors or not blocks:
            return bool(errors)
        try:
            session.launch(
                kernels[names[kernel]], ctypes.string_at(content, content_bytes), (blocks, 1, 1), threads, shared,
                known.items(),
            )  # fmt: skip
        except Exception as error:  # cannot pass through the C++ code
            errors.append(error)
        return bool(errors)

    loaded = cuda_sim.load(path)
    ctypes.c_void_p.in_dll(ctypes.CDLL(str(path)), "cuda_sim_launch").value = ctypes.cast(launch, ctypes.c_void_p).value
    data_ptr = torch.Tensor.data_ptr

    def noted(self: torch.Tensor) -> int:
        """Whose address is asked for is what a kernel may touch."""
        address = data_ptr(self)
        if self.numel():
            known[address] = max(self.nbytes, known.get(address, 0))
        return address

    def raising(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            errors.clear()
            try:
                return function(*arguments)
            except RuntimeError as error:
                raise (errors[0] if errors else error) from None
            finally:
                known.clear()

        return call

    wrapped = ModuleType("_cuda")
    for name in dir(loaded):
        if name[0] != "_":
            function = getattr(loaded, name)
            setattr(wrapped, name, function if name.endswith("_scratch") else raising(function))
    torch.Tensor.data_ptr = noted  # type: ignore[method-assign]
    try:
        yield wrapped, session
    finally:
        torch.Tensor.data_ptr = data_ptr  # type: ignore[method-assign]
