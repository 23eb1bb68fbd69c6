"""Builds the CUDA sources for the CPU (tests/cuda_sim.h): python tests/cuda_sim.py FOLDER [COMPILER FLAGS].

FOLDER/_cuda.so is the CUDA extension, bindings and all; FOLDER/made_race runs its functions once, without Python.
"""

import fcntl
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import nanobind
from ninja import BIN_DIR
from ninja.ninja_syntax import Writer

ROOT = Path(__file__).parents[1]
CXXFLAGS = (
    "-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -fno-strict-aliasing"
    " -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-missing-field-initializers"
)


def build(folder: Path, target: str = "_cuda.so", flags: str = "") -> Path:
    """Path of FOLDER/target, compiled where that is needed; safe to call from several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        write_ninja(folder / "build.ninja", flags)
        command = [str(Path(BIN_DIR) / "ninja"), "--quiet", "-C", str(folder), target]
        subprocess.run(command, check=True, env=without_preloads())
    return folder / target


def without_preloads() -> dict[str, str]:
    """The environment of programs that must not get the sanitizer under which the tests run."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def write_ninja(path: Path, flags: str) -> None:
    compiler = os.environ.get("CXX", "c++")
    root, include = Path(nanobind.__file__).parent, sysconfig.get_paths()["include"]
    nanobind_flags = f"-DNDEBUG -O0 -I{root / 'include'} -I{root / 'ext/robin_map/include'} -I{include}"
    with path.open("w") as file:
        ninja = Writer(file, width=120)
        ninja.rule(
            "compile",
            f"{compiler} {CXXFLAGS} -I{ROOT / 'csrc'} {flags} $flags -MD -MF $out.d -c $in -o $out",
            depfile="$out.d",
        )
        ninja.rule("link", f"{compiler} {flags} $in $flags -o $out")
        simulated = f"-x c++ -include {ROOT / 'tests/cuda_sim.h'}"

        def objects(sources: list[Path], flags: str) -> list[str]:
            return [
                o for s in sources for o in ninja.build(f"{s.name}.o", "compile", str(s), variables={"flags": flags})
            ]

        kernels = objects(sorted((ROOT / "csrc").glob("*/*.cu")), simulated)
        bindings = objects([ROOT / "csrc/bindings/cuda.cpp", root / "src/nb_combined.cpp"], nanobind_flags)
        ninja.build("_cuda.so", "link", kernels + bindings, variables={"flags": "-shared"})
        race = objects([ROOT / "tests/made_race.cpp"], "")
        ninja.build("made_race", "link", kernels + race)


def load(path: Path) -> ModuleType:
    """The module at a path, under the name that the extension has."""
    loader = importlib.machinery.ExtensionFileLoader("_cuda", str(path))
    spec = importlib.util.spec_from_file_location("_cuda", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    build(Path(sys.argv[1]), flags=" ".join(sys.argv[2:]))
