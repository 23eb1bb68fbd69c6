"""Builds the native module with ninja: every kernel source once for each instruction set, the rest once."""

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
# Each kernel source is compiled once for each of these; csrc/dispatch.cpp picks one at load.
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4 -mprefer-vector-width=512"}
# VLAE_FAST_CXXFLAGS adds flags to every compilation and to the link: "-fsanitize=address,undefined", say.
EXTRA = os.environ.get("VLAE_FAST_CXXFLAGS", "")
CXXFLAGS = f"-std=c++20 -O3 -g1 -fPIC -fvisibility=hidden -ffp-contract=fast -Wall -Wextra -Wno-psabi {EXTRA}"


class BuildWithNinja(build_ext):
    """Writes build.ninja beside the objects and runs it; a second build compiles only what changed."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_ninja(folder / "build.ninja", target)
        try:
            subprocess.run([str(Path(BIN_DIR) / "ninja"), "--quiet", "-C", str(folder)], check=True)
        except subprocess.CalledProcessError:
            sys.exit(f"vlae_fast: the C++ compiler ({compiler()}) failed; its message stands above")


def compiler() -> str:
    """The C++ compiler: $CXX, or c++."""
    return os.environ.get("CXX", "c++")


def write_ninja(path: Path, target: Path) -> None:
    """Writes the rules that build `target` (the nanobind module) from csrc/."""
    kernels = sorted(p.name for p in CSRC.glob("*.cpp") if p.name not in COMMON + BINDINGS)
    root = Path(nanobind.__file__).parent
    python = sysconfig.get_paths()
    binding_flags = (
        f"-fno-strict-aliasing -DNDEBUG -I{root / 'include'} -I{root / 'ext/robin_map/include'}"
        f" -I{python['include']} -I{python['platinclude']}"
    )
    link_flags = "-shared -pthread" if sys.platform != "darwin" else "-bundle -undefined dynamic_lookup"
    with path.open("w") as file:
        ninja = Writer(file, width=120)
        ninja.rule(
            "compile", f"{compiler()} {CXXFLAGS} $flags -MD -MF $out.d -c $in -o $out", depfile="$out.d", deps="gcc"
        )
        ninja.rule("link", f"{compiler()} {EXTRA} $in {link_flags} -o $out")
        objects = []

        def compile_source(source: Path, name: str, flags: str) -> None:
            objects.extend(ninja.build(f"{name}.o", "compile", str(source.absolute()), variables={"flags": flags}))

        for source in BINDINGS:
            compile_source(CSRC / source, source, binding_flags)
        compile_source(root / "src" / "nb_combined.cpp", "nb_combined.cpp", f"{binding_flags} -Os")
        for source in COMMON:
            compile_source(CSRC / source, source, "")
        for isa, flags in INSTRUCTION_SETS.items():
            for source in kernels:
                compile_source(CSRC / source, f"{isa}/{source}", f"{flags} -DVLAE_ISA={isa}")
        ninja.build(str(target), "link", objects)


if not shutil.which("nvcc"):
    print("vlae_fast: nvcc not found, building without the CUDA module")

setup(
    ext_modules=[Extension("vlae_fast._native", sources=[], depends=[str(p) for p in CSRC.glob("*")])],
    cmdclass={"build_ext": BuildWithNinja},
)
