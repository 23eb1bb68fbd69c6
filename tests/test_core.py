"""What works with torch, numpy and safetensors alone, without the packages of the extra `cli`."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

import vlae_fast

CODE = """
import runpy, sys
for name in ("matplotlib", "PIL", "tqdm", "tyro"):
    sys.modules[name] = None  # cannot be imported

import torch
from vlae_fast import VLAE, VLAEConfig, ops
from vlae_fast.data import load
from vlae_fast.evaluate import evaluate

ops.weight_norm(torch.ones(2, 3), torch.ones(2), torch.tensor([3, 2]))
VLAE(VLAEConfig.preset("tiny")).save_pretrained("saved")
model = VLAE.from_pretrained("saved")
model.elbo(model.sample(2)).elbo.sum().backward()
print(evaluate(model, load("images.npy").test, samples=2))
for what in ("import vlae_fast.plots", "import vlae_fast.train", "load('pngs')"):
    try:
        exec(what)
    except ModuleNotFoundError as error:
        print(f"{what}: {error}")
for argument in ("--version", "info"):
    sys.argv = ["vlae-fast", argument]
    try:
        runpy.run_module("vlae_fast", run_name="__main__")
    except SystemExit as end:
        status = end.code
sys.exit(status)
"""


def test_the_core_needs_no_extra_and_the_rest_names_it(tmp_path: Path) -> None:
    images = (np.random.default_rng(0).random((30, 28, 28)) < 0.2).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    (tmp_path / "pngs").mkdir()
    for i in range(3):
        Image.fromarray(images[i] * 255).save(tmp_path / f"pngs/{i}.png")
    result = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True)
    assert "images                  3 " in result.stdout, result.stderr
    mend = r"\w+(\.\w+)? is not installed: install vlae_fast with its extra cli \(pip install '\.\[cli\]'\)\n"
    for what in ("import vlae_fast.plots", "import vlae_fast.train", "load('pngs')"):
        assert re.search(f"^{re.escape(what)}: {mend}", result.stdout, re.MULTILINE), result.stdout
    assert f"\nvlae-fast {version('vlae_fast')}\n" in result.stdout
    assert re.fullmatch(f"vlae-fast: {mend}", result.stderr)
    assert result.returncode == 1


MODULES = """
import vlae_fast
assert {"accelerate", "data", "distributed", "latent", "Trainer", "ops"} <= {*dir(vlae_fast)}
print(vlae_fast.distributed.ALONE.size, vlae_fast.latent.__name__, vlae_fast.data.load.__name__)
"""


def test_modules_are_imported_as_they_are_named() -> None:
    result = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True)
    assert result.stdout == "1 vlae_fast.latent load\n", result.stderr


def test_an_unbuilt_checkout_says_so(tmp_path: Path) -> None:
    package = Path(vlae_fast.__file__).parent
    shutil.copytree(package, tmp_path / "vlae_fast", ignore=shutil.ignore_patterns("*.so", "weights"))
    code = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; import vlae_fast"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "ImportError: vlae_fast: its compiled part cannot be loaded; in an unbuilt checkout" in result.stderr
