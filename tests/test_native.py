"""What all compiled bodies share: forks, Python threads, instruction sets."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
import torch
from conftest import made_params, pixelcnn_params, with_threads

from vlae_fast import native, ops

FORKS = """
import multiprocessing
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from vlae_fast import ops

sys.path.insert(0, sys.argv[1])
from conftest import pixelcnn_params

torch.manual_seed(0)
PARAMS, CONTEXT, UNIFORMS = pixelcnn_params(), torch.randn(64, 4, 12, 12), torch.rand(64, 12, 12)

def draw(n):
    torch.set_num_threads(2)
    drawn = ops.pixelcnn_sample(CONTEXT[:n], PARAMS, UNIFORMS[:n])
    torch.set_num_threads(1)  # torch's own functions hang in a fork where they had several before
    return drawn

class Drawn(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return draw(64)

expected = draw(64)
with multiprocessing.get_context("fork").Pool(2) as pool:
    forked = pool.map_async(draw, [64, 63, 62]).get(timeout=60)
assert all(torch.equal(x, expected[: len(x)]) for x in forked)
for batch in DataLoader(Drawn(), batch_size=2, num_workers=2, timeout=60):
    assert all(torch.equal(x, expected) for x in batch)
print("same")
"""


def test_safe_in_forked_processes_and_data_loader_workers():
    # In a process of its own: what else has run in this one may not bear a fork.
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert result.stdout == "same\n", result.stderr


def test_other_python_threads_run_meanwhile():
    params, context, uniforms = pixelcnn_params(), torch.randn(256, 4, 64, 64), torch.rand(256, 64, 64)
    finished = threading.Event()
    turns = 0

    def run():
        ops.pixelcnn_sample(context, params, uniforms)
        finished.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not finished.is_set():
        turns += 1
        time.sleep(0.001)
    thread.join()
    assert turns > 10  # a body that kept the interpreter's lock would leave one or two


def in_fork(action):
    """Exit status of a forked process that does this: 1 where it raises, 2 where it takes more than a minute."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, lambda *_: os._exit(2))
            signal.alarm(60)
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def no_more_threads():
    """No thread of this process can start: its stack would be larger than the address space."""
    libc, huge = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    assert libc.pthread_getattr_default_np(huge) == 0
    assert libc.pthread_attr_setstacksize(huge, ctypes.c_size_t(1 << 47)) == 0
    assert libc.pthread_setattr_default_np(huge) == 0
    with pytest.raises(RuntimeError, match="can't start new thread"):
        threading.Thread(target=int).start()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("before", [list, no_more_threads], ids=["threads", "no more threads"])
def test_threads_of_a_forked_process_are_its_own_and_may_fail_to_start(before):
    """Those of the process before are not there, and what cannot start leaves its work to the caller."""
    if before is no_more_threads and not hasattr(ctypes.CDLL(None), "pthread_setattr_default_np"):
        pytest.skip("needs glibc")
    params, context, uniforms = pixelcnn_params(), torch.randn(9, 4, 7, 8), torch.rand(9, 7, 8)
    z, flow = torch.randn(70, 5), made_params(D=5, M=12, T=2)

    def results():
        x = ops.pixelcnn_sample(context, params, uniforms)
        return x, ops.pixelcnn_log_prob(x, context, params), *ops.made_flow_forward(z, flow)

    def same():
        before()
        assert all(torch.equal(a, b) for a, b in zip(results(), expected, strict=True))

    expected = results()
    for _ in with_threads([4]):
        assert all(map(torch.equal, results(), expected))
        assert in_fork(same) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_are_those_of_torch():
    """They wait for the next call, torch's or ours: no second set of them shares the cores."""
    count = "len(os.listdir('/proc/self/task'))"
    text = f"""
import os, torch, vlae_fast
torch.set_num_threads(3)
before, x = {count}, torch.rand(1 << 22)
for _ in range(3):
    x.exp()
    there = {count}
    vlae_fast.ops.dense(torch.rand(600, 64), torch.rand(64, 64), torch.rand(64))
    assert {count} == there > before, ({count}, there, before)
"""
    subprocess.run([sys.executable, "-c", text], check=True)


def under(isa, *words):
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"VLAE_FAST_ISA": isa},
        capture_output=True,
        text=True,
    )


def test_the_environment_forces_an_instruction_set():
    for isa in native.usable_isas():
        assert under(isa, "-c", "from vlae_fast import native; print(native.isa())").stdout.strip() == isa


UNKNOWN = f"VLAE_FAST_ISA: one of {', '.join(native.usable_isas())} (what this processor runs) wanted, got 'quantum'"


@pytest.mark.parametrize("words", ["-m vlae_fast info", "-m vlae_fast --help", "-m vlae_fast sample static-mnist"])
def test_a_command_on_an_unknown_instruction_set_is_a_line(words):
    pytest.importorskip("tyro")
    result = under("quantum", *words.split())
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"vlae-fast: {UNKNOWN}\n")


def test_an_unknown_instruction_set_is_a_clear_error_of_every_op():
    result = under("quantum", "-c", "import torch, vlae_fast; vlae_fast.ops.exp(torch.ones(1))")
    assert result.returncode == 1
    assert result.stderr.endswith(f"RuntimeError: {UNKNOWN}\n")
