"""A training of seconds: a tiny model on images of bars (the fixture `bars`)."""

import hashlib
import json
from dataclasses import replace

from vlae_fast import TrainConfig, VLAEConfig
from vlae_fast.data import load
from vlae_fast.train import Trainer

TINY = replace(VLAEConfig.preset("tiny"), height=9, width=8)
CONFIG = TrainConfig(
    data="bars", batch_size=16, polyak=0.8, validation_images=20, validation_epochs=4, free_bits_nats_per_pixel=1 / 72
)


def trainer(bars, out, model=TINY, **changes):
    return Trainer(model, replace(CONFIG, **changes), load(str(bars)), out)


def digest(folder):
    return hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
