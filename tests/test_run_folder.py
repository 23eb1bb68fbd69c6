"""Two trainers on one folder, folders of older versions, folders that are no runs."""

import json
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from vlae_fast import VLAE, TrainConfig, VLAEConfig
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.data import load
from vlae_fast.train import Trainer, UnsavedError

TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, (np.random.default_rng(0).random((60, 6, 5)) < 0.3).astype(np.uint8))
    return path


def trainer(images, out, model=TINY, **changes):
    config = TrainConfig(data=str(images), batch_size=16, validation_images=6, **changes)
    return Trainer(model, config, load(str(images)), out)


def steps(out):
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def child(action):
    """The exit status of a process that does this: 7 where it raises CheckpointError."""
    process = os.fork()
    if process == 0:
        status = 0
        try:
            action()
        except CheckpointError:
            status = 7
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_another_process_is_kept_out_from_before_the_state_is_loaded(images, tmp_path):
    first = trainer(images, tmp_path / "run")
    assert child(lambda: trainer(images, tmp_path / "run")) == 7, "while it only stands there"
    first.run(epochs=1)
    assert child(lambda: trainer(images, tmp_path / "run")) == 7, "between two runs"
    first.run(epochs=2)
    del first
    assert child(lambda: trainer(images, tmp_path / "run").run(epochs=3)) == 0
    assert steps(tmp_path / "run") == [3, 6, 9]


def test_a_trainer_that_fell_behind_goes_no_further(images, tmp_path):
    out = tmp_path / "run"
    first, second = trainer(images, out), trainer(images, out)
    first.run(epochs=2)
    newest = (out / "state.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"another trainer has gone on with this run; resume it anew"):
        second.run(epochs=1)
    second.progress.step += 1
    with pytest.raises(CheckpointError, match=r"another trainer has gone on"):
        second.save()
    assert (out / "state.safetensors").read_bytes() == newest
    assert steps(out) == [6]
    third = trainer(images, out)
    assert third.progress.step == 6
    first.run(epochs=3)  # who has the newest state may go on
    assert steps(out) == [6, 9]


def test_nothing_is_written_where_the_folder_was(images, tmp_path, capsys):
    """Moved while it trains, or removed, or another in its place: that is said, and what was saved stays whole."""
    out, moved = tmp_path / "run", tmp_path / "moved"
    one = trainer(images, out)
    one.run(epochs=1)
    out.rename(moved)
    before = sorted(os.listdir(moved))
    with pytest.raises(UnsavedError, match=r"run: not the folder any more .*; the state of step 3 was saved before"):
        one.run(epochs=2)
    assert "tries again" in capsys.readouterr().out
    assert not out.exists()
    assert sorted(os.listdir(moved)) == before
    out.mkdir()
    with pytest.raises(CheckpointError, match="not the folder any more"):
        one.save()
    assert os.listdir(out) == []
    out.rmdir()
    moved.rename(out)
    one.run(epochs=3)
    assert steps(out)[-1] == 9


def test_another_thread_is_kept_out_while_one_trains(images, tmp_path):
    out = tmp_path / "run"
    first = trainer(images, out)
    found = []

    def meanwhile():
        try:
            trainer(images, out)
        except CheckpointError as error:
            found.append(str(error))

    with first.folder.locked():
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()
    assert found == [f"{out}: another training runs in this folder"]


def edit(out, part, change):
    config = json.loads((out / "config.json").read_text())
    change(config[part])
    (out / "config.json").write_text(json.dumps(config))


def test_a_run_of_an_older_version_is_resumed(images, tmp_path):
    out = tmp_path / "run"
    trainer(images, out).run(epochs=1)
    edit(out, "model", lambda fields: (fields.pop("flow_scale"), fields["wiring"].pop("visible_stride")))
    edit(out, "training", lambda fields: fields.pop("train_on"))
    assert trainer(images, out).progress.step == 3
    with pytest.raises(CheckpointError, match=r"config.model.flow_scale: False there, True here"):
        trainer(images, out, replace(TINY, flow_scale=True))
    edit(out, "training", lambda fields: fields.update(new_field=1))
    with pytest.raises(CheckpointError, match=r"config.training.new_field: 1 there, None here"):
        trainer(images, out)


def test_a_state_needs_its_starting_point_no_more(images, tmp_path):
    first, out = tmp_path / "first", tmp_path / "run"
    trainer(images, first).run(epochs=1)
    trainer(images, out, start_from=str(first)).run(epochs=1)
    shutil.rmtree(first)
    resumed = trainer(images, out, start_from=str(first))
    assert resumed.progress.step == 3
    assert resumed.run(epochs=2)


@pytest.mark.parametrize("name", ["model.safetensors", "samples.png", "metrics.jsonl", "state.safetensors"])
def test_a_folder_that_is_no_run_is_left_alone(images, tmp_path, name):
    out = tmp_path / "run"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match=rf"{name}.*(choose another folder|cannot|SafetensorError|header)"):
        trainer(images, out)
    assert [path.name for path in out.iterdir()] == [name]
    (out / name).rename(out / "notes.txt")
    assert trainer(images, out).progress.step == 0


def test_weights_are_bound_to_the_config_of_an_older_version(images, tmp_path):
    out = tmp_path / "run"
    trainer(images, out).run(epochs=1)
    edit(out, "model", lambda fields: fields.pop("flow_scale"))
    trainer(images, out, train_on="train").run(epochs=2)
    assert VLAE.from_pretrained(out).config == TINY


def test_a_picture_that_cannot_be_written_keeps_neither_weights_nor_lines(images, tmp_path):
    out = tmp_path / "run"
    trainer(images, out, train_on="train+validation").run(epochs=1)
    weights = (out / "model.safetensors").read_bytes()
    (out / "curves.png").unlink()
    (out / "curves.png").mkdir()
    for _ in range(2):
        with pytest.raises(UnsavedError, match=r"curves.png: cannot .*; the state of step 8 was saved before"):
            trainer(images, out, train_on="train+validation").run(epochs=2)
    assert steps(out) == [4, 8]
    assert (out / "model.safetensors").read_bytes() != weights
