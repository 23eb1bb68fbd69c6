"""Several processes: they train, evaluate and draw as one does, end together, and lose nothing where one is killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import forked
from small_training import CONFIG, TINY, metrics

from vlae_fast import VLAE, checkpoint, cli, evaluate, plots
from vlae_fast.checks import NonFiniteError
from vlae_fast.data import load
from vlae_fast.distributed import LostError, World
from vlae_fast.run_folder import Progress
from vlae_fast.train import Trainer


def trainer(bars, out, world, **changes):
    options = {"batch_size": 53, "free_bits": "soft", "checkpoint_minutes": 1e9} | changes
    return Trainer(TINY, replace(CONFIG, **options), load(str(bars)), out, world=world)


def weights(model):
    """What it computes with: the length of a direction of one entry counts for nothing, its gradient is rounding."""
    plain = dict(zip(("flow", "pixelcnn"), (model.prior_flow.params(), model.pixelcnn.params()), strict=True))
    found = {f"{name}.{field}": t for name, p in plain.items() for field, t in p._asdict().items()}
    return found | {name: t for name, t in model.state_dict().items() if not name.endswith("_v")}


def assert_near(model, expected):
    for name, wanted in weights(expected).items():
        error = (weights(model)[name] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)
        assert error <= 1e-5, f"{name}: {error}"


def test_shares_are_stretches_that_cover_all():
    for n in range(20):
        for size in range(1, 8):
            parts = [range(n)[World(rank, size).share(n)] for rank in range(size)]
            assert [i for part in parts for i in part] == list(range(n))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_any_number_of_processes_train_as_one(bars, tmp_path, monkeypatch):
    """The last batch of an epoch has one image for three processes; two of them begin, three go on."""
    monkeypatch.setattr(plots, "curves", lambda rows, path: None)
    alone = trainer(bars, tmp_path / "alone", World())
    assert alone.run(epochs=2.5)
    assert alone.run(epochs=5)

    def train(epochs):
        return lambda world: not trainer(bars, tmp_path / "run", world).run(epochs=epochs)

    assert forked(2, train(2.5)) == [0, 0]
    assert forked(3, train(5)) == [0, 0, 0]
    resumed = trainer(bars, tmp_path / "run", World())
    assert resumed.progress.step == 20
    assert resumed.progress.kl_weight == alone.progress.kl_weight < 1
    assert_near(resumed.model, alone.model)
    assert_near(resumed.average, alone.average)
    for one, other in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "run"), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "warning"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4), name


def test_all_skip_what_one_of_them_finds_bad(bars, tmp_path):
    def train(world):
        run = trainer(bars, tmp_path / "run", world)
        elbo = run.model.elbo

        def spoilt(images, *, noise):
            if run.progress.step == 3 and world.rank == 1:
                raise NonFiniteError("context: finite values wanted, got NaN or infinity")
            return elbo(images, noise=noise)

        run.model.elbo = spoilt
        assert run.run(epochs=5)
        world.check_same("state", checkpoint.digest({**run._tensors()}))
        assert run.progress.skipped_steps == 1

    assert forked(3, train) == [0, 0, 0]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_end_where_one_gets_a_signal(bars, tmp_path, rank):
    def train(world):
        run = trainer(bars, tmp_path / "run", world)
        count = iter(range(10**9))

        def hook(*_):
            if next(count) == 2 and world.rank == rank:
                for _ in range(2):  # the terminal's and torchrun's
                    os.kill(os.getpid(), signal.SIGINT)

        run.optimizer.register_step_post_hook(hook)
        assert not run.run(epochs=50)
        assert run.progress.step == 3

    assert forked(2, train) == [0, 0]
    assert trainer(bars, tmp_path / "run", World()).progress.step == 3


def test_what_is_left_saves_the_state_and_says_why(bars, tmp_path, capfd):
    def train(world):
        run = trainer(bars, tmp_path / "run", world)
        run.optimizer.register_step_post_hook(lambda *_: world.rank == 1 and run.progress.step == 2 and os._exit(9))
        with pytest.raises(LostError, match=r"^process . of 3 has lost another one \(.*\)") as caught:
            run.run(epochs=50)
        assert ("the state of step 3 is in" in str(caught.value)) == world.first

    assert forked(3, train) == [0, 9, 0]
    assert trainer(bars, tmp_path / "run", World()).progress.step == 3


def test_processes_that_were_told_otherwise_do_not_begin(bars, tmp_path, capfd):
    def train(world):
        with pytest.raises(ValueError, match=r"^options: the same in all 2 processes wanted, they differ$"):
            trainer(bars, tmp_path / "run", world, seed=world.rank)

    assert forked(2, train) == [0, 0]


# --- evaluation and drawing -----------------------------------------------------------------------------------------


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VLAE(TINY)


def test_they_evaluate_as_one_and_go_on_in_other_numbers(bars, tmp_path, model):
    split = load(str(bars)).train
    alone = evaluate(model, split, samples=5)

    def cut_short(world):
        def report(done, total):
            if done >= 64:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate(model, split, samples=5, folder=tmp_path, world=world, report=report)

    def whole(world):
        seen = []
        found = evaluate(model, split, samples=5, folder=tmp_path, world=world, report=lambda d, n: seen.append(d))
        assert seen == [64, 112, 160]
        assert found == alone
        assert torch.equal(found.image_nll_nats, alone.image_nll_nats)

    assert forked(2, cut_short) == [0, 0]
    assert forked(3, whole) == [0, 0, 0]


def test_they_draw_as_one_and_go_on_in_other_numbers(tmp_path, model, monkeypatch, capfd):
    model.save_pretrained(tmp_path / "m")
    model = VLAE.from_pretrained(tmp_path / "m")  # what torch imports for it takes seconds: once, before the forks
    monkeypatch.setattr(cli.draw, "AT_ONCE", 3)
    out = tmp_path / "s.npy"
    sample = cli.draw.Sample(run=tmp_path / "m", out=out, num=20, first=2, device="cpu")
    draw, calls = VLAE.sample, []

    def interrupted(self, n, **options):
        calls.append(n)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return draw(self, n, **options)

    def cut_short(world):
        with pytest.raises(KeyboardInterrupt):
            sample()

    with monkeypatch.context() as patch:
        patch.setattr(VLAE, "sample", interrupted)
        assert forked(2, cut_short) == [0, 0]
    (part,) = set(tmp_path.iterdir()) - {tmp_path / "m"}
    assert part.read_bytes()[128:] == model.sample(6, first=2).byte().numpy().tobytes()
    assert forked(3, lambda world: sample()) == [0, 0, 0]
    assert np.array_equal(np.load(out), model.sample(20, first=2).numpy())
    assert {path.name for path in tmp_path.iterdir()} == {"m", "s.npy"}
    assert capfd.readouterr().out.count("20 images") == 1


# --- torchrun itself ------------------------------------------------------------------------------------------------


def test_torchrun_trains_and_one_of_them_speaks(bars, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "vlae_fast"]
    words = ["train", str(tmp_path / "run"), "--data", str(bars), "--preset", "tiny", "--epochs", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done at step 5") == 1
    with open(tmp_path / "run" / "metrics.jsonl") as file:
        assert json.loads(file.readline())["step"] == 5


def test_progress_goes_through_text():
    progress = Progress(step=3, seconds=0.1, kl_weight=0.7)
    assert Progress.from_json(World().text(progress.to_json())) == progress
