"""torchrun against one process: the same weights with any number of processes, also where one is killed; the same
figures and images bit for bit.

Run as a script: python tests/processes.py --processes 2 3 4 --steps 200 --kills 10 --images 1000.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vlae_fast import VLAE, checkpoint

TRAINING_IMAGES = 258
"""Batches of 32 of them leave two for the last one: one of three processes has none."""
MOST = 1e-5
"""Largest difference of a weight, relative to the largest of its tensor."""


def command(processes: int, *words: object, restarts: int = 0) -> list[str]:
    """`vlae-fast` in so many processes."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    launcher = [*torchrun, "-m", "--"] if processes > 1 else []  # without --, `--num` would be torchrun's
    return [sys.executable, "-P", "-m", *launcher, "vlae_fast", *map(str, words)]


def run(processes: int, *words: object) -> float:
    """Seconds that a command takes; ends the script where it fails."""
    start = time.monotonic()
    done = subprocess.run(command(processes, *words), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{processes} processes: {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return time.monotonic() - start


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What the model of a state computes with.

    Of a direction of one entry the sign is all that counts: its gradient is 0 up to rounding, and Adamax makes steps of
    that.
    """
    model = VLAE.from_pretrained(run)
    state = load_file(run / "state.safetensors")
    model.load_state_dict({name[6:]: t for name, t in state.items() if name.startswith("model.")})
    assert model.prior_flow is not None
    assert model.pixelcnn is not None
    plain = {f"flow.{name}": t for name, t in model.prior_flow.params()._asdict().items()}
    plain |= {f"pixelcnn.{name}": t for name, t in model.pixelcnn.params()._asdict().items()}
    return plain | {name: t for name, t in model.state_dict().items() if not name.endswith("_v")}


def difference(run: Path, expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight, relative to the largest of its tensor."""
    found = weights(run)
    return max(
        ((found[name] - t).abs().max() / t.abs().max().clamp_min(1e-3)).item()
        for name, t in expected.items()
        if t.is_floating_point()
    )


def state(run: Path) -> str:
    """Names the bits of a state."""
    return checkpoint.digest(load_file(run / "state.safetensors"))


def workers(torchrun: int) -> list[int]:
    """Process ids of what torchrun has started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()]
    except OSError:
        return []


def killed(out: Path, words: list[object], seconds: float, chance: random.Random) -> str:
    """Trains in three processes, kills one of them at a random instant of the training; returns what was said of it."""
    with subprocess.Popen(
        command(3, *words, "--out", out, restarts=3), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (out / "state.safetensors").exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, seconds))
        alive = workers(process.pid)
        if alive:
            os.kill(chance.choice(alive), signal.SIGKILL)
        output, errors = process.communicate(timeout=600)
    if process.returncode or not alive:
        raise SystemExit(f"{out}: status {process.returncode}, workers {alive}\n{output}{errors}")
    said = [line for line in (output + errors).splitlines() if "has lost" in line or "resumed at" in line]
    return "; ".join(said)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="*", default=[2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grey = np.random.default_rng(0).integers(0, 256, (TRAINING_IMAGES, 9, 8), dtype=np.uint8)
        test = np.random.default_rng(1).integers(0, 256, (max(10, options.images), 9, 8), dtype=np.uint8)
        np.savez(folder / "images.npz", x_train=grey, x_valid=grey[:20], x_test=test)
        epochs = options.steps / -(-TRAINING_IMAGES // 32)
        words: list[object] = ["train", "--data", folder / "images.npz", "--preset", "tiny", "--epochs", epochs]
        words += ["--validation-epochs", 10, "--checkpoint-minutes", 0.002]
        alone = folder / "alone"
        run(1, *words, "--out", alone)
        expected = weights(alone)
        seconds = 0.0
        for processes in options.processes:
            out = folder / f"of{processes}"
            seconds = run(processes, *words, "--out", out)
            print(
                f"{processes} processes, {options.steps} steps: differs by {difference(out, expected):.2g}", flush=True
            )
            if difference(out, expected) > MOST:
                return 1
        for number in range(options.kills):
            out = folder / f"killed{number}"
            said = killed(out, words, seconds / 4, chance)
            if 3 in options.processes and state(out) != state(folder / "of3"):
                said += "; not the bits of the run without a kill"
            print(f"kill {number}: differs by {difference(out, expected):.2g} ({said})", flush=True)
            if difference(out, expected) > MOST:
                return 1
        for processes in options.processes:
            copy = folder / f"copy{processes}"
            shutil.copytree(alone, copy)
            for count, model in ((1, alone), (processes, copy)):
                run(count, "evaluate", model, "--samples", 8, "--json", model / "e.json")
                run(count, "sample", model, "--num", options.images, "--out", model / "s.npy")
            for file in (*(path.name for path in alone.glob("evaluation-*")), "s.npy"):
                if (alone / file).read_bytes() != (copy / file).read_bytes():
                    print(f"{processes} processes: {file} differs")
                    return 1
            print(f"{processes} processes: {options.images} images evaluated and drawn, the same bits", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
