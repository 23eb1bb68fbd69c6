"""Builds the compiled modules with ninja: `_native`, and `_cuda` where there is an nvcc.

Every kernel source of `_native` is compiled once for each instruction set, every one of `_cuda` for all architectures.
$CXX (else what goes with $CC) compiles, with $CPPFLAGS, $CFLAGS, $CXXFLAGS and $LDFLAGS; nvcc reads flags of its own
from $NVCC_APPEND_FLAGS.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

import nanobind
from ninja import BIN_DIR
from ninja.ninja_syntax import Writer
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
COMMON = ["codec/normal.cpp", "core/dispatch.cpp", "core/parallel.cpp"]
BINDINGS = ["bindings/native.cpp"]
CUDA_BINDINGS = ["bindings/cuda.cpp"]
# Each kernel source is compiled once for each of these; csrc/core/dispatch.cpp picks one at load.
INSTRUCTION_SETS = {"baseline": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": "-march=x86-64-v3", "avx512": "-march=x86-64-v4 -mprefer-vector-width=512"}
# What a codec needs is compiled once more in plain arithmetic, the same bits on every processor.
FUSED = [isa for isa in INSTRUCTION_SETS if isa != "baseline" or platform.machine().lower() in ("aarch64", "arm64")]
PLAIN = "core/table dense/dense exp/exp made/inverse made/made pixelcnn/sample resnet/resnet weight_norm/weight_norm"
DEFAULTS = "-O3 -g1"  # the environment's flags may change these, not those that the sources rely on
REQUIRED = "-std=c++20 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-psabi"
# What `_cuda` has machine code for, where nvcc knows it, and PTX of the last. VLAE_FAST_CUDA_ARCHITECTURES asks for
# others, come what may; empty, `_cuda` is not built.
ARCHITECTURES = ["80", "90", "100"]
ASKED_FOR = os.environ.get("VLAE_FAST_CUDA_ARCHITECTURES")
NVCCFLAGS = "-std=c++20 -O3 -Xcompiler -fPIC,-fvisibility=hidden"


class BuildWithNinja(build_ext):
    """Writes build.ninja beside the objects and runs it; a second build compiles only what changed."""

    def finalize_options(self) -> None:
        self.distribution.ext_modules = modules()
        super().finalize_options()

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
            used, mend = {
                "_native": (compiler(), ""),
                "_cuda": (f"nvcc, {compiler()}", "; with VLAE_FAST_CUDA_ARCHITECTURES= the CUDA module is left out"),
            }[module]
            sys.exit(f"vlae_fast: a compiler ({used}) failed; its message stands above{mend}")


def compiler() -> str:
    """The command of the C++ compiler, "ccache g++", say: $CXX, else what goes with $CC, else c++."""
    partner = {"gcc": "g++", "clang": "clang++", "cc": "c++"}
    ending = r"\b(gcc|clang|cc)(?=-?[\d.]*(\s|$))"
    return os.environ.get("CXX") or re.sub(ending, lambda match: partner[match[1]], os.environ.get("CC") or "cc")


def environment(*names: str) -> str:
    """Flags of the environment, as a ninja file spells them."""
    return " ".join(os.environ.get(name, "") for name in names).replace("$", "$$")


def binding_flags() -> str:
    """Flags of sources that include nanobind."""
    root, python = Path(nanobind.__file__).parent, sysconfig.get_paths()
    return (
        f"-fno-strict-aliasing -DNDEBUG {include(root / 'include')} {include(root / 'ext/robin_map/include')}"
        f" {include(python['include'])} {include(python['platinclude'])}"
    )


def include(folder: Path | str) -> str:
    """The flag of an include folder."""
    return shlex.quote(f"-I{folder}").replace("$", "$$")


def write_bindings(ninja: Writer, sources: list[str]) -> list[str]:
    """Writes the rule "compile" of C++ sources and how to build bindings; returns their objects."""
    flags = f"{DEFAULTS} {environment('CPPFLAGS', 'CFLAGS', 'CXXFLAGS')} {REQUIRED} {include(CSRC.absolute())} $flags"
    command = f"{compiler()} {flags} -MD -MF $out.d -c $in -o $out"
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
    once = COMMON + BINDINGS + CUDA_BINDINGS + [str(p.relative_to(CSRC)) for p in CSRC.glob("wasm/*.cpp")]
    kernels = [name for name in sorted(str(p.relative_to(CSRC)) for p in CSRC.glob("*/*.cpp")) if name not in once]
    for isa, flags in INSTRUCTION_SETS.items():
        for source in kernels:
            objects.append(compile_source(ninja, CSRC / source, f"{isa}/{source}", f"{flags} -DVLAE_ISA={isa}"))
        for source in (f"{name}.cpp" for name in PLAIN.split() if isa in FUSED):
            plain = f"{flags} -DVLAE_ISA={isa}_plain -DVLAE_PLAIN"
            objects.append(compile_source(ninja, CSRC / source, f"{isa}_plain/{source}", plain))
    link_flags = "-shared -pthread" if sys.platform != "darwin" else "-bundle -undefined dynamic_lookup"
    flags = environment("CFLAGS", "CXXFLAGS", "LDFLAGS")  # -fsanitize and -flto are for both steps
    ninja.rule("link", f"{compiler()} $in {link_flags} {flags} -o $out")
    ninja.build(target, "link", objects)


def write_cuda(ninja: Writer, target: str) -> None:
    """Writes the rules that build `target`, the CUDA module; it carries the CUDA runtime and loads without a driver."""
    command = f"{nvcc()} {NVCCFLAGS} {machine_code(architectures())} {include(CSRC.absolute())}"
    ninja.rule("nvcc", f"{command} -MD -MF $out.d -c $in -o $out", depfile="$out.d", deps="gcc")
    objects = write_bindings(ninja, CUDA_BINDINGS)
    objects += [compile_source(ninja, p, str(p.relative_to(CSRC)), "", "nvcc") for p in sorted(CSRC.glob("*/*.cu"))]
    ninja.rule("link", f"{nvcc()} -shared -cudart static $in -o $out")
    ninja.build(target, "link", objects)


def nvcc() -> str:
    """The command of nvcc with its C++ compiler: of "ccache g++ -m64" that is g++."""
    program = [word for word in shlex.split(compiler()) if not word.startswith("-")][-1]
    return f"nvcc -ccbin {shlex.quote(program)}"


def architectures() -> list[str]:
    """Those asked for, else the usual ones that nvcc knows."""
    if ASKED_FOR is not None:
        return ASKED_FOR.split()
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    return [a for a in ARCHITECTURES if f"compute_{a}" in known]


def machine_code(wanted: list[str]) -> str:
    """The flags of nvcc for these architectures."""
    code = [f"-gencode arch=compute_{a},code=sm_{a}" for a in wanted]
    return " ".join([*code, f"-gencode arch=compute_{wanted[-1]},code=compute_{wanted[-1]}"])


def nvcc_problem() -> str:
    """Why nvcc cannot build `_cuda`: an empty file, compiled with all flags, tells; empty where it can."""
    if not shutil.which("nvcc"):
        return "nvcc not found"
    wanted = architectures()
    if not wanted:
        return f"nvcc knows none of the architectures {', '.join(ARCHITECTURES)}"
    with TemporaryDirectory() as folder:
        (Path(folder) / "empty.cu").touch()
        command = [*shlex.split(f"{nvcc()} {NVCCFLAGS} {machine_code(wanted)}"), "-c", "empty.cu", "-o", "empty.o"]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
    return f"nvcc is too old or has no fitting C++ compiler ({[*lines, ''][0]})" if result.returncode else ""


def modules() -> list[Extension]:
    """`_native`, and `_cuda` where it can be built; says why it cannot, which is an error where it was asked for."""
    names = ["_native"]
    if ASKED_FOR is None or ASKED_FOR.split():
        problem = nvcc_problem()
        if problem and ASKED_FOR is not None:
            sys.exit(f"vlae_fast: VLAE_FAST_CUDA_ARCHITECTURES asks for the CUDA module, but {problem}")
        if problem:
            print(f"vlae_fast: {problem}, building without the CUDA module")
        else:
            names.append("_cuda")
    return [Extension(f"vlae_fast.{name}", sources=[]) for name in names]


if sys.platform == "win32":
    sys.exit("vlae_fast: Windows is not supported; in WSL it installs as on Linux")
setup(ext_modules=[Extension("vlae_fast._native", sources=[])], cmdclass={"build_ext": BuildWithNinja})
