"""Training on small real-format data: it learns, resumes bit for bit, survives signals, guards against divergence."""

import errno
import os
import resource
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import TINY, digest, metrics, trainer

from vlae_fast import VLAE, latent
from vlae_fast.checkpoint import CheckpointError, write_tensors
from vlae_fast.data import load


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"free_bits": "soft"},
        {"free_bits_groups": "dimension"},
    ],
    ids=["hard", "soft", "dimension"],
)
def test_learns_and_writes_the_run_folder(bars, tmp_path, changes):
    out = tmp_path / "run"
    assert trainer(bars, out, **changes).run(epochs=9)
    rows = metrics(out)
    assert [row["epoch"] for row in rows] == [4, 8, 9]
    assert rows[-1]["valid_negative_elbo_nats"] < 30  # an even guess costs 72 * log(2) = 50
    assert {p.name for p in out.iterdir()} == {
        "config.json",
        "curves.png",
        "data.png",
        "metrics.jsonl",
        "model.safetensors",
        "samples.png",
        "state.previous.safetensors",
        "state.safetensors",
    }
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("curves.png", "samples.png"))
    model = VLAE.from_pretrained(out)
    assert model.sample(3).shape == (3, 1, 9, 8)


def test_annealed_to_nothing_at_its_end(bars, tmp_path):
    run = trainer(bars, tmp_path / "run", anneal_from=1.0, anneal_to=3.0)
    rates = []
    run.optimizer.register_step_post_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    assert run.run()
    steps = run.steps_per_epoch
    assert run.progress.step == len(rates) == 3 * steps
    expected = [1.0] * steps + [1 - i / (2 * steps) for i in range(2 * steps)]
    assert rates == pytest.approx([run.config.learning_rate * share for share in expected])
    assert rates[-1] != 0, "the last step moves"


def test_learns_from_the_validation_images_too(bars, tmp_path):
    run = trainer(bars, tmp_path / "run", train_on="train+validation", learning_rate=1e-9)
    data = load(str(bars))
    assert torch.equal(run.split.fixed()[: len(data.train)], data.train.fixed())
    chance = run.split.probabilities(slice(len(data.train), None))
    assert torch.equal(chance, data.valid.probabilities(slice(None)))
    assert run.steps_per_epoch == -(-len(run.split) // 16) > -(-len(data.train) // 16)
    run.progress.best_nats = 0.0  # no validation is better
    run.run(epochs=1)
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(t, kept[name]) for name, t in run.average.state_dict().items()), "the last weights count"


def test_decoder_alone_trains(bars, tmp_path):
    assert trainer(bars, tmp_path / "run", replace(TINY, conditioning="map")).run(epochs=2)
    assert metrics(tmp_path / "run")[-1]["valid_kl_nats"] == 0


def test_posterior_collapse_is_said_while_training(bars, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latent, "COLLAPSED_NATS", 1000.0)
    assert trainer(bars, tmp_path / "run").run(epochs=1)
    assert "WARNING: posterior collapse" in capsys.readouterr().out
    assert 0 <= metrics(tmp_path / "run")[-1]["active_units"] <= TINY.latent_size
    assert trainer(bars, tmp_path / "alone", replace(TINY, conditioning="none")).run(epochs=1)
    assert "WARNING" not in capsys.readouterr().out
    assert metrics(tmp_path / "alone")[-1]["active_units"] is None


def test_resumed_run_ends_bit_identical(bars, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    anneal = {"anneal_from": 0.8, "anneal_to": 4.0}
    trainer(bars, whole, **anneal).run(epochs=3)
    for epochs in (0.5, 1.3, 1.3, 3):  # the third has nothing to do
        trainer(bars, parts, **anneal).run(epochs=epochs)
    a, b = trainer(bars, whole, **anneal), trainer(bars, parts, **anneal)
    assert a.progress.step == b.progress.step == 30
    for (name, x), (_, y) in zip(sorted(a._tensors().items()), sorted(b._tensors().items()), strict=True):
        assert torch.equal(x, y), name


def test_minutes_count_over_resumptions(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(minutes=0.02)
    first = trainer(bars, out)
    assert first.progress.seconds >= 1.2
    step = first.progress.step
    assert first.run(minutes=0.02)
    assert first.progress.step == step


def test_another_config_is_refused_and_the_run_left_alone(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    before = digest(out)
    with pytest.raises(CheckpointError, match=r"config.training.seed: 0 there, 1 here"):
        trainer(bars, out, seed=1)
    with pytest.raises(CheckpointError, match=r"config.model.latent_size: 8 there, 9 here"):
        trainer(bars, out, replace(TINY, latent_size=9))
    assert digest(out) == before


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def flip(path):
    """One bit of the last tensor changes: the header is as before."""
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: path.write_bytes(b"x" * 100),
    "enormous header": lambda path: path.write_bytes(b"\xff" * 8 + b"{}"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one bit": flip,
    "another model": lambda path: write_tensors(path, {"w": torch.zeros(3)}),
    "no progress": lambda path: write_tensors(path, load_file(path)),
    "progress out of range": lambda path: write_tensors(
        path, load_file(path), {"progress": '{"step": -1, "seconds": 0.0, "kl_weight": 1.0, "best_nats": 1.0}'}
    ),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_state(bars, tmp_path, case, capsys):
    """The one before takes its place; where that is damaged too, one line says so and nothing is touched."""
    out = tmp_path / "run"
    t = trainer(bars, out)
    t.save()
    t.run(epochs=1)
    if not case.startswith("a "):  # a folder cannot be renamed away
        DAMAGE[case](out / "state.safetensors")
        resumed = trainer(bars, out)
        assert "state.safetensors: " in (said := capsys.readouterr().err)
        assert "going on from state.previous.safetensors, step 0" in said
        assert resumed.run(epochs=1)
        assert all(torch.equal(x, t._tensors()[name]) for name, x in resumed._tensors().items())
        assert len(metrics(out)) == 1
    for name in ("state.safetensors", "state.previous.safetensors"):
        DAMAGE[case](out / name)
    before = sorted(out.iterdir())
    with pytest.raises(CheckpointError, match=r"state\.(previous\.)?safetensors: [^\n]*$"):
        trainer(bars, out)
    assert sorted(out.iterdir()) == before


def two_steps(bars, out):
    trainer(bars, out, checkpoint_minutes=1e-9, validation_epochs=9).run(epochs=0.2)


def killed_at(instant, bars, out, monkeypatch):
    """Trains in a child that kills itself before its flush or renaming number `instant`; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = [instant]

        def or_die(call):
            def counted(*arguments):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments)

            return counted

        monkeypatch.setattr(os, "fsync", or_die(os.fsync))
        monkeypatch.setattr(Path, "replace", or_die(Path.replace))
        try:
            two_steps(bars, out)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_every_flush_and_renaming(bars, tmp_path, monkeypatch):
    """However little each life writes, the run goes on and ends as one left alone."""
    alone, out = tmp_path / "alone", tmp_path / "killed"
    two_steps(bars, alone)
    instants = 0
    while killed_at(instants, bars, out, monkeypatch):
        instants += 1
    assert instants > 9
    assert {p.name for p in out.iterdir()} == {p.name for p in alone.iterdir()}
    for name in ("model.safetensors", "state.safetensors"):
        a, b = load_file(alone / name), load_file(out / name)
        assert all(torch.equal(a[tensor], b[tensor]) for tensor in a)
    assert len(metrics(out)) == 1


def test_killed_between_the_two_renamings(bars, tmp_path, capsys):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    (out / "state.safetensors").replace(out / "state.previous.safetensors")
    assert trainer(bars, out).progress.step == 10
    assert "damaged" not in capsys.readouterr().err
    assert (out / "state.safetensors").exists()


def test_what_killed_processes_left_is_removed(bars, tmp_path):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    names = {p.name for p in out.iterdir()}
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    for process in (dead.pid, os.getpid()):
        (out / f".state.new.safetensors.{process}.new").write_bytes(b"half")
    (out / "state.new.safetensors").write_bytes(b"half")
    (out / ".model.safetensors.1.new").write_bytes(b"of a living process")
    (out / ".mine.new").write_bytes(b"the user's own")
    trainer(bars, out)
    assert {p.name for p in out.iterdir()} == names | {".model.safetensors.1.new", ".mine.new"}


def full_disk(monkeypatch):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def failing(call, number):
    def fail(monkeypatch):
        def refuse(*arguments):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(*call, refuse)

    return fail


FAILURES = {
    "file size limit": full_disk,
    "full disk": failing((os, "fsync"), errno.ENOSPC),
    "read-only folder": failing((Path, "open"), errno.EROFS),
    "no permission to rename": failing((Path, "replace"), errno.EACCES),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_cannot_be_written_leaves_the_state_alone(bars, tmp_path, case, monkeypatch):
    out = tmp_path / "run"
    trainer(bars, out).run(epochs=1)
    before = contents(out)
    t = trainer(bars, out)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    t.progress.step += 1
    try:
        with monkeypatch.context() as patch:
            FAILURES[case](patch)
            with pytest.raises(CheckpointError, match=r"safetensors: cannot be written \([^\n]*\)$"):
                t.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert contents(out) == before
    assert trainer(bars, out).progress.step == 10


def test_a_model_that_cannot_be_written_leaves_no_folder(tmp_path, monkeypatch):
    model = VLAE(TINY)
    with monkeypatch.context() as patch:
        FAILURES["full disk"](patch)
        with pytest.raises(CheckpointError, match="cannot be written"):
            model.save_pretrained(tmp_path / "new" / "model")
    assert list(tmp_path.iterdir()) == []
