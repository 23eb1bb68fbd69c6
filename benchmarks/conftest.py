"""What all benchmarks share: one thread, and memory that is kept when it is freed."""

import pytest
import torch

from vlae_fast.native import keep_freed_memory

keep_freed_memory()  # else torch's large temporaries are paid for in page faults, ours hardly


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(before)
