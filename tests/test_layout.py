"""The house stays in order: imports point one way, files stay short, the contract's names are there."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vlae_fast"
PYPROJECT = (ROOT / "pyproject.toml").read_text()
# Each module may import those to the right of it.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"accelerate", "explore", "train", "evaluate"},
    {"codec"},
    {"latent", "plots", "run_folder", "rounds", "device", "batches", "objective", "console", "optimizer"},
    {"model"},
    {"networks", "distributions", "inpainting", "inputs"},
    {"layers", "data"},
    {"reference", "native", "gpu"},  # gather what stands in the rooms of ops
    {"ops"},
    {"kernels", "_native", "_cuda"},
    {"pretrained", "folder_lock"},
    {"bar", "config", "masks", "noise", "params"},
    {"bound", "checkpoint", "distributed", "extra", "portable", "report"},
    {"checks"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def module_of(path):
    """Name of the layer that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Names of the layers that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "vlae_fast":
            yield from (alias.name for alias in node.names if alias.name in RANK)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vlae_fast."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("vlae_fast."))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = module_of(path)
    for name in imported(path):
        assert name == own or RANK[name] > RANK[own], f"{own} imports {name}"


def test_every_package_is_installed():
    """setuptools finds none by itself, as kernels/ lies outside."""
    listed = set(re.findall(r'"(vlae_fast[\w.]*)"', re.search(r"^packages = \[.*?\]", PYPROJECT, re.M | re.S)[0]))
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert listed == there | {"vlae_fast.kernels"}


def test_stems_do_not_import_each_other():
    for path in (PACKAGE / "ops").glob("*/*.py"):
        others = set(re.findall(r"vlae_fast\.ops\.(\w+)\.\w+|vlae_fast\.ops\.(\w+) import", path.read_text()))
        stems = {p.name for p in (PACKAGE / "ops").iterdir() if (p / "__init__.py").exists()} - {path.parent.name}
        assert not {name for pair in others for name in pair} & stems, path


TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
SOURCES = [ROOT / name for name in TRACKED.split("\0") if name.endswith((".py", ".cpp", ".h", ".cu"))]


def test_files_are_short():
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_kernel_sources_use_no_standard_library():
    """Its inline functions would be shared between instruction sets (csrc/core/parallel.h); intrinsics never are."""
    shared = {"native.cpp", "cuda.cpp", "arguments.h", "dispatch.cpp", "parallel.cpp", "normal.cpp"}
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.name not in shared and path.suffix != ".cu" and not path.stem.endswith("cuda"):
            allowed = r"#include <(cstdint|cstddef|immintrin.h|arm_neon.h)>"
            found = [line for line in path.read_text().splitlines() if re.match(r"#include <", line)]
            assert all(re.match(allowed, line) for line in found), f"{path.name}: {found}"


def test_kernel_sources_own_memory_by_objects():
    """By Scratch, Array (csrc/core/parallel.h) and the standard library: nothing leaks where an allocation throws."""
    for path in (ROOT / "csrc").rglob("*.*"):
        code = re.sub(r"//.*", "", path.read_text())
        found = re.findall(r".*(?:\bnew (?!\(self\))|\bdelete\b *[\[\w]|\bmalloc\b).*", code)
        assert not found, f"{path.name}: {found}"
