"""The mean of several models' likelihoods, a density too: `python results/mixture.py NAME runs/a runs/b`.

Every model is importance sampled with so many samples an image and noise of its own (the seed of its training); the
mean of unbiased estimates is one. What was evaluated in a run folder before is not computed again. The figures go to
results/mixtures/NAME.json, from which `results/make.py` makes RESULTS.md.
"""

import argparse
import json
from pathlib import Path

import torch

from vlae_fast import VLAE, checkpoint
from vlae_fast.data import load
from vlae_fast.evaluate import Mean, evaluate
from vlae_fast.portable import log_mean_exp

HERE = Path(__file__).parent


def main() -> None:
    """Writes the file and says what is in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the mixture")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, trained on the same data")
    parser.add_argument("--samples", type=int, default=1024, help="importance samples of each model")
    options = parser.parse_args()
    configs = [checkpoint.read_json(run / "config.json") for run in options.runs]
    (data,) = {config["training"]["data"] for config in configs}
    split, losses, parameters = load(data).test, [], 0
    for run, config in zip(options.runs, configs, strict=True):
        model, seed = VLAE.from_pretrained(run), config["training"]["seed"]
        found = evaluate(model, split, samples=options.samples, seed=seed, folder=run)
        losses.append(found.image_nll_nats)
        parameters += sum(p.numel() for p in model.parameters())
    mixed = Mean.of(-log_mean_exp(-torch.stack(losses, 1).double()))
    content = {
        "data": data,
        "runs": [run.name for run in options.runs],
        "parameters": parameters,
        "images": len(split),
        "samples": options.samples * len(losses),
        "each_nll_nats": [Mean.of(nll).mean for nll in losses],
        "nll_nats": {"mean": mixed.mean, "standard_error": mixed.standard_error},
    }
    target = HERE / "mixtures" / f"{options.name}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{target}: {mixed} nats")


if __name__ == "__main__":
    main()
