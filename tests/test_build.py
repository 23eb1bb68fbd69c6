"""How setup.py calls compilers: with stand-ins that note their arguments and write empty files."""

import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = """#!/bin/sh
printf '%s\\n' "$0 $*" >> {log}
for word; do [ "$before" = -o ] && : > "$word"; before=$word; done
exit 0
"""
NVCC_12_1 = """#!/bin/sh
case "$*" in
  *--list-gpu-arch*) echo compute_50 compute_80 compute_86 compute_90; exit 0;;
  *compute_100*) echo "nvcc fatal   : Unsupported gpu architecture 'compute_100'" >&2; exit 1;;
esac
"""
NVCC_11_8 = """#!/bin/sh
case "$*" in
  *--list-gpu-arch*) echo compute_80 compute_90; exit 0;;
  *-std=c++20*) echo "nvcc fatal   : Value 'c++20' is not defined for option 'std'" >&2; exit 1;;
esac
"""
NVCC_10_2 = """#!/bin/sh
echo "nvcc fatal   : Unknown option '--list-gpu-arch'" >&2; exit 1
"""


class Bench:
    """A folder, with a space in its name, of stand-ins and of what they build."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "a folder", folder / "log"
        self.folder.mkdir()
        self.add("c++")
        hidden = [f for f in os.environ["PATH"].split(os.pathsep) if not (Path(f) / "nvcc").exists()]
        self.environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "CFLAGS", "CXXFLAGS")}
        self.environment |= {"PATH": os.pathsep.join([str(self.folder), *hidden])}
        self.environment.pop("VLAE_FAST_CUDA_ARCHITECTURES", None)

    def add(self, name: str, script: str = "#!/bin/sh\n") -> Path:
        """Makes a stand-in; the script may end early."""
        path = self.folder / name
        path.write_text(script + COMPILER.format(log=shlex.quote(str(self.log))).removeprefix("#!/bin/sh\n"))
        path.chmod(0o755)
        return path

    def build(self, **environment: str) -> subprocess.CompletedProcess[str]:
        out = [f"--build-temp={self.folder / 'temp'}", f"--build-lib={self.folder / 'lib'}"]
        command = [sys.executable, "setup.py", "-q", "build_ext", *out]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True, timeout=120
        )

    def modules(self) -> set[str]:
        return {path.name.split(".")[0] for path in (self.folder / "lib").rglob("*.so")}

    def calls(self) -> list[str]:
        """Every command so far, the program's folder left out."""
        return self.log.read_text().replace(f"{self.folder}/", "").splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_without_nvcc_the_cuda_module_is_left_out(bench: Bench) -> None:
    result = bench.build()
    assert result.returncode == 0, result.stderr
    assert "vlae_fast: nvcc not found, building without the CUDA module\n" in result.stdout
    assert bench.modules() == {"_native"}


def test_of_nvcc_12_1_the_architectures_it_knows_are_used(bench: Bench) -> None:
    bench.add("nvcc", NVCC_12_1)
    result = bench.build()
    assert result.returncode == 0, result.stderr
    assert bench.modules() == {"_native", "_cuda"}
    (call,) = [c for c in bench.calls() if c.startswith("nvcc") and "-o made/inverse.cu.o" in c]
    assert "code=sm_80 " in call
    assert "code=sm_90 -gencode arch=compute_90,code=compute_90 " in call


@pytest.mark.parametrize(
    ("nvcc", "reason"),
    [
        (NVCC_11_8, r"nvcc is too old or has no fitting C++ compiler (nvcc fatal   : Value 'c++20' is not defined"),
        (NVCC_10_2, "nvcc knows none of the architectures 80, 90, 100"),
    ],
)
def test_with_an_older_nvcc_one_line_says_that_the_cuda_module_is_left_out(
    bench: Bench, nvcc: str, reason: str
) -> None:
    bench.add("nvcc", nvcc)
    result = bench.build()
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("vlae_fast:")]
    assert reason in line
    assert line.endswith(", building without the CUDA module")
    assert bench.modules() == {"_native"}


def test_architectures_asked_for_that_nvcc_does_not_know_are_an_error(bench: Bench) -> None:
    bench.add("nvcc", NVCC_12_1)
    result = bench.build(VLAE_FAST_CUDA_ARCHITECTURES="90 100")
    assert result.returncode == 1
    assert "VLAE_FAST_CUDA_ARCHITECTURES asks for the CUDA module, but nvcc is too old" in result.stderr
    assert bench.modules() == set()


def test_compilers_and_flags_of_the_environment_are_used(bench: Bench) -> None:
    for name in ("ccache", "my-g++", "nvcc"):
        bench.add(name, NVCC_12_1 if name == "nvcc" else "#!/bin/sh\n")
    flags = {"CPPFLAGS": "-DPRE", "CFLAGS": "-O1 -march=native", "CXXFLAGS": "-DCXX", "LDFLAGS": "-Wl,-rpath,'$ORIGIN'"}
    result = bench.build(CXX="ccache my-g++", **flags)
    assert result.returncode == 0, result.stderr
    calls = bench.calls()
    assert {c.split()[0] for c in calls} == {"ccache", "nvcc"}
    (call,) = [c for c in calls if "avx2/made/made.cpp.o" in c and " -c " in c] or [None]  # on x86-64 alone
    if call is not None:
        assert call.startswith("ccache my-g++ -O3 -g1 -DPRE -O1 -march=native -DCXX -std=c++20 ")
        assert call.index("-march=native") < call.index("-march=x86-64-v3")
    (link,) = [c for c in calls if c.startswith("ccache") and "-c " not in c]
    assert "-O1 -march=native -DCXX -Wl,-rpath,$ORIGIN -o " in link
    assert all(" -ccbin my-g++ " in c for c in calls if c.startswith("nvcc") and "--list" not in c)


@pytest.mark.parametrize(("CC", "used"), [("clang-14", "clang++-14"), ("gcc", "g++")])
def test_a_c_compiler_brings_its_partner(bench: Bench, CC: str, used: str) -> None:
    bench.add(used)
    result = bench.build(CC=CC)
    assert result.returncode == 0, result.stderr
    assert {c.split()[0] for c in bench.calls()} == {used}


def test_the_sdist_holds_the_sources_the_notices_and_no_tests(tmp_path: Path) -> None:
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        metadata = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert metadata is not None
        notices = {line for line in metadata.read().decode().splitlines() if line.startswith("License-File: ")}
    assert names >= {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.*")}
    assert {n for n in names if n.startswith(("tests", "benchmarks", "results"))} == set()
    assert notices == {f"License-File: {n}" for n in ("LICENSE", "licenses/nanobind.txt", "licenses/robin_map.txt")}


def test_windows_is_refused_in_one_line() -> None:
    code = "import runpy, sys, nanobind, ninja.ninja_syntax, setuptools.command.build_ext; sys.platform = 'win32'; "
    code += "sys.argv = ['setup.py', 'build']; runpy.run_path('setup.py')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == ("vlae_fast: Windows is not supported; in WSL it installs as on Linux\n")
