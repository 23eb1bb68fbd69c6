"""A saved model: `config.json` and `model.safetensors` in a folder; those that ship with the package go by name."""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from vlae_fast import checkpoint, checks
from vlae_fast.checkpoint import CheckpointError, read_json
from vlae_fast.config import VLAEConfig, from_dict

__all__ = ["config_of", "folder_of", "is_run", "load", "save", "shipped", "tensors_of", "write_weights"]

Model = TypeVar("Model", bound=nn.Module)

WEIGHTS = Path(__file__).parent / "weights"
_BOUND = "config_sha256"
"""Entry of the metadata of `model.safetensors`."""


def shipped() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/model.safetensors"))


def folder_of(name_or_folder: str | Path) -> Path:
    """An existing folder as it is, or that of the shipped weights of this name. Raises CheckpointError for neither.

    A folder of such a name goes first if it holds a model, and a warning says so.
    """
    folder = checks.path("name_or_folder", name_or_folder)
    if str(name_or_folder) in shipped():
        if not os.path.lexists(folder / "config.json"):
            return WEIGHTS / name_or_folder
        warnings.warn(f"{folder}: the model in this folder, not the weights of that name that ship", stacklevel=2)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder}: the folder of a model wanted, this is a file")
    raise CheckpointError(f"{folder}: no such folder, and no weights of that name ({', '.join(shipped())})")


def config_of(folder: Path) -> VLAEConfig:
    """Configuration of the model in a folder. Raises CheckpointError that names the file and the field at fault."""
    path = folder / "config.json"
    content = read_json(path)
    if not _has_model(content):
        raise CheckpointError(f"{path}: no object with a field 'model'")
    try:
        return from_dict(VLAEConfig, content["model"], str(path))
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def save(folder: Path, model: Any) -> None:
    """Writes a model. Killed between its two files it leaves a pair that does not load, never a mixture.

    Raises CheckpointError where the folder holds a training or somebody else's `config.json`, or cannot be written;
    ValueError where `load` would not read it.
    """
    tensors = {name: t.float() for name, t in model.state_dict().items()}
    told = _empty(type_before_parametrizations(model), model.config).state_dict()
    others = {(name, t.shape) for name, t in tensors.items()} ^ {(name, t.shape) for name, t in told.items()}
    if others:
        name, _ = min(others)
        what = f"{name} is not what its config tells, so it could not be loaded"
        raise ValueError(f"model: {what}; save its state_dict()")
    if is_run(folder):
        raise CheckpointError(f"{folder}: holds a training, which would be lost; save to another folder")
    path = folder / "config.json"
    if os.path.lexists(path) and not _has_model(read_json(path)):
        raise CheckpointError(f"{path}: of something else, which would be lost; save to another folder")
    content = json.loads(json.dumps({"model": dataclasses.asdict(model.config)}))  # tuples become lists
    write_weights(folder, content, tensors)
    checkpoint.write_json(path, content)


def load(kind: type[Model], name_or_folder: str | Path) -> Model:
    """A model of this class as `save` wrote it, or a training. Raises CheckpointError that names the file at fault."""
    folder = folder_of(name_or_folder)
    model = _empty(kind, config_of(folder))
    model.load_state_dict(tensors_of(folder, model.state_dict()), assign=True)
    return model.to(torch.get_default_device())


def _empty(kind: Callable[[VLAEConfig], Model], config: VLAEConfig) -> Model:
    """A float32 model without values."""
    with torch.device("meta"):
        return kind(config).float()


def write_weights(folder: Path, content: Any, tensors: Mapping[str, Tensor]) -> None:
    """Writes `model.safetensors`, bound to the content of its `config.json`. Raises CheckpointError."""
    checkpoint.write_tensors(folder / "model.safetensors", tensors, {_BOUND: _digest(content)})


def is_run(folder: Path) -> bool:
    """Does a folder hold a training?"""
    if os.path.lexists(folder / "state.safetensors"):
        return True
    try:
        content = read_json(folder / "config.json")
    except CheckpointError:
        return False
    return isinstance(content, dict) and "training" in content


def tensors_of(folder: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model in a folder, as `checkpoint.read_tensors`.

    Raises CheckpointError, also where they were written beside another `config.json`.
    """
    path = folder / "model.safetensors"
    if is_run(folder) and not os.path.lexists(path):
        raise CheckpointError(f"{path}: not there yet; a training writes it at its first validation")
    tensors, metadata = checkpoint.read_tensors(path, wanted)
    config = folder / "config.json"
    if metadata.get(_BOUND) not in (None, _digest(read_json(config))):  # files of older versions have none
        raise CheckpointError(f"{path}: written beside another config.json (was a saving cut short?); save it again")
    return tensors


def _has_model(content: Any) -> bool:
    """Of a `config.json`."""
    return isinstance(content, dict) and "model" in content


def _digest(content: Any) -> str:
    """sha256 of the model's part of a `config.json`, as it stands there."""
    return hashlib.sha256(json.dumps(content["model"], sort_keys=True).encode()).hexdigest()
