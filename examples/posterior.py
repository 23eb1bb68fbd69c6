"""A small posterior, learned with sbi, drawn from with and without `vlae_fast.accelerate`: the same samples, sooner.

`pip install sbi matplotlib`, then `python examples/posterior.py --out runs/posterior`. What is seen tells the second
variable from the square of the first, a banana, and eight more variables that noise hides a little.
"""

import argparse
import time
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from sbi.inference import NPE

import vlae_fast

D = 10


def simulate(theta):
    """Observations [N, D - 1] of variables [N, D]."""
    banana = theta[:, 1:2] - theta[:, :1].square()
    seen = torch.cat([banana, theta[:, 2:]], 1)
    return seen + 0.3 * torch.randn_like(seen)


def drawn(posterior, observation):
    """Samples under one seed, and the seconds that they took."""
    torch.manual_seed(1)
    start = time.perf_counter()
    samples = posterior.sample((10_000,), x=observation, show_progress_bars=False)
    return samples, time.perf_counter() - start


def main():
    """Trains, draws twice, plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/posterior"), help="folder of the picture")
    parser.add_argument("--epochs", type=int, default=30, help="most epochs of training")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    prior = torch.distributions.MultivariateNormal(torch.zeros(D), torch.eye(D))
    theta = prior.sample((4000,))
    inference = NPE(prior=prior, show_progress_bars=False)
    inference.append_simulations(theta, simulate(theta)).train(max_num_epochs=options.epochs)
    posterior, observation = inference.build_posterior(), torch.zeros(1, D - 1)

    plain, plain_seconds = drawn(posterior, observation)
    vlae_fast.accelerate(posterior)
    print(*vlae_fast.accelerate.report(posterior), sep="\n")
    fast, seconds = drawn(posterior, observation)
    print(f"10,000 samples: {plain_seconds:.2f} s, accelerated {seconds:.3f} s")
    print(f"largest difference {(fast - plain).abs().max():.2g}")

    options.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
    for axis, samples, title in zip(axes, (plain, fast), ("sbi", "sbi, accelerated"), strict=True):
        axis.scatter(samples[:, 0], samples[:, 1], s=1, alpha=0.3)
        axis.set(title=title, xlabel="first variable", ylabel="second variable")
    figure.savefig(options.out / "posterior.png", dpi=120)
    print(options.out / "posterior.png")


if __name__ == "__main__":
    main()
