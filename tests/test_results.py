"""The table beside the paper's figures holds those of the published data alone."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(RESULTS)
    spec = importlib.util.spec_from_file_location("make", RESULTS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HERE = tmp_path
    return module


def run_folder(folder: Path, data: str, tested: str) -> Path:
    """A run folder like that of a committed result, of these data."""
    run = json.loads(next((RESULTS / "runs").glob("*.json")).read_text())
    row = run["last_validation"] | {"train_negative_elbo_nats": 1.0}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(run["config"] | {"data": data}))
    (folder / "test.json").write_text(json.dumps(run["test"] | {"data": tested}))
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    for picture in ("curves.png", "samples.png", "reconstructions.png"):
        (folder / picture).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("data", "tested"),
    [
        ("static-mnist (not the published files)", "static-mnist (not the published files)"),
        ("static-mnist", "caltech101 (not the published files)"),
        ("omniglot (not the published files)", "omniglot"),
        ("digits (scikit-learn's, a stand-in)", "static-mnist"),
        ("mine.npy", "mine.npy"),
    ],
)
def test_other_data_never_stand_beside_the_papers(make, tmp_path, data, tested):
    with pytest.raises(SystemExit, match="run: .*: not the published data of static-mnist, .* the paper's"):
        make.collect(run_folder(tmp_path / "run", data, tested))
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs").mkdir()
    content = {"config": {"data": data}, "test": {"data": tested}}
    (tmp_path / "runs" / "copied.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="copied: "):
        make.collected("copied")


def test_the_stand_in_stands_apart(make, tmp_path):
    make.collect(run_folder(tmp_path / "run", make.STAND_IN, make.STAND_IN))
    assert [path.name for path in (tmp_path / "stand-ins").iterdir()] == ["run.json"]
    assert not (tmp_path / "runs").exists()


def test_published_data_do(make, tmp_path):
    shutil.copytree(RESULTS / "runs", tmp_path / "runs")
    make.collect(run_folder(tmp_path / "run", "caltech101", "caltech101"))
    runs = {path.stem: make.collected(path.stem) for path in (tmp_path / "runs").glob("*.json")}
    assert "run" in runs
    assert make.report({name: run for name, run in runs.items() if name != "run"}).startswith("# Results")
