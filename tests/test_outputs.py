"""What a command writes: never over a device or a file of a run, never a half of two models, modes kept."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlae_fast import VLAE, VLAEConfig, checkpoint, cli, pretrained
from vlae_fast.checkpoint import CheckpointError, write_file

TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run made from images."""
    home = tmp_path_factory.mktemp("home")
    np.save(home / "images.npy", (np.random.default_rng(0).random((30, 6, 5)) < 0.3).astype(np.uint8))
    assert cli.main(train(home)) == 0
    return home


@pytest.fixture
def home(made, tmp_path):
    return shutil.copytree(made, tmp_path / "home")


def train(home):
    images, run = str(home / "images.npy"), str(home / "run")
    return ["train", "--data", images, "--out", run, "--preset", "tiny", "--batch-size", "16", "--epochs", "1"]


def commands(home, out):
    """Every command that writes to a file that the user names, with the suffixes that it takes."""
    run, data = str(home / "run"), str(home / "images.npy")
    return {
        "sample": (["sample", run, "--num", "2", "--out", str(out)], (".png", ".npy", ".npz")),
        "reconstruct": (["reconstruct", run, "--data", data, "--num", "2", "--out", str(out)], (".png",)),
        "evaluate": (["evaluate", run, "--data", data, "--samples", "1", "--json", str(out)], (".json",)),
    }


VERBS = list(commands(checkpoint.Path(), ""))


def read_pipe(path):
    """A reader that is there before the writer comes."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


def test_a_pipe_is_written_through(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = read_pipe(tmp_path / "pipe")
    write_file(tmp_path / "pipe", b"all of it")
    assert os.read(reader, 99) == b"all of it"
    os.close(reader)
    with pytest.raises(CheckpointError, match=r"pipe: cannot be written \(No such device or address\)"):
        write_file(tmp_path / "pipe", b"nobody reads")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="of Linux")
def test_a_descriptor_of_its_own_is_written_on_where_it_stands(made, tmp_path):
    """Opened again, the file behind /dev/stdout would be written from its start."""
    with (tmp_path / "file").open("wb", buffering=0) as file:
        for name in (f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}"):
            file.write(b"a")
            write_file(name, b"bc", b"d")
    assert (tmp_path / "file").read_bytes() == b"abcdabcd"
    evaluate = ["evaluate", "run", "--samples", "1", "--json", "/dev/stdout", "--quiet"]
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-m", "vlae_fast", *evaluate], stdout=file, cwd=made, check=True)
    figures, end = json.JSONDecoder().raw_decode((tmp_path / "out").read_text())
    assert figures["images"] == 3
    assert (tmp_path / "out").read_text()[end:].startswith("\ndata ")


def test_the_longest_names_are_written(tmp_path):
    for name in ("x" * 255, "\u00e4" * 127):
        write_file(tmp_path / name, b"x")
        assert (tmp_path / name).read_bytes() == b"x"
    assert len(os.listdir(tmp_path)) == 2


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(CheckpointError, match=r"socket: cannot be written"):
            write_file("socket", b"x")
        assert stat.S_ISSOCK(os.stat("socket").st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
def test_a_device_stays_one(tmp_path, kind):
    path = tmp_path / "device"
    try:
        os.mknod(path, kind | 0o666, os.makedev(1, 3) if kind == stat.S_IFCHR else os.makedev(7, 255))
        write_file(path, b"x")
    except PermissionError:
        pytest.skip("devices are forbidden here")
    except CheckpointError as error:  # a file system without devices, too
        assert kind == stat.S_IFBLK or "Permission denied" in str(error)
    assert stat.S_IFMT(path.stat().st_mode) == kind


def test_a_link_of_the_system_is_written_through(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        log.write(b"before ")
        log.flush()
        write_file(f"/proc/self/fd/{log.fileno()}", b"after")
    assert (tmp_path / "log").read_bytes() == b"before after"


@pytest.mark.parametrize("verb", VERBS)
def test_no_command_replaces_a_pipe(verb, home, capsys):
    pipe = home / "pipe.png"
    os.mkfifo(pipe)
    reader = read_pipe(pipe)
    assert cli.main(commands(home, pipe)[verb][0]) == 0, capsys.readouterr().err
    assert len(os.read(reader, 1 << 16)) > 60
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("verb", VERBS)
def test_files_of_a_run_and_other_suffixes_are_refused_before_the_work(verb, home, capsys, monkeypatch):
    monkeypatch.setattr(VLAE, "from_pretrained", lambda folder: pytest.fail("the work began"))
    (home / "run" / "data.png").write_bytes(b"")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    own = sorted(path.name for path in (home / "run").iterdir())
    assert {"config.json", "model.safetensors", "state.safetensors", "metrics.jsonl", "samples.png"} < set(own)
    for name in (*own, "x.jpg", "x", "x.safetensors"):
        command, suffixes = commands(home, home / "run" / name)[verb]
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        wanted = "a file of the run" if name.endswith(suffixes) else f"{suffixes[-1]} wanted"
        assert wanted in said, said
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_own_names_are_free_elsewhere_and_other_names_in_a_run(home):
    command, _ = commands(home, home / "samples.png")["sample"]
    assert cli.main(command) == 0
    command, _ = commands(home, home / "run" / "test.json")["evaluate"]
    assert cli.main(command) == cli.main(command) == 0


def test_a_tilde_after_an_equals_sign_is_the_home(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))
    assert cli.main(["sample", str(home / "run"), "--num", "2", "--out=~/s.npy"]) == 0
    assert (home / "s.npy").exists()


def test_mode_and_owner_are_kept(tmp_path):
    path = tmp_path / "secret.json"
    path.write_text("{}")
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 1234, 1234)
    before = path.stat()
    write_file(path, b"[]")
    after = path.stat()
    assert path.read_bytes() == b"[]"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_the_folder_is_flushed_after_the_renaming(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        flushed.append((os.readlink(f"/proc/self/fd/{descriptor}") if folder else "file", os.listdir(tmp_path / "new")))

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(tmp_path / "new" / "e.json", b"1")
    assert [name for name, _ in flushed] == [str(tmp_path), "file", str(tmp_path / "new")]
    assert flushed[-1][1] == ["e.json"]


def test_equal_tensors_make_equal_files(tmp_path):
    """Bytes of weights are compared after a resumption; safetensors writes metadata in any order."""
    tensors = {"b": torch.rand(3), "a": torch.rand(2, 2).half(), "n": torch.tensor(7)}
    metadata = {"z": "1 \u00b1 2", "a": '"', "m": "x" * 9}
    files = []
    for i in range(12):
        checkpoint.write_tensors(tmp_path / f"{i}.safetensors", tensors, metadata)
        files.append((tmp_path / f"{i}.safetensors").read_bytes())
    assert len(set(files)) == 1
    read, found = checkpoint.read_tensors(tmp_path / "0.safetensors", tensors)
    assert found == metadata
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.items())


# --- saved models ---------------------------------------------------------------------------------------------------


def test_a_model_is_not_saved_over_a_run(home, capsys):
    run = home / "run"
    shutil.rmtree(run)
    assert cli.main(train(home)) == 0
    model = VLAE.from_pretrained(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(CheckpointError, match=r"run: holds a training, which would be lost"):
        model.save_pretrained(str(run))
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert cli.main([*train(home)[:-1], "2"]) == 0
    assert "resumed at step 2" in capsys.readouterr().out


@pytest.mark.parametrize("content", ['{"name": "a project"}', "[]", '"model"', "no JSON"])
def test_a_model_is_not_saved_over_the_config_of_something_else(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json: (of something else, which would be lost|.*JSON)"):
        VLAE(TINY).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


def killed_between(monkeypatch, model, folder):
    """Saves, but dies after the first file."""
    write, written = checkpoint.write_file, []

    def write_one(path, *content):
        if written:
            raise KeyboardInterrupt
        written.append(write(path, *content))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_file", write_one)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(folder)


def test_a_saving_cut_short_never_mixes_two_models(tmp_path, monkeypatch):
    one, other = VLAE(TINY), VLAE(replace(TINY, wiring=replace(TINY.wiring, residual_scale=0.5)))
    one.save_pretrained(tmp_path)
    killed_between(monkeypatch, other, tmp_path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: written beside another config.json"):
        VLAE.from_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    loaded = VLAE.from_pretrained(tmp_path)
    assert loaded.config == other.config
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_folder_of_an_older_version_loads(tmp_path, monkeypatch):
    model = VLAE(TINY)
    model.save_pretrained(tmp_path)
    checkpoint.write_tensors(tmp_path / "model.safetensors", model.state_dict())  # bound to nothing
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["flow_scale"]  # a field that came later
    checkpoint.write_json(tmp_path / "config.json", config)
    assert VLAE.from_pretrained(tmp_path).config == TINY
    killed_between(monkeypatch, VLAE(replace(TINY, wiring=replace(TINY.wiring, residual_scale=0.5))), tmp_path)
    with pytest.raises(CheckpointError, match=r"written beside another config.json"):
        VLAE.from_pretrained(tmp_path)


def test_a_run_without_weights_says_why(home):
    (home / "run" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: not there yet; a training writes it at its first"):
        VLAE.from_pretrained(home / "run")
    VLAE(TINY).save_pretrained(home / "m")
    (home / "m" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: No such file"):
        VLAE.from_pretrained(home / "m")


def test_every_shipped_model_still_loads():
    heights = {name: VLAE.from_pretrained(name).config.height for name in pretrained.shipped()}
    assert heights == dict.fromkeys(("caltech101", "dynamic-mnist", "static-mnist"), 28)


def test_what_the_disk_does_not_give_back_is_not_taken(tmp_path, monkeypatch):
    """Every file is read back before it takes its place."""
    tensors = {"w": torch.arange(6.0).view(2, 3), "empty": torch.zeros(0, 4), "done": torch.tensor(3)}
    checkpoint.write_tensors(tmp_path / "w.safetensors", tensors)
    assert all(torch.equal(load_file(tmp_path / "w.safetensors")[name], t) for name, t in tensors.items())
    before = (tmp_path / "w.safetensors").read_bytes()
    fsync = os.fsync

    def lose(descriptor):
        os.pwrite(descriptor, b"?", 20)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lose)
        with pytest.raises(CheckpointError, match=r"w.safetensors: cannot be written \(Input/output error\)"):
            checkpoint.write_tensors(tmp_path / "w.safetensors", tensors)
    assert (tmp_path / "w.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
