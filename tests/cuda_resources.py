"""What the CUDA kernels take of a multiprocessor: `python tests/cuda_resources.py` writes tests/cuda_resources.json.

Registers of a thread are what nvcc says, for every architecture that is built by default. Shared memory is the most
that a launch asks for at the paper's sizes (D = 64, M = 640) with a scale, from the simulation.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests/cuda_resources.json"
ARCHITECTURES = (80, 90, 100)


def nvcc_version() -> str:
    """ "13.0", say."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release ([\d.]+)", text)
    assert found
    return found[1]


def kernel_name(mangled: str) -> str:
    """ "product_kernel HiddenProduct 8": the name without namespaces, and the template arguments that matter."""
    name = re.findall(r"\d+([a-z_]+_kernel)", mangled)[-1]
    arguments = re.findall(r"\d+([A-Z]\w+?Product|Config)", mangled), re.findall(r"L[ib](\d+)E", mangled)
    return " ".join([name, *arguments[0], *arguments[1]])


def registers() -> dict[str, dict[str, int]]:
    """Registers a thread, by kernel and architecture. Raises AssertionError where a kernel spills."""
    table: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
        flags = ["-std=c++20", "-O3", "-Xptxas", "-v", *code, "-odir", folder, f"-I{ROOT / 'csrc'}", "-c"]
        sources = [str(p) for p in sorted((ROOT / "csrc").glob("*/*.cu"))]
        text = subprocess.run(["nvcc", *flags, *sources], capture_output=True, text=True, check=True).stderr
    kernels = re.split(r"Compiling entry function '", text)[1:]
    for kernel in kernels:
        name, architecture = re.findall(r"^(\w+)' for '(\w+)'", kernel)[0]
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in kernel, f"{name} spills: {kernel}"
        table.setdefault(kernel_name(name), {})[architecture] = int(re.findall(r"Used (\d+) registers", kernel)[0])
    return dict(sorted(table.items()))


def shared_bytes() -> dict[str, int]:
    """Dynamic shared memory of a block, by function and way."""
    import cuda_sim

    program = cuda_sim.build(ROOT / "build/cuda-sim", "made_race")
    most = {}
    for way, N, multiprocessors in (("latency", 1, 132), ("throughput", 5, 0)):
        result = subprocess.run(
            [program, str(N), "64", "640", "1", "1", "0"],
            env={"CUDA_SIM_MULTIPROCESSORS": str(multiprocessors), "CUDA_SIM_LOG": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        most[way] = max(int(n) for n in re.findall(r"^launch \d+ (\d+)$", result.stderr, re.MULTILINE))
    return most


def measure() -> dict[str, object]:
    """The table."""
    return {"nvcc": nvcc_version(), "registers": registers(), "most_shared_bytes": shared_bytes()}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(measure(), indent=2) + "\n")
    sys.stdout.write(TABLE.read_text())
