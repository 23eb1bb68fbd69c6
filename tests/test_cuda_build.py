"""The build of the CUDA extension: without nvcc, with it, and what its kernels take of a multiprocessor."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_resources
import pytest
import torch
from conftest import made_params

from vlae_fast import gpu

ROOT = Path(__file__).parents[1]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc not found")


@pytest.mark.skipif(importlib.util.find_spec("vlae_fast._cuda") is None, reason="built without nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_without_a_driver_it_loads_and_explains_itself_when_used() -> None:
    params = made_params(D=4, M=8, T=1)
    with pytest.raises(RuntimeError, match=r"made_flow_forward: CUDA error 35 \(cudaErrorInsufficientDriver\)"):
        gpu.made_flow_forward(torch.randn(2, 4), list(params), None)


def test_without_the_extension_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vlae_fast._cuda", None)
    monkeypatch.delattr("vlae_fast._cuda", raising=False)
    with pytest.raises(RuntimeError, match="no CUDA extension .* install vlae_fast with nvcc in PATH"):
        gpu.made_flow_inverse(torch.randn(2, 4), list(made_params(D=4, M=8, T=1)), None)


@pytest.mark.slow
def test_a_build_without_nvcc_leaves_it_out(tmp_path: Path) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    hidden = os.pathsep.join(f for f in folders if not (Path(f) / "nvcc").exists())
    command = [sys.executable, "setup.py", "build", "--build-base", tmp_path / "base", "--build-lib", tmp_path / "lib"]
    result = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": hidden}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "vlae_fast: nvcc not found, building without the CUDA module" in result.stdout
    assert {p.name.split(".")[0] for p in (tmp_path / "lib").rglob("*.so")} == {"_native"}


@needs_nvcc
@pytest.mark.slow
def test_kernels_spill_nothing_and_take_what_is_written_down() -> None:
    """After a change of the kernels: python tests/cuda_resources.py."""
    table = json.loads(cuda_resources.TABLE.read_text())
    if table["nvcc"] != cuda_resources.nvcc_version():
        pytest.skip(f"registers are written down for nvcc {table['nvcc']}")
    assert cuda_resources.registers() == table["registers"]


def test_shared_memory_is_what_is_written_down() -> None:
    table = json.loads(cuda_resources.TABLE.read_text())
    assert cuda_resources.shared_bytes() == table["most_shared_bytes"]
