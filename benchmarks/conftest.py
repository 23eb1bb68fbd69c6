"""What all benchmarks share: one thread, and memory that is kept when it is freed."""

import ctypes
import sys

import pytest
import torch

if sys.platform == "linux":  # else torch's large temporaries are paid for in page faults, ours hardly
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        ctypes.CDLL(None).mallopt(option, 1 << 30)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(before)
