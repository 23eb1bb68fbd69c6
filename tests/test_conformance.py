"""csrc alone gives the hashes on record in conformance.txt, on every instruction set here and on aarch64 (emulated).

`fused` are those of all processors with fused multiply-add, `plain` those of the baseline of x86. After a change that
is meant, `python tests/test_conformance.py > tests/conformance.txt`.
"""

import os
import platform
import re
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
COMMON = [CSRC / "codec/normal.cpp", CSRC / "core/dispatch.cpp", CSRC / "core/parallel.cpp"]
COMMON += [ROOT / "tests/conformance.cpp"]
PLAIN = re.search('^PLAIN = "(.*)"$', (ROOT / "setup.py").read_text(), re.MULTILINE)[1].split()
CROSS, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def hashes(compiler, isas, fused, folder, run=(), link=()):
    """Instruction set -> case -> hash, of the program that this compiler makes; plain arithmetic beside fused."""
    kernels = [p for p in sorted(CSRC.glob("*/*.cpp")) if p not in COMMON and p.parent.name not in ("bindings", "wasm")]
    jobs = [(p, [*flags, f"-DVLAE_ISA={isa}"], f"{isa}-{p.stem}") for isa, flags in isas.items() for p in kernels]
    plain = {isa: [*flags, f"-DVLAE_ISA={isa}_plain", "-DVLAE_PLAIN"] for isa, flags in isas.items() if isa in fused}
    jobs += [(CSRC / f"{p}.cpp", flags, f"{isa}_plain-{Path(p).name}") for isa, flags in plain.items() for p in PLAIN]
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


def check(found, fused):
    codec = {"codec": on_record("plain")["codec"]}
    for isa, cases in found.items():
        wanted = codec if isa.endswith("_plain") else on_record("fused" if isa in fused else "plain")
        assert cases == wanted, isa
    assert {f"{isa}_plain" for isa in fused if isa in found} <= {*found}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86-64 processor wanted")
def test_instruction_sets_of_x86(tmp_path):
    found = hashes(os.environ.get("CXX", "c++"), X86, ["avx2", "avx512"], tmp_path)
    check(found, ["avx2", "avx512"])


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which(CROSS) and EMULATOR), reason=f"{CROSS} and qemu-user wanted")
def test_aarch64(tmp_path):
    check(hashes(CROSS, {"baseline": []}, ["baseline"], tmp_path, run=[EMULATOR], link=["-static"]), ["baseline"])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        found = hashes(os.environ.get("CXX", "c++"), X86, ["avx2", "avx512"], Path(folder))
    for kind, isa in (("fused", "avx2"), ("plain", "baseline")):
        for case, digest in found[isa].items():
            print(kind, case, digest)
