"""Puts a run's weights into the package in half precision: `python results/ship.py runs/a static-mnist`.

The run folder must hold test.json (`vlae-fast evaluate RUN --json RUN/test.json`); its figures go into the weights'
metadata. Says what half precision costs on a thousand test images, and refuses where that is 0.02 nats or more.
"""

import argparse
import json
from pathlib import Path

from make import command, mean

from vlae_fast import VLAE, checkpoint, pretrained
from vlae_fast.data import load
from vlae_fast.evaluate import evaluate

MOST_NATS = 0.02


def main() -> None:
    """Writes vlae_fast/weights/<name>/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("name", help="name of the shipped weights")
    parser.add_argument("--samples", type=int, default=16, help="importance samples of the comparison")
    options = parser.parse_args()
    config = checkpoint.read_json(options.run / "config.json")
    test = checkpoint.read_json(options.run / "test.json")
    rows = (options.run / "metrics.jsonl").read_text().splitlines()
    run = {"config": config, "test": test, "last_validation": json.loads(rows[-1])}
    metadata = {
        "data": test["data"],
        "test_nll_nats": mean(test["nll_nats"], 3),
        "test_kl_nats": mean(test["kl_nats"], 3),
        "importance_samples": str(test["samples"]),
        "test_images": str(test["images"]),
        "command": command(options.run.name, run),
    }
    model = VLAE.from_pretrained(options.run)
    folder = Path(pretrained.__file__).parent / "weights" / options.name
    checkpoint.write_tensors(
        folder / "model.safetensors", {name: t.half() for name, t in model.state_dict().items()}, metadata
    )
    checkpoint.write_json(folder / "config.json", config)

    split = load(config["training"]["data"]).test
    full, half = (
        evaluate(m, split, samples=options.samples, subset=1000) for m in (model, VLAE.from_pretrained(folder))
    )
    cost = half.minus(full)
    print(
        f"{folder}: {(folder / 'model.safetensors').stat().st_size / 2**20:.1f} MiB; half precision costs {cost} nats"
    )
    if cost.mean >= MOST_NATS:
        raise SystemExit(f"{MOST_NATS} nats at most wanted")


if __name__ == "__main__":
    main()
