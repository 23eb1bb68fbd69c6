"""Configs: fields of every kind become plain Python, and whatever else a caller or a file holds is refused by name."""

import json
import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from vlae_fast import VLAE, PixelCNNSpec, TrainConfig, VLAEConfig, cli
from vlae_fast.checkpoint import CheckpointError
from vlae_fast.config import from_dict

TINY = VLAEConfig.preset("tiny")
CONFIGS = {"spec": PixelCNNSpec(pointwise_after=(0,)), "model": TINY, "training": TrainConfig()}
FIELDS = [(kind, f.name) for kind, config in CONFIGS.items() for f in fields(config)]
every_field = pytest.mark.parametrize(("kind", "name"), FIELDS, ids=[f"{kind}.{name}" for kind, name in FIELDS])

HOSTILE = {
    "null": None,
    "text": "8",
    "no choice": "\N{SNOWMAN}",
    "long text": "x" * 1_000_000,
    "NUL": "a\0b",
    "bool": True,
    "negative": -1,
    "more than a bit negative": -(10**30),
    "broken": 1.5,
    "tiny": 5e-324,
    "huge": 1e308,
    "infinite": math.inf,
    "no number": math.nan,
    "beyond int64": 2**62 * 4,
    "address space": 2**62,
    "beyond float": 10**400,
    "beyond the digits that Python writes": 10**5000,
    "millions": 3_000_000,
    "empty": [],
    "long": [1] * 2000,
    "longer": [1] * 1_000_000,
    "list of nonsense": [1, None],
    "list of large": [2**62],
    "object": {},
    "deep": {"a": {"b": {"c": []}}},
}


def shown_in_one_line(error, name):
    message = str(error)
    assert name in message
    assert "\n" not in message
    assert len(message) < 800
    return True


@every_field
def test_hostile_values_are_refused_by_name_or_meant(kind, name):
    config = CONFIGS[kind]
    for value in HOSTILE.values():
        try:
            made = replace(config, **{name: value})
        except (TypeError, ValueError) as error:
            assert shown_in_one_line(error, name)
        else:
            plain = getattr(made, name)
            assert type(plain) in (type(getattr(config, name)), type(None))
            assert json.loads(json.dumps(asdict(made)))[name] == (list(plain) if isinstance(plain, tuple) else plain)


@every_field
def test_only_what_a_field_is_made_of_is_taken(kind, name):
    """A text is no number, a bool no number, a list no text, whatever can be read as one."""
    own = type(getattr(CONFIGS[kind], name))
    meant = {str: {"text", "no choice"}, bool: {"bool"}, tuple: {"null", "empty"}}
    numbers = {"negative", "broken", "tiny", "huge", "address space", "millions"}
    for case in HOSTILE.keys() - meant.get(own, numbers if own in (int, float) else set()):
        with pytest.raises((TypeError, ValueError), match=name):
            replace(CONFIGS[kind], **{name: HOSTILE[case]})


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor, np.array])
def test_whole_numbers_of_every_kind_become_plain(kind):
    made = replace(TINY, latent_size=kind(8), encoder_channels=[kind(4), kind(8)])
    assert made == TINY
    assert hash(made) == hash(TINY)
    assert json.dumps(asdict(made)) == json.dumps(asdict(TINY))
    assert replace(TINY, encoder_channels=kind([4, 8]) if kind in (torch.tensor, np.array) else [4, 8]) == TINY


@pytest.mark.parametrize("kind", [np.float64, np.float32, torch.tensor, np.array, int])
def test_numbers_of_every_kind_become_plain(kind):
    made = TrainConfig(learning_rate=kind(1), polyak=np.float64(0.998), seed=np.int64(0))
    assert made == TrainConfig(learning_rate=1.0)
    assert type(made.learning_rate) is float
    assert json.dumps(asdict(made)) == json.dumps(asdict(TrainConfig(learning_rate=1.0)))


def test_flags_and_lists():
    assert replace(TINY, flow_scale=np.bool_(True)).flow_scale is True
    assert PixelCNNSpec(pointwise_after=[0, np.int64(1)]).pointwise_after == (0, 1)
    assert replace(TINY, encoder_channels=range(1, 4)).encoder_channels == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"height": 65_536, "width": 65_536}, "height, width"),
        ({"flow_hidden": 65_536}, "flow_hidden"),
        ({"latent_size": 65_536, "flow_hidden": 16_384}, "latent_size"),
        ({"pixelcnn_channels": 65_536}, "pixelcnn_channels"),
        ({"encoder_channels": (65_536, 65_536)}, "encoder_channels"),
        ({"dense_units": 65_536, "latent_size": 65_536}, "dense_units, latent_size"),
        ({"dense_units": 65_536, "height": 4096, "width": 4096}, "dense_units"),
        ({"context_maps": 65_536, "height": 256, "width": 256}, "context_maps"),
    ],
)
def test_fields_that_are_too_much_together(changes, named):
    with pytest.raises(ValueError, match=f"{named}.*: tensors of at most 1,073,741,824 numbers wanted, got"):
        VLAEConfig(**changes)


def test_large_models_are_accepted():
    VLAEConfig(height=1024, width=1024, encoder_channels=(64,) * 7, latent_size=2048, dense_units=4096)
    VLAEConfig(flow_hidden=8192, pixelcnn_channels=256, pixelcnn_layers=200, pointwise_blocks=0)


@pytest.mark.parametrize(
    ("spec", "blocks", "layers", "message"),
    [
        (PixelCNNSpec(block_convs=2), 0, 5, "block_convs: a divisor of 5 layers wanted, got 2"),
        (PixelCNNSpec(), 3, 2, r"pointwise_after with 3 positions .* in 0..1 wanted, got \(0, 1, 2\)"),
        (PixelCNNSpec(pointwise_after=(0, 2)), 2, 2, r"pointwise_after with 2 positions .* in 0..1 wanted"),
    ],
)
def test_wirings_that_do_not_fit(spec, blocks, layers, message):
    with pytest.raises(ValueError, match=message):
        spec.pointwise_positions(blocks, layers)


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    VLAE(TINY).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    content["training"] = asdict(TrainConfig(data="digits"))
    return folder, content


def spoil(saved, kind, name, value):
    """Puts a value into the folder's config.json that no writer of ours would."""
    folder, content = saved
    content = json.loads(json.dumps(content))
    (content["model"]["wiring"] if kind == "spec" else content[kind])[name] = value
    (folder / "config.json").write_text(json.dumps(content))


def no_memory(*_, **__):
    raise AssertionError("a model was built")


@every_field
def test_nothing_is_built_from_a_hostile_file(kind, name, saved, monkeypatch, capsys):
    """One line that names file and field, status 2; no model is made."""
    folder, _ = saved
    if kind != "training":  # the command that reads these needs the model first
        monkeypatch.setattr(VLAE, "__init__", no_memory)
        for value in (10**30, 10**400, 2**63, 1e308, [2**62] * 2000, {"a": 1}):
            spoil(saved, kind, name, value)
            with pytest.raises(CheckpointError) as error:
                VLAE.from_pretrained(folder)
            assert shown_in_one_line(error.value, f"{folder / 'config.json'}: ")
            assert shown_in_one_line(error.value, name)
    spoil(saved, kind, name, 10**400)
    command = ("evaluate", folder, "--samples", 1) if kind == "training" else ("info", folder)
    assert cli.main([str(word) for word in command]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("vlae-fast: ")
    assert name in said


def test_weights_of_another_config_make_no_model(saved, monkeypatch):
    spoil(saved, "model", "flow_hidden", 20_000)
    monkeypatch.setattr(nn.Module, "to_empty", no_memory)
    with pytest.raises(CheckpointError, match=r"prior_flow.hidden1_v: shape \[2, 20000, 8\] wanted"):
        VLAE.from_pretrained(saved[0])


def test_unknown_and_misplaced_fields_are_named_in_one_line():
    for values, message in (
        ({"x" * 10**6: 1}, "here: unknown field 'xxx"),
        ({"wiring": {"colour": 1}}, "here: wiring: unknown field 'colour'"),
        ({"wiring": []}, "here: wiring: an object wanted"),
        ([1] * 10**6, "here: an object wanted"),
    ):
        with pytest.raises(ValueError, match=f"^{message}") as error:
            from_dict(VLAEConfig, values, "here")
        assert len(str(error.value)) < 500
