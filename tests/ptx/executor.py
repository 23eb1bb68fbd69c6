"""Launches of compiled kernels on the CPU: `run` for any PTX program, `installed` for Triton's own launches.

Within `installed(architecture)` a Triton kernel that is called with CPU tensors is specialised and compiled by Triton
as for a GPU of that architecture, and its PTX runs here. Not under Triton's interpreter: it leaves nothing to compile.
"""

import ctypes
import importlib
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ptx.program import Program, library, parse

ORDERS = ("rising", "falling", "shuffled")
MOST_INSTRUCTIONS = 50_000_000
"""Of all warps of a launch, before it counts as one that does not end."""


PIPES = ("fma", "alu", "mufu", "shared", "global", "tensor", "shuffle", "other")
"""What carries instructions out."""
COST = np.dtype([("pipe", np.int64), ("cycles", np.float64), ("latency", np.float64)])
"""struct Cost of executor.cpp."""


class PTXError(RuntimeError):
    """What a kernel did that it must not; the message has the instruction."""


class _Launch(ctypes.Structure):
    """struct Launch of executor.cpp."""

    _fields_ = (
        ("program", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("length", "words", "longs", "predicates")),
        ("constants", ctypes.c_void_p),
        ("constant_count", ctypes.c_int64),
        ("specials", ctypes.c_void_p),
        ("special_count", ctypes.c_int64),
        ("parameters", ctypes.c_void_p),
        ("parameter_bytes", ctypes.c_int64),
        ("grid", ctypes.c_int64 * 3),
        ("threads", ctypes.c_int64),
        ("shared_bytes", ctypes.c_int64),
        ("regions", ctypes.c_void_p),
        ("region_count", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("order", "most_instructions", "races")),
        ("counts", ctypes.c_void_p),
        ("costs", ctypes.c_void_p),
        ("barrier_cycles", ctypes.c_double),
        ("cycles", ctypes.c_void_p),
    )


def run(
    program: Program,
    parameters: bytes,
    grid: Sequence[int],
    threads: int,
    shared_bytes: int,
    regions: Iterable[tuple[int, int]],
    *,
    order: str = "rising",
    races: bool = True,
    most_instructions: int = MOST_INSTRUCTIONS,
    costs: NDArray[Any] | None = None,
    barrier_cycles: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Runs a kernel; `regions` are the addresses and bytes that it may touch. Raises PTXError.

    Returns how often warps took each instruction, by its place in the program; and, where `costs` (COST) say what each
    instruction takes, the cycles of the slowest block: by dependent instructions, by the busiest pipe, by both; then by
    each of PIPES, and by the issue of instructions.
    """
    if len(parameters) != program.parameter_bytes:
        raise PTXError(f"{program.name}: {program.parameter_bytes} bytes of parameters wanted, got {len(parameters)}")
    counts, cycles = np.zeros(len(program.code), np.int64), np.zeros(3 + len(PIPES) + 1)
    constants, specials = (
        np.array(t, np.int64).reshape(-1, n) for t, n in ((program.constants, 3), (program.specials, 2))
    )
    areas = np.array(sorted(set(regions)), np.uint64).reshape(-1, 2)
    content = ctypes.create_string_buffer(parameters, max(len(parameters), 1))
    launch = _Launch(
        program.code.ctypes.data, len(program.code), *program.registers, constants.ctypes.data, len(constants),
        specials.ctypes.data, len(specials), ctypes.addressof(content), len(parameters),
        (ctypes.c_int64 * 3)(*grid, *[1] * (3 - len(grid))), threads, program.static_shared_bytes + shared_bytes,
        areas.ctypes.data, len(areas), ORDERS.index(order), most_instructions, races, counts.ctypes.data,
        None if costs is None else costs.ctypes.data, barrier_cycles, cycles.ctypes.data,
    )  # fmt: skip
    why = ctypes.create_string_buffer(400)
    failed = library().ptx_run(ctypes.byref(launch), why, ctypes.c_size_t(len(why)))
    if failed >= 0:
        text = program.texts[failed] if failed < len(program.texts) else "the end"
        raise PTXError(f"{program.name}, instruction {failed}, {text!r}: {why.value.decode()}")
    return counts, cycles


# --- Triton -----------------------------------------------------------------------------------------------------


@dataclass
class Launched:
    """A launch."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    instructions: Counter[str]
    """Of warps, by pipe."""
    cycles: NDArray[np.float64]
    """As `run` returns them; 0 where nobody counted."""


@dataclass
class Session:
    """What `installed` yields: how launches run, and what they were."""

    order: str = "rising"
    races: bool = True
    launches: list["Launched"] = field(default_factory=list)
    """What ran."""
    costs: Callable[[Program], tuple[NDArray[Any], float]] | None = None
    """What the instructions of a program and a barrier take: then cycles are counted."""
    change: Callable[[Program], Program] = lambda program: program
    """Applied to a program before it runs."""

    def launch(
        self,
        program: Program,
        parameters: bytes,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        regions: Iterable[tuple[int, int]],
    ) -> None:
        """`run`, noted. Raises PTXError."""
        program = self.change(program)
        costs, barrier = (None, 0.0) if self.costs is None else self.costs(program)
        counts, cycles = run(
            program, parameters, grid, threads, shared_bytes, regions, order=self.order, races=self.races, costs=costs,
            barrier_cycles=barrier,
        )  # fmt: skip
        pipes: Counter[str] = Counter()
        for pipe, count in zip(program.pipes(), counts.tolist(), strict=True):
            pipes[pipe] += count
        self.launches.append(Launched(program.name, grid, threads, pipes, cycles))


def _triton_launch(session: Session, kernel: Any, programs: dict[str, Program]) -> Any:
    signature = kernel.src.signature
    packing = {"fp32": "f", "i32": "i", "u32": "I", "i64": "q", "u64": "Q"}

    def launch(
        x: int,
        y: int,
        z: int,
        stream: int,
        function: Any,
        metadata: Any,
        hooks: Any,
        enter: Any,
        leave: Any,
        *arguments: Any,
    ) -> None:
        content, regions = b"", []
        for (name, kind), value in zip(signature.items(), arguments, strict=True):
            if kind == "constexpr":
                continue
            if isinstance(value, Tensor):
                assert value.is_contiguous(), name
                regions.append((value.data_ptr(), value.nbytes))
                value = value.data_ptr()
            code = "Q" if kind[0] == "*" else packing[kind]
            size = struct.calcsize(code)
            content += b"\0" * (-len(content) % size) + struct.pack(code, value)
        content += b"\0" * (-len(content) % 8) + bytes(16)  # Triton's own scratch memory: none
        if kernel.hash not in programs:
            (programs[kernel.hash],) = parse(kernel.asm["ptx"]).values()
        threads = 32 * kernel.metadata.num_warps
        session.launch(programs[kernel.hash], content, (x, y, z), threads, kernel.metadata.shared, regions)

    return launch


@contextmanager
def installed(architecture: int) -> Iterator[Session]:
    """Triton launches of vlae_fast.gpu run here, compiled for the architecture (80 for sm_80)."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import CompiledKernel
    from triton.runtime import driver

    import vlae_fast.gpu  # noqa: F401 - its launchers are changed below

    session, programs = Session(), _programs
    device = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", architecture, 32),
        get_current_device=lambda: architecture,  # Triton keeps compiled kernels by device
        get_current_stream=lambda device: 0,
    )

    def init_handles(self: Any) -> None:
        self.module, self.function, self._run = self.name, self.name, _triton_launch(session, self, programs)

    def kernels_of(stem: str, x: Tensor) -> Any:
        return importlib.import_module(f"vlae_fast.kernels.{stem}")

    launchers = [m for name, m in sys.modules.items() if name.startswith("vlae_fast.ops.") and hasattr(m, "kernels_of")]
    checked = [(module, module.kernels_of) for module in launchers]
    for module in launchers:
        module.kernels_of = kernels_of  # that there be a GPU
    # The launcher is made anew for each session.
    before = CompiledKernel._init_handles, CompiledKernel.run
    CompiledKernel._init_handles = init_handles
    CompiledKernel.run = property(lambda self: _triton_launch(session, self, programs))
    driver.set_active(device)
    try:
        yield session
    finally:
        CompiledKernel._init_handles, CompiledKernel.run = before
        driver._active = None
        for module, original in checked:
            module.kernels_of = original


_programs: dict[str, Program] = {}
