"""Builds the compiled modules with ninja: `_native`, and `_cuda` where there is an nvcc.

Every kernel source of `_native` is compiled once for each instruction set, every one of `_cuda` for all architectures.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nanobind
from ninja import BIN_DIR
from ninja.ninja_syntax import Writer
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
COMMON = ["dispatch.cpp", "parallel.cpp"]
BINDINGS = ["bindings.cpp"]
CUDA_BINDINGS = ["bindings_cuda.cpp"]
# Each kernel source is compiled once for each of these; csrc/dispatch.cpp picks one at load.
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4 -mprefer-vector-width=512"}
# VLAE_FAST_CXXFLAGS adds flags to every compilation and to the link: "-fsanitize=address,undefined", say.
EXTRA = os.environ.get("VLAE_FAST_CXXFLAGS", "")
CXXFLAGS = f"-std=c++20 -O3 -g1 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Wno-psabi {EXTRA}"
# VLAE_FAST_CUDA_ARCHITECTURES: those `_cuda` has machine code for, and PTX of the last; without any it is not built.
ARCHITECTURES = os.environ.get("VLAE_FAST_CUDA_ARCHITECTURES", "80 90 100").split()
NVCCFLAGS = "-std=c++20 -O3 -Xcompiler -fPIC,-fvisibility=hidden"


class BuildWithNinja(build_ext):
    """Writes build.ninja beside the objects and runs it; a second build compiles only what changed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        module = ext.name.rpartition(".")[2]
        folder = Path(self.build_temp).absolute() / module
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "build.ninja").open("w") as file:
            {"_native": write_native, "_cuda": write_cuda}[module](Writer(file, width=120), str(target))
        try:
            subprocess.run([str(Path(BIN_DIR) / "ninja"), "--quiet", "-C", str(folder)], check=True)
        except subprocess.CalledProcessError:
            used = {"_native": compiler(), "_cuda": f"nvcc, {compiler()}"}[module]
            sys.exit(f"vlae_fast: a compiler ({used}) failed; its message stands above")


def compiler() -> str:
    """The C++ compiler: $CXX, or c++."""
    return os.environ.get("CXX", "c++")


def binding_flags() -> str:
    """Flags of sources that include nanobind."""
    root, python = Path(nanobind.__file__).parent, sysconfig.get_paths()
    return (
        f"-fno-strict-aliasing -DNDEBUG -I{root / 'include'} -I{root / 'ext/robin_map/include'}"
        f" -I{python['include']} -I{python['platinclude']}"
    )


def write_bindings(ninja: Writer, sources: list[str]) -> list[str]:
    """Writes the rule "compile" of C++ sources and how to build bindings; returns their objects."""
    command = f"{compiler()} {CXXFLAGS} $flags -MD -MF $out.d -c $in -o $out"
    ninja.rule("compile", command, depfile="$out.d", deps="gcc")
    objects = [compile_source(ninja, CSRC / source, source, binding_flags()) for source in sources]
    nanobind_source = Path(nanobind.__file__).parent / "src/nb_combined.cpp"
    return [*objects, compile_source(ninja, nanobind_source, "nb_combined.cpp", f"{binding_flags()} -Os")]


def compile_source(ninja: Writer, source: Path, name: str, flags: str, rule: str = "compile") -> str:
    """Writes how to compile one source; returns the object's name."""
    return ninja.build(f"{name}.o", rule, str(source.absolute()), variables={"flags": flags})[0]


def write_native(ninja: Writer, target: str) -> None:
    """Writes the rules that build `target`, the CPU module."""
    objects = write_bindings(ninja, BINDINGS)
    objects += [compile_source(ninja, CSRC / source, source, "") for source in COMMON]
    bindings = BINDINGS + CUDA_BINDINGS
    kernels = sorted(p.name for p in CSRC.glob("*.cpp") if p.name not in COMMON + bindings)
    for isa, flags in INSTRUCTION_SETS.items():
        for source in kernels:
            objects.append(compile_source(ninja, CSRC / source, f"{isa}/{source}", f"{flags} -DVLAE_ISA={isa}"))
    link_flags = "-shared -pthread" if sys.platform != "darwin" else "-bundle -undefined dynamic_lookup"
    ninja.rule("link", f"{compiler()} {EXTRA} $in {link_flags} -o $out")
    ninja.build(target, "link", objects)


def write_cuda(ninja: Writer, target: str) -> None:
    """Writes the rules that build `target`, the CUDA module; it carries the CUDA runtime and loads without a driver."""
    code = [f"-gencode arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    code.append(f"-gencode arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    ninja.rule(
        "nvcc",
        f"nvcc -ccbin {compiler()} {NVCCFLAGS} {' '.join(code)} -MD -MF $out.d -c $in -o $out",
        depfile="$out.d",
        deps="gcc",
    )
    objects = write_bindings(ninja, CUDA_BINDINGS)
    objects += [compile_source(ninja, p, p.name, "", "nvcc") for p in sorted(CSRC.glob("*.cu"))]
    ninja.rule("link", f"nvcc -ccbin {compiler()} -shared -cudart static $in -o $out")
    ninja.build(target, "link", objects)


def modules() -> list[Extension]:
    """`_native`, and `_cuda` where it can be built."""
    names = ["_native"]
    if not shutil.which("nvcc"):
        print("vlae_fast: nvcc not found, building without the CUDA module")
    elif ARCHITECTURES:
        names.append("_cuda")
    return [Extension(f"vlae_fast.{name}", sources=[], depends=[str(p) for p in CSRC.glob("*")]) for name in names]


setup(ext_modules=modules(), cmdclass={"build_ext": BuildWithNinja})
