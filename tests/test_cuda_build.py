"""The CUDA extension without a driver, without itself, and what its kernels take of a multiprocessor."""

import importlib.util
import json
import shutil
import sys

import cuda_resources
import pytest
import torch
from conftest import made_params

from vlae_fast import gpu

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
