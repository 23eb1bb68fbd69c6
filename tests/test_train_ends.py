"""How a training ends: by signals, without anybody who reads its output, with a full disk; the state is saved."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_training import TINY, metrics, trainer

from vlae_fast import VLAE
from vlae_fast.bar import progress
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.run_folder import RunFolder
from vlae_fast.train import UnsavedError


def at_step(run, step, action):
    """Does something at that step of the optimiser."""
    count = iter(range(10**9))
    run.optimizer.register_step_post_hook(lambda *_: next(count) == step and action())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_the_state(bars, tmp_path, name):
    run = trainer(bars, tmp_path / "run")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    at_step(run, 2, lambda: os.kill(os.getpid(), number))
    assert not run.run(epochs=5)
    assert run.progress.step == trainer(bars, tmp_path / "run").progress.step == 3
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_so(bars, tmp_path):
    """As `nohup` does with SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = trainer(bars, tmp_path / "run")
        at_step(run, 2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert run.run(epochs=0.5)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("ends", [{"epochs": 1e-9}, {"minutes": 1e-9}])
def test_the_shortest_training_is_a_step_and_leaves_a_model(bars, tmp_path, ends):
    run = trainer(bars, tmp_path / "run")
    assert run.run(**ends)
    assert run.progress.step == 1
    assert VLAE.from_pretrained(tmp_path / "run").sample(1).shape[0] == 1


def test_a_bar_whose_output_failed_holds_up_no_other(monkeypatch):
    """Also where the next one is another thread's."""
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patch, open(write, "w") as pipe:
        patch.setattr(sys, "stderr", pipe)
        with pytest.raises(BrokenPipeError):
            progress(total=2)
        with open(os.devnull, "w") as nothing:  # for what is left in the buffer
            os.dup2(nothing.fileno(), write)
    thread = threading.Thread(target=lambda: progress(total=2).close(), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_trains_in_a_thread(bars, tmp_path):
    """Where Python allows no signal handlers."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(trainer(bars, tmp_path / "run").run(epochs=0.5)))
    thread.start()
    thread.join()
    assert ended == [True]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_the_end_of_a_pipe_saves_the_state(bars, tmp_path, monkeypatch, name):
    """As in `train 2>&1 | head -1`."""
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patch, open(write, "w") as pipe:
        patch.setattr(sys, name, pipe)
        run = trainer(bars, tmp_path / "run", validation_epochs=2)
        assert not run.run(epochs=5)
        with open(os.devnull, "w") as nothing:  # for what is left in the buffer
            os.dup2(nothing.fileno(), write)
    assert trainer(bars, tmp_path / "run", validation_epochs=2).progress.step == run.progress.step <= 20


def test_trains_without_output(bars, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, None)
        assert trainer(bars, tmp_path / "run").run(epochs=1)
    assert len(metrics(tmp_path / "run")) == 1


COMMAND = [sys.executable, "-m", "vlae_fast", "train", "--preset", "tiny", "--batch-size", "16"]


def start(bars, out, *flags, **options):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    command = [*COMMAND, "--data", str(bars), "--out", str(out), *flags]
    return subprocess.Popen(command, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, **streams)


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"no {path.name} after {seconds} s"
        time.sleep(0.05)


def test_the_command_tells_that_it_was_stopped(bars, tmp_path):
    out = tmp_path / "run"
    process = start(bars, out)
    wait_for(out / "metrics.jsonl", process)
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "saved at step" in output
    assert "Traceback" not in output


def test_the_command_without_anybody_who_reads_it(bars, tmp_path):
    """Standard error is closed from the beginning, standard output is read as `head` does it."""
    out = tmp_path / "run"
    process = start(bars, out, stderr=None, preexec_fn=lambda: os.close(2))
    process.stdout.readline()
    wait_for(out / "metrics.jsonl", process)
    process.stdout.close()
    assert process.wait(timeout=60) == 130
    assert (out / "state.safetensors").exists()


def test_two_trainings_in_one_folder_are_refused(bars, tmp_path):
    out = tmp_path / "run"
    first = start(bars, out)
    try:
        wait_for(out / "metrics.jsonl", first)
        second = start(bars, out)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another training runs in this folder" in output
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    third = start(bars, out, "--epochs", "1")  # a killed process holds no lock
    output, _ = third.communicate(timeout=60)
    assert third.returncode == 0, output


def failing(monkeypatch, name, times):
    """The first `times` calls of a method of RunFolder fail, as on a full disk."""
    call, left = getattr(RunFolder, name), [times]

    def write(self, *arguments):
        left[0] -= 1
        if left[0] >= 0:
            raise CheckpointError(f"{name}: cannot be written (No space left on device)")
        return call(self, *arguments)

    monkeypatch.setattr(RunFolder, name, write)


@pytest.mark.parametrize("name", ["save_state", "append_metrics", "save_weights"])
def test_what_cannot_be_written_is_tried_again(bars, tmp_path, monkeypatch, capsys, name):
    run = trainer(bars, tmp_path / "run", validation_epochs=2)
    failing(monkeypatch, name, 1)
    assert run.run(epochs=4)
    assert f"WARNING: {name}: cannot be written" in capsys.readouterr().out
    last = metrics(tmp_path / "run")[-1]
    assert last["step"] == trainer(bars, tmp_path / "run", validation_epochs=2).progress.step == 40
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["save_state", "append_metrics"])
def test_what_remains_unwritten_in_the_end_is_a_failure(bars, tmp_path, monkeypatch, name):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing(patch, name, 10**9)
        with pytest.raises(UnsavedError, match=f"{name}: cannot be written"):
            trainer(bars, out).run(epochs=1)
    run = trainer(bars, out, TINY)
    assert run.progress.step == (0 if name == "save_state" else 10)
    assert run.run(epochs=1)
    assert [row["step"] for row in metrics(out)] == [10], "a resumed run makes up for it"
