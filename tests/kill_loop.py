"""Kills a training with SIGKILL at random instants and resumes it; in the end nothing may differ from a run left alone.

Run as a script: python tests/kill_loop.py --kills 20. Children are forked, so that kills fall into the training and not
into the import of torch.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vlae_fast import TrainConfig, VLAEConfig, checkpoint
from vlae_fast.data import Dataset, Split
from vlae_fast.train import Trainer

MODEL = replace(VLAEConfig.preset("tiny"), height=9, width=8)
CONFIG = TrainConfig(
    data="noise", batch_size=16, free_bits="soft", validation_images=20, validation_epochs=4, checkpoint_minutes=1e-9
)  # a state is written at every step
EPOCHS = 24


def dataset() -> Dataset:
    """Random grey images: every step draws its binary images anew."""
    pixels = np.random.default_rng(0).integers(0, 256, (160, 72), dtype=np.uint8)
    train, valid, test = (Split(part, 9, 8, True) for part in (pixels[:120], pixels[120:140], pixels[140:]))
    return Dataset("noise", train, valid, test)


def train(out: Path) -> int:
    """Trains in a child, with nothing on the screen; returns its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            null, error_output = os.open(os.devnull, os.O_WRONLY), os.dup(2)
            os.dup2(null, 1)
            os.dup2(null, 2)
            finished = Trainer(MODEL, CONFIG, dataset(), out).run(epochs=EPOCHS)
            status = 0 if finished else 3
        except Exception as error:
            os.write(error_output, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return child


def fingerprint(out: Path) -> dict[str, object]:
    """Hashes of all that a training leaves, the time it took excepted."""
    with safe_open(out / "state.safetensors", framework="pt") as file:
        state = checkpoint.digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        progress = json.loads(file.metadata()["progress"])
    progress.pop("seconds")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": checkpoint.digest(load_file(out / "model.safetensors")),
        "state": state,
        "progress": progress,
        "metrics": [{k: v for k, v in row.items() if k != "seconds"} for row in rows],
        "files": sorted(path.name for path in out.iterdir()),
    }


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # no threads before the forks
    instants = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        _, status = os.waitpid(train(folder / "alone"), 0)
        alone_seconds = time.monotonic() - start
        if status:
            return 1
        expected = fingerprint(folder / "alone")
        kills = runs = half_written = 0
        while kills < options.kills or runs == 0:
            out = folder / f"killed{runs}"
            child = train(out)
            if kills < options.kills:
                time.sleep(instants.uniform(0, alone_seconds / 10))
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                half_written += out.exists() and any("new" in path.name for path in out.iterdir())
                continue
            if status or fingerprint(out) != expected:
                print(f"after {kills} kills: status {status}, {fingerprint(out)}, {expected} wanted")
                return 1
            runs += 1
    print(
        f"{kills} kills (in {half_written} a file was being written), {runs} resumed runs end as the one left alone: "
        f"{expected['state']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
