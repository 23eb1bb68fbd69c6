"""What all compiled bodies share: forks, Python threads, instruction sets."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import pixelcnn_params
from torch.utils.data import DataLoader

from vlae_fast import native, ops

PARAMS = pixelcnn_params()


def draw(seed):
    """Images drawn on two threads."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(64, 4, 12, 12, generator=generator)
    return ops.pixelcnn_sample(context, PARAMS, torch.rand(64, 12, 12, generator=generator))


@pytest.fixture
def _threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_safe_after_fork():
    expected = draw(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        drawn = pool.map_async(draw, [0, 0, 0]).get(timeout=60)
    assert all(torch.equal(x, expected) for x in drawn)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_runs_in_data_loader_workers():
    class Drawn(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return draw(i)

    batches = list(DataLoader(Drawn(), batch_size=2, num_workers=2, timeout=60))
    assert torch.equal(torch.cat(batches), torch.stack([draw(i) for i in range(4)]))


def test_other_python_threads_run_meanwhile():
    context, uniforms = torch.randn(256, 4, 64, 64), torch.rand(256, 64, 64)
    finished = threading.Event()
    turns = 0

    def run():
        ops.pixelcnn_sample(context, PARAMS, uniforms)
        finished.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not finished.is_set():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 10  # a body that kept the interpreter's lock would leave one or two


def import_under(isa):
    return subprocess.run(
        [sys.executable, "-c", "from vlae_fast import native; print(native.isa())"],
        env=os.environ | {"VLAE_FAST_ISA": isa},
        capture_output=True,
        text=True,
    )


def test_the_environment_forces_an_instruction_set():
    for isa in native.usable_isas():
        assert import_under(isa).stdout.strip() == isa


def test_an_unknown_instruction_set_is_a_clear_error():
    result = import_under("quantum")
    assert result.returncode != 0
    assert "no instruction set of this processor is known as 'quantum'" in result.stderr
