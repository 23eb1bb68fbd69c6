"""All that the model does, in under a minute: trains, samples, inpaints, reconstructs, scores and plots.

Takes the MNIST files of $VLAE_DATA or ./data; where there are none, the 8x8 digits that scikit-learn carries stand in.
`python examples/tour.py --out runs/tour`; its pictures lie there.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from vlae_fast import VLAE, TrainConfig, VLAEConfig, plots
from vlae_fast.data import MissingDataError, load
from vlae_fast.train import Trainer


def find_data():
    """The first data set whose files are here, and its name; without any, scikit-learn's digits."""
    for name in ("static-mnist", "dynamic-mnist"):
        try:
            return name, load(name)
        except MissingDataError:
            continue
    return "digits", load("digits")


def main():
    """Makes the run folder and says what it does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.25, help="minutes of training")
    parser.add_argument("--out", type=Path, default=Path("runs/tour"), help="run folder")
    options = parser.parse_args()
    out = options.out

    # Train. The run folder keeps the whole state: the same lines go on with a run that was cut short.
    name, dataset = find_data()
    split = dataset.train
    config = replace(VLAEConfig.preset("paper"), height=split.height, width=split.width)
    training = TrainConfig(data=name, polyak=0.95, validation_images=200)
    if not Trainer(config, training, dataset, out).run(minutes=options.minutes):
        raise SystemExit(130)
    model = VLAE.from_pretrained(out)

    # Sample: image i depends on (seed, i) alone.
    plots.image_grid(model.sample(64, seed=1), 8, out / "tour_samples.png")
    plots.image_grid(model.sample(64, seed=1, temperature=0.7), 8, out / "tour_samples_cooler.png")

    # Inpaint: 0 and 1 are kept, -1 is drawn.
    images = dataset.test.fixed()[:: max(1, len(dataset.test) // 24)][:24]
    given = images[:, 0].to(torch.int8)
    given[:, split.height // 2 :] = -1
    inpainted = model.inpaint(given, seed=1, rounds=20)
    assert torch.equal(inpainted[:, :, : split.height // 2], images[:, :, : split.height // 2])
    plots.pairs(images, inpainted, out / "tour_inpainted.png")

    # Reconstruct: the code keeps what the window of the PixelCNN does not see.
    plots.pairs(images, model.reconstruct(images, seed=1), out / "tour_reconstructed.png")

    # Walk from the code of one image to that of another; seed and number are the same, so the noise is too.
    here, there = model.encode(images[:2]).sample()
    codes = [torch.lerp(here, there, float(t)) for t in torch.linspace(0, 1, 8)]
    plots.image_grid(torch.cat([model.decode(z[None], seed=1) for z in codes]), 8, out / "tour_walk.png")
    print(f"log p(z) of the first code: {model.prior.log_prob(here).item():.1f} nats")

    # Score, in nats an image.
    torch.manual_seed(0)
    with torch.no_grad():
        bound = model.elbo(images)
    log_likelihood = model.log_likelihood(images, samples=64)
    print(f"{dataset.name}: {len(images)} test images")
    print(f"bound, one sample      {bound.elbo.mean():.2f} nats (KL {bound.kl.mean():.2f} nats)")
    print(f"log-likelihood, 64     {log_likelihood.mean():.2f} nats")
    for picture in sorted(out.glob("*.png")):
        print(picture.resolve())


if __name__ == "__main__":
    main()
