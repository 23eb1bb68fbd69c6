"""What the code keeps, by what the decoder sees (section 3.1 of the paper): `python results/sweep.py runs/sweep`.

Models of dynamic MNIST that differ in the PixelCNN's window, or in which pixels it is shown, or that have none, learn
for equal short budgets; a linear classifier then tells digits by the means of q(z|x). What is in the folder is not
computed again. The figures go to results/sweep.json, from which `results/make.py` makes RESULTS.md.
"""

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vlae_fast import VLAE
from vlae_fast.data import Split, load

HERE = Path(__file__).parent
SAMPLES, IMAGES, EPOCHS = 64, 2000, 4


def window(layers: int, *flags: str) -> list[str]:
    """Flags of a decoder that sees layers + 1 pixels around; its 1x1 blocks stand as evenly as they can."""
    blocks = layers // 2
    after = [str(min(i, blocks - 1)) for i in range(4)]
    pointwise = ["--model.wiring.pointwise-after", *after] if blocks else ["--model.pointwise-blocks", "0"]
    return ["--model.pixelcnn-layers", str(layers), *pointwise, *flags]


MODELS = {
    "independent pixels": ["--model.decoder", "factorized"],
    **{f"{layers + 1} around": window(layers) for layers in (0, 2, 4, 8, 12)},
    **{
        f"13 around, rows and columns 0, {n}, {2 * n} ...": window(12, "--model.wiring.visible-stride", str(n))
        for n in (2, 3)
    },
}


def main() -> None:
    """Trains, evaluates and probes what is missing, then writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of run folders")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="of each training")
    options = parser.parse_args()
    dataset = load("dynamic-mnist", options.data_dir)
    labels = [digits(options.data_dir / f"mnist/{name}-labels-idx1-ubyte.gz") for name in ("train", "t10k")]
    found = []
    for i, (name, flags) in enumerate(MODELS.items()):
        run = options.folder / str(i)
        train = ["--data", "dynamic-mnist", "--epochs", f"{options.epochs}", "--anneal-from", f"{options.epochs / 4}"]
        train += ["--anneal-to", f"{options.epochs}", "--data-dir", str(options.data_dir), "--quiet"]
        if not (run / "test.json").exists():
            command("train", str(run), *([] if (run / "config.json").exists() else train + flags))
            evaluate = ["--samples", str(SAMPLES), "--subset", str(IMAGES), "--json", str(run / "test.json")]
            command("evaluate", str(run), "--data-dir", str(options.data_dir), *evaluate)
        test = json.loads((run / "test.json").read_text())
        model = VLAE.from_pretrained(run)
        codes = [means(model, split) for split in (dataset.train, dataset.test)]
        found.append({"model": name, "accuracy": accuracy(*codes, *labels), **test})
        print(f"{name}: NLL {test['nll_nats']['mean']:.2f}, KL {test['kl_nats']['mean']:.2f} nats, "
              f"digits told by z {found[-1]['accuracy']:.1%}")  # fmt: skip
    content = {"epochs": options.epochs, "samples": SAMPLES, "models": found}
    (HERE / "sweep.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(found)


def draw(found: list[dict]) -> None:
    """The figure: what each model has in z, and what it costs."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    rows = range(len(found))
    columns = {
        "KL, nats in z": [row["kl_nats"]["mean"] for row in found],
        "digits told by z, %": [100 * row["accuracy"] for row in found],
        "NLL, nats": [row["nll_nats"]["mean"] for row in found],
    }
    for axis, (title, values) in zip(axes, columns.items(), strict=True):
        axis.plot(values, rows, "o-", color="tab:blue")
        axis.set_title(title, loc="left", fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(rows, [row["model"] for row in found])
    axes[0].invert_yaxis()
    figure.savefig(HERE / "figures/sweep.png", dpi=120)


def command(*words: str) -> None:
    """A command of vlae-fast."""
    subprocess.run([sys.executable, "-m", "vlae_fast", *words], check=True)


def digits(path: Path) -> Tensor:
    """int64 [n] of a gzipped idx file of labels."""
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes())[8:], np.uint8).astype(np.int64))


@torch.no_grad()
def means(model: VLAE, split: Split) -> Tensor:
    """Of q(z|x), [n, D]."""
    return torch.cat([model.encode(split.fixed(i, min(1000, len(split) - i))).mean for i in range(0, len(split), 1000)])


def accuracy(train: Tensor, test: Tensor, train_labels: Tensor, test_labels: Tensor) -> float:
    """Share of test images whose digit a logistic regression on the codes of the training images finds."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / std, (test - mean) / std
    classifier = nn.Linear(train.shape[1], 10)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(classifier(train), train_labels[: len(train)])
        value.backward()
        return value

    optimizer.step(loss)
    return (classifier(test).argmax(1) == test_labels).double().mean().item()


if __name__ == "__main__":
    main()
