"""How much the number of importance samples matters: `python results/samples.py static-mnist`.

The same codes of each image in groups of fewer, so that the differences are paired. The figures go to
results/samples/NAME.json, from which `results/make.py` makes RESULTS.md.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from vlae_fast import VLAE, checkpoint, pretrained
from vlae_fast.data import load
from vlae_fast.evaluate import Mean
from vlae_fast.portable import log_mean_exp

HERE = Path(__file__).parent
GROUPS = (16, 64, 256, 1024, 4096)
"""Importance samples of an image that are taken together."""
IMAGES = 100
"""Test images, evenly apart."""
SEED = 0


def main() -> None:
    """Writes the file and says what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="shipped weights, on the test images of their data set")
    options = parser.parse_args()
    config = checkpoint.read_json(pretrained.folder_of(options.name) / "config.json")
    split = load(config["training"]["data"]).test
    images = split.fixed()[:: len(split) // IMAGES][:IMAGES]
    reconstruction, kl = VLAE.from_pretrained(options.name).sampled_bounds(images, GROUPS[-1], seed=SEED)
    weights = reconstruction - kl
    nll = {samples: -log_mean_exp(weights.view(len(images), -1, samples)).mean(1) for samples in GROUPS}
    more = {samples: Mean.of(nll[samples] - nll[GROUPS[-1]]) for samples in GROUPS}
    content = {
        "images": len(images),
        "nll_nats": {str(samples): nll[samples].mean().item() for samples in GROUPS},
        "more_nats": {str(samples): asdict(mean) for samples, mean in more.items()},
    }
    target = HERE / "samples" / f"{options.name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    for samples in GROUPS:
        print(f"{samples} samples: {nll[samples].mean():.3f} nats, {more[samples]} more than with {GROUPS[-1]}")


if __name__ == "__main__":
    main()
