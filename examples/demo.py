"""Draws from the shipped weights and says how fast: `make demo`, or `python examples/demo.py --out FOLDER`.

Writes samples.png, reconstructions.png (test images of static MNIST where $VLAE_DATA or ./data has them, else the
model's own samples, each beside its lossy decompression), inpainting.png (upper halves, each completed four times) and
page.html, in which one plays with the model.
"""

import argparse
import time
from pathlib import Path

import torch

from vlae_fast import VLAE, checkpoint, codec, explore, plots, use_backend
from vlae_fast.data import MissingDataError, load


def seconds(call):
    """Result and wall time of the second of two calls: the first may still be setting things up."""
    call()
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def main():
    """Draws, times and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the pictures")
    out = parser.parse_args().out

    model = VLAE.from_pretrained("static-mnist")
    with torch.no_grad():
        drawn, drawing = seconds(lambda: model.sample(100, seed=0))
        plots.image_grid(drawn, 10, out / "samples.png")
        with use_backend("reference"):
            _, scoring = seconds(lambda: model.elbo(drawn))
    print(f"100 images drawn in {1e3 * drawing:.0f} ms; scoring them once in plain torch takes {1e3 * scoring:.0f} ms")

    try:
        images = load("static-mnist").test.fixed()[::208][:48]
    except MissingDataError:
        images = drawn[:48]
    again, decompressing = seconds(lambda: model.reconstruct(images, seed=0))
    plots.pairs(images, again, out / "reconstructions.png")
    bits = model.elbo(images).kl.mean().item() / torch.log(torch.tensor(2.0)).item()
    print(f"48 images compressed to {bits:.1f} bits each (KL) and drawn anew in {1e3 * decompressing:.0f} ms")
    file = codec.compress(model, images)
    read, reading = seconds(lambda: codec.decompress(model, file))
    assert torch.equal(read, images)
    codes = codec.compress(model, images, lossy=True, bits=16)
    print(f"as files: lossless {len(file)} bytes, read back in {1e3 * reading:.0f} ms; their codes {len(codes)} bytes")

    halves = images[:24].repeat_interleave(4, 0)
    given = halves[:, 0].to(torch.int8)
    given[:, 14:] = -1  # the lower half is to be drawn

    start = time.perf_counter()
    completed = model.inpaint(given, seed=0, rounds=50)
    inpainting = time.perf_counter() - start
    rows = torch.cat([images[:24, None], completed.view(24, 4, 1, 28, 28)], 1)
    plots.image_grid(rows.flatten(0, 1), 10, out / "inpainting.png")
    print(f"{len(halves)} lower halves drawn in {1e3 * inpainting:.0f} ms (original, then four completions)")
    print(f"samples.png, reconstructions.png and inpainting.png: {out.resolve()}")
    checkpoint.write_file(out / "page.html", explore.page(model, name="static-mnist", trained_on="static-mnist"))
    print(f"the model in a page, to play with in a browser: {(out / 'page.html').resolve().as_uri()}")


if __name__ == "__main__":
    main()
