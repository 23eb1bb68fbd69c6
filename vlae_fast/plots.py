"""Pictures as PNG files: grids of images and curves of a training."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlae_fast import checkpoint
from vlae_fast.extra import cli_extra

with cli_extra():
    from matplotlib.figure import Figure
    from PIL import Image

__all__ = ["curves", "image_grid", "pairs"]

Row = dict[str, Any]


def image_grid(images: Tensor, columns: int, path: str | Path) -> None:
    """Writes images [N, 1, H, W] in 0..1 (1 is ink, drawn dark) as a grid with grey lines between them.

    Small ones are enlarged, up to three times.
    """
    N, _, H, W = images.shape
    zoom = min(3, max(1, 84 // max(H, W)))
    rows = -(-N // columns)
    canvas = np.full((rows * (H + 1) + 1, columns * (W + 1) + 1), 160, np.uint8)
    for i, image in enumerate(((1 - images[:, 0]) * 255).round().to(torch.uint8).cpu().numpy()):
        top, left = i // columns * (H + 1) + 1, i % columns * (W + 1) + 1
        canvas[top : top + H, left : left + W] = image
    content = BytesIO()
    Image.fromarray(canvas.repeat(zoom, 0).repeat(zoom, 1)).save(content, format="PNG")
    checkpoint.write_file(path, content.getvalue())


def pairs(left: Tensor, right: Tensor, path: str | Path, columns: int = 6) -> None:
    """Writes images side by side: each of `left` with its partner in `right`, both [N, 1, H, W]."""
    image_grid(torch.stack([left, right], 1).flatten(0, 1), 2 * columns, path)


def curves(rows: Sequence[Row], path: str | Path) -> None:
    """Writes the bound and the KL in nats over the epochs, from the rows of a `metrics.jsonl`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, what in zip(figure.subplots(1, 2), ("negative_elbo_nats", "kl_nats"), strict=True):
        for split in ("train", "valid"):
            axes.plot([row["epoch"] for row in rows], [row[f"{split}_{what}"] for row in rows], label=split, marker=".")
        axes.set(xlabel="epoch", ylabel=what.replace("_", " ").replace("nats", "(nats)"))
        axes.grid(alpha=0.3)
        axes.legend()
    bounds = [row["valid_negative_elbo_nats"] for row in rows]
    figure.axes[0].set_ylim(min(bounds) - 1, sorted(bounds)[len(bounds) // 2] + 10)
    content = BytesIO()
    figure.savefig(content, dpi=120, format="png")
    checkpoint.write_file(path, content.getvalue())
