"""What commands say: how long a call takes, few lines in a log, nothing when quiet; and what imports at top level."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY

import vlae_fast
from vlae_fast import VLAE, bar, cli, plots


def command(*words):
    return cli.main([str(word) for word in words])


EVALUATE = ("evaluate", "m", "--data", "images.npy", "--samples", 2, "--subset", 6)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def counted(stream, monkeypatch, **options):
    """What a count to a thousand writes."""
    monkeypatch.setattr(sys, "stderr", stream)
    with bar.progress(total=1000, **options) as counter:
        for _ in range(1000):
            counter.update(1)
    return stream.getvalue()


def test_few_lines_where_there_is_no_terminal(monkeypatch):
    log = counted(io.StringIO(), monkeypatch)
    assert 1 <= len(log.splitlines()) <= 3
    assert "1000/1000" in log.splitlines()[-1]
    assert "\r" in counted(Terminal(), monkeypatch)
    monkeypatch.setattr(bar, "LOG_SECONDS", 0)
    log = counted(io.StringIO(), monkeypatch)
    assert len(log.splitlines()) >= 1000
    assert "\r" not in log
    assert max(map(len, log.splitlines())) <= 100


def test_no_bar_when_quiet_or_nobody_is_there(monkeypatch):
    assert counted(Terminal(), monkeypatch, quiet=True) == ""
    monkeypatch.setattr(sys, "stderr", None)
    with bar.progress(total=3) as counter:
        counter.update(3)


def test_quiet_commands_say_results_alone(home, capsys):
    assert command("train", "run", "--data", "images.npy", "--preset", "tiny", "--epochs", 1, "--quiet") == 0
    assert command("sample", "m", "--num", 2, "--out", "s.png", "--quiet") == 0
    assert command("reconstruct", "m", "--data", "images.npy", "--num", 2, "--out", "r.png", "--quiet") == 0
    said = capsys.readouterr()
    assert [line for line in said.out.splitlines() if not line.startswith("WARNING")] == []
    assert said.err == ""
    assert command(*EVALUATE, "--quiet") == 0
    said = capsys.readouterr()
    assert said.out.startswith("data                    images.npy, all\nimages                  6 ")
    assert said.err == ""
    assert command("sample", "none", "--out", "s.png", "--quiet") == 2
    assert capsys.readouterr().err.startswith("vlae-fast: none: ")


def test_how_long_it_takes_is_said_before(home, capsys, monkeypatch):
    monkeypatch.setattr(cli.evaluate, "LONG_SECONDS", 0)
    assert command(*EVALUATE) == 0
    assert (
        "6 images x 2 samples will take about 0 seconds; cut short, the same command goes on" in capsys.readouterr().err
    )
    assert command(*EVALUATE) == 0
    assert "will take" not in capsys.readouterr().err, "all is there already"


@pytest.mark.parametrize("conditioning", ["latent", "none"])
def test_the_estimate_counts_codes_where_there_are_any(monkeypatch, conditioning):
    model = VLAE(replace(TINY, conditioning=conditioning))
    clock, codes = [0.0], []

    def scored(images, samples, **options):
        clock[0] += len(images) * (samples if conditioning == "latent" else 1)
        codes.append((len(images), samples))

    monkeypatch.setattr(model, "sampled_bounds", scored)
    monkeypatch.setattr("vlae_fast.evaluate.time.monotonic", lambda: clock[0])
    split = vlae_fast.Dataset.from_tensors(torch.eye(30).view(5, 6, 30)[:, :, :5].round()).train
    expected = 1000 * (4096 if conditioning == "latent" else 1)
    assert vlae_fast.evaluate.expected_seconds(model, split, 1000, 4096) == pytest.approx(expected)


def test_durations():
    assert [cli.common.duration(seconds) for seconds in (3, 89, 90, 5400, 129600)] == [
        "3 seconds",
        "89 seconds",
        "1.5 minutes",
        "1.5 hours",
        "1.5 days",
    ]


@pytest.mark.parametrize(("split", "images"), [("train", 72), ("valid", 9), ("test", 9)])
def test_evaluates_on_any_split(home, split, images):
    words = ("evaluate", "m", "--data", "images.npy", "--samples", 1, "--split", split, "--json", "e.json")
    assert command(*words) == 0
    figures = json.loads((home / "e.json").read_text())
    assert (figures["split"], figures["images"]) == (split, images)


def test_drawn_in_parts_they_are_the_same(home, monkeypatch):
    monkeypatch.setattr(cli.draw, "AT_ONCE", 3)
    assert command("sample", "m", "--num", 7, "--first", 2, "--seed", 4, "--out", "s.npy") == 0
    drawn = torch.from_numpy(np.load("s.npy")).float()
    assert torch.equal(drawn, VLAE.from_pretrained("m").sample(7, seed=4, first=2))


def test_no_color(monkeypatch):
    for no_color in ("", "1"):
        with monkeypatch.context() as patch:
            patch.setenv("TERM", "xterm")
            patch.setenv("NO_COLOR", no_color)
            terminal = Terminal()
            patch.setattr(sys, "stdout", terminal)
            with pytest.raises(SystemExit):
                command("info", "--help")
        assert ("\x1b" in terminal.getvalue()) == (not no_color)
        assert "What runs here" in terminal.getvalue()


# --- from Python ----------------------------------------------------------------------------------------------------


def test_names_at_top_level_come_when_they_are_asked_for():
    code = (
        "import sys, vlae_fast\n"
        "assert not {'matplotlib', 'vlae_fast.data', 'vlae_fast.train', 'vlae_fast.plots'} & set(sys.modules)\n"
        "from vlae_fast import Trainer, Dataset, evaluate, load, plots\n"
        "import vlae_fast.evaluate, vlae_fast.train, vlae_fast.data\n"
        "assert Trainer is vlae_fast.train.Trainer and load is vlae_fast.data.load and plots.curves\n"
        "assert vlae_fast.evaluate.evaluate.__name__ == 'evaluate' and callable(evaluate)\n"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with pytest.raises(AttributeError, match=r"no attribute 'fly'"):
        vlae_fast.fly  # noqa: B018


def test_paths_may_be_texts(home):
    model = VLAE.from_pretrained("m")
    dataset = vlae_fast.load("images.npy", data_dir=str(home))
    one = vlae_fast.evaluate(model, dataset.test, samples=2, folder="m")
    assert one == vlae_fast.evaluate.evaluate(model, dataset.test, samples=2)
    assert len(list((home / "m").glob("evaluation-*"))) == 1
    plots.image_grid(model.sample(2), 2, "new/s.png")
    plots.pairs(model.sample(2), model.sample(2), "new/p.png")
    rows = [{"epoch": 1, **{f"{s}_{w}_nats": 1.0 for s in ("train", "valid") for w in ("kl", "negative_elbo")}}]
    plots.curves(rows, "new/c.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (home / "new").iterdir())
    trainer = vlae_fast.Trainer(TINY, vlae_fast.TrainConfig(batch_size=32), dataset, "run", quiet=True)
    assert trainer.run(epochs=0.1)
