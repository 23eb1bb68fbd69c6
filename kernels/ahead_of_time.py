"""Compiles the kernels for a GPU that need not be there, and says what they take of it.

`python -m vlae_fast.kernels.ahead_of_time` prints, for every variant of every kernel and every architecture, registers,
spilled bytes and shared memory as JSON. Not under Triton's interpreter: it leaves nothing to compile.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ARCHITECTURES = (80, 90, 100)
MODULES = ("masked_conv", "pixelcnn", "pixelcnn_backward", "pixelcnn_sample")
"""Those that have a function `variants(architecture)`: what a launch can ask for with the preset "paper"."""


class Variant(NamedTuple):
    """One compilation of a kernel."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    num_warps: int
    types: dict[str, str] = {}  # noqa: RUF012 - never written
    """Types of arguments that are neither in `do_not_specialize` (i32) nor named scale (fp32) nor *fp32."""
    options: dict[str, Any] = {}  # noqa: RUF012
    """Further options of the compiler."""


def variants(architecture: int) -> Iterator[Variant]:
    """All of them, in all configurations of the tables."""
    for module in MODULES:
        yield from import_module(f"vlae_fast.kernels.{module}").variants(architecture)


def compile_variant(variant: Variant, architecture: int) -> Any:
    """Triton's compiled kernel: `.asm` (ttgir, ptx, cubin, ...) and `.metadata`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    _, kernel, constants, num_warps, types, options = variant

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in types:
            return types[name]
        if name in kernel.do_not_specialize:
            return "i32"
        return "fp32" if name in ("scale", "residual_scale", "temperature") else "*fp32"

    signature = {name: type_of(name) for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, type_ in enumerate(signature.values()) if type_[0] == "*"}
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned), target=target, options={"num_warps": num_warps, **options}
    )


def tool(name: str, *arguments: str) -> str:
    """What one of the CUDA tools that Triton brings prints."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True).stdout


def resources(compiled: Any) -> dict[str, int]:
    """Registers of a thread, bytes of its stack (spilled registers), bytes of shared memory of a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        report = tool("cuobjdump", "--dump-resource-usage", file.name)
    registers, stack = (int(re.findall(rf"{word}:(\d+)", report)[-1]) for word in ("REG", "STACK"))
    return {"registers": registers, "spilled_bytes": stack, "shared_bytes": compiled.metadata.shared}


def main() -> None:
    """Prints {"triton": version, "kernels": {"<variant> sm_<architecture>": resources}}."""
    import triton

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="variants whose name contains NAME")
    only = parser.parse_args().only
    kernels = {}
    for architecture in ARCHITECTURES:
        for variant in variants(architecture):
            if only in (name := f"{variant.name} sm_{architecture}"):
                kernels[name] = resources(compile_variant(variant, architecture))
                print(name, kernels[name], file=sys.stderr, flush=True)
    print(json.dumps({"triton": triton.__version__, "kernels": kernels}, indent=1))


if __name__ == "__main__":
    main()
