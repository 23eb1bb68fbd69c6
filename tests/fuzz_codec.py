"""Damaged files of the codec: CodecErrors, or the images that were compressed, and nothing else, in bounded memory.

python tests/fuzz_codec.py --files 10000 --seed 0
"""

import argparse
import random
import re
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch

from vlae_fast import VLAE, VLAEConfig, codec

PEAK_BYTES = 2**30


def damaged(data: bytes, drawn: random.Random) -> bytes:
    """Cut short, lengthened, or with other bits and bytes, here or there, once or several times."""
    bad = bytearray(data)
    for _ in range(drawn.choice([1, 1, 1, 2, 5])):
        place = drawn.randrange(len(bad) + 1) if drawn.random() < 0.7 else drawn.randrange(min(len(bad), 24) + 1)
        kind = drawn.randrange(5)
        if kind == 0 and place < len(bad):
            bad[place] ^= 1 << drawn.randrange(8)
        elif kind == 1:
            del bad[place:]
        elif kind == 2:
            bad[place:place] = drawn.randbytes(drawn.randrange(1, 5))
        elif kind == 3:
            bad[place : place + 3] = drawn.randbytes(3)
        else:
            bad[place : place + 4] = b"\xff" * 4
    return bytes(bad)


def files() -> Iterator[tuple[VLAE, bytes]]:
    """Models, and files of each kind by them."""
    torch.manual_seed(0)
    small = replace(VLAEConfig.preset("tiny"), height=5, width=4, latent_size=3, flow_hidden=5, encoder_channels=(2, 3))
    for conditioning in ("latent", "none"):
        model = VLAE(replace(small, conditioning=conditioning))
        images = (torch.rand(25, 1, 5, 4) < 0.4).float()
        yield model, codec.compress(model, images, group=10)
        if conditioning == "latent":
            yield model, codec.compress(model, images, lossy=True, bits=6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    drawn, said = random.Random(arguments.seed), Counter[str]()
    kinds = [(model, data, codec.decompress(model, data)) for model, data in files()]
    for _ in range(arguments.files):
        model, data, right = drawn.choice(kinds)
        try:
            assert torch.equal(codec.decompress(model, damaged(data, drawn)), right), "other images"
            said["the images"] += 1
        except codec.CodecError as error:
            assert "\n" not in str(error)
            said[re.sub(r"[0-9a-f]{16}|\d+", "..", str(error))] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{arguments.files} damaged files; peak {peak / 2**20:.0f} MiB; {dict(said.most_common())}")
    assert peak < PEAK_BYTES


if __name__ == "__main__":
    main()
