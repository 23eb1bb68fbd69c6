"""Trains for two minutes on real images, then draws: `make demo`, or `python examples/demo.py`.

Takes the MNIST files of $VLAE_DATA or ./data; where there are none, the 8x8 digits that scikit-learn carries stand in.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from vlae_fast import VLAE, TrainConfig, VLAEConfig, plots
from vlae_fast.data import MissingDataError, load
from vlae_fast.train import Trainer


def find_data():
    """The first data set whose files are here, and its name."""
    for name in ("static-mnist", "dynamic-mnist"):
        try:
            return name, load(name)
        except MissingDataError:
            continue
    return "digits", load("digits")


def main():
    """Trains, then writes two pictures and says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="minutes of training")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder")
    options = parser.parse_args()

    name, dataset = find_data()
    split = dataset.train
    print(f"{dataset.name}: {len(split)} training images of {split.height}x{split.width} pixels")
    config = replace(VLAEConfig.preset("paper"), height=split.height, width=split.width)
    trainer = Trainer(config, TrainConfig(data=name), dataset, options.out)
    finished = trainer.run(minutes=options.minutes)
    if not finished:
        raise SystemExit(130)

    model = VLAE.from_pretrained(options.out)
    plots.image_grid(model.sample(100, seed=1), 10, options.out / "samples.png")
    images = dataset.test.fixed()[:: max(1, len(dataset.test) // 48)][:48]
    plots.pairs(images, model.reconstruct(images), options.out / "reconstructions.png")
    print(f"100 new images:                         {(options.out / 'samples.png').resolve()}")
    print(f"test images beside their reconstructions: {(options.out / 'reconstructions.png').resolve()}")


if __name__ == "__main__":
    main()
