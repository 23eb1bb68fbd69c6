"""csrc alone gives the hashes on record in conformance.txt, on every instruction set here and on aarch64 (emulated).

`fused` are those of all processors with fused multiply-add, `plain` those of the baseline of x86. After a change that
is meant, `python tests/test_conformance.py > tests/conformance.txt`.
"""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
FLAGS = ["-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{CSRC}"]
X86 = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
COMMON = [CSRC / "core/dispatch.cpp", CSRC / "core/parallel.cpp", ROOT / "tests/conformance.cpp"]
CROSS, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def hashes(compiler, isas, folder, run=(), link=()):
    """Instruction set -> case -> hash, of the program that this compiler makes."""
    kernels = [p for p in sorted(CSRC.glob("*/*.cpp")) if p not in COMMON and p.parent.name != "bindings"]
    jobs = [(p, [*flags, f"-DVLAE_ISA={isa}"], f"{isa}-{p.stem}") for isa, flags in isas.items() for p in kernels]
    jobs += [(p, [], p.stem) for p in COMMON]

    def compiled(job):
        source, flags, name = job
        target = folder / f"{name}-{source.parent.name}.o"
        subprocess.run([compiler, *FLAGS, *flags, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, jobs))
    program = folder / "conformance"
    subprocess.run([compiler, *objects, "-pthread", *link, "-o", program], check=True)
    lines = subprocess.run([*run, program], check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for isa, case, digest in map(str.split, lines):
        found.setdefault(isa, {})[case] = digest
    return found


def on_record(arithmetic):
    lines = map(str.split, (ROOT / "tests/conformance.txt").read_text().splitlines())
    return {case: digest for kind, case, digest in lines if kind == arithmetic}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86-64 processor wanted")
def test_instruction_sets_of_x86(tmp_path):
    found = hashes(os.environ.get("CXX", "c++"), X86, tmp_path)
    for isa, cases in found.items():
        assert cases == on_record("plain" if isa == "baseline" else "fused"), isa


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which(CROSS) and EMULATOR), reason=f"{CROSS} and qemu-user wanted")
def test_aarch64(tmp_path):
    found = hashes(CROSS, {"baseline": []}, tmp_path, run=[EMULATOR], link=["-static"])
    assert found == {"baseline": on_record("fused")}


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        found = hashes(os.environ.get("CXX", "c++"), X86, Path(folder))
    for kind, isa in (("fused", "avx2"), ("plain", "baseline")):
        for case, digest in found[isa].items():
            print(kind, case, digest)
