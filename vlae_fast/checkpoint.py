"""Files of tensors and of JSON, read without executing anything and written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["CheckpointError", "read_json", "read_tensors", "write_file", "write_json", "write_tensors"]


class CheckpointError(ValueError):
    """A file that is missing, damaged or of another model; the message names it."""


def write_file(path: Path, content: bytes) -> None:
    """Writes beside `path`, flushes to the disk, then renames: a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file."""
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path, max_bytes: int = 1 << 20) -> Any:
    """What a JSON file holds. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise CheckpointError(f"{path}: larger than {max_bytes} bytes")
        return json.loads(content)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a JSON file ({error})") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, save(contiguous, None if metadata is None else dict(metadata)))


def read_tensors(path: Path, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, which must hold exactly the names, shapes and dtypes of `wanted`.

    `wanted` may be on the meta device; nothing is read before the header fits. Raises CheckpointError, also for NaN
    or infinity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != set(wanted):
                example = sorted(names ^ set(wanted))[0]
                verb = "unexpected" if example in names else "missing"
                raise CheckpointError(f"{path}: {verb} tensor {example!r}: made for another config?")
            for name, tensor in wanted.items():
                shape = file.get_slice(name).get_shape()
                if shape != list(tensor.shape):
                    raise CheckpointError(f"{path}: {name}: shape {list(tensor.shape)} wanted, got {shape}")
            tensors = {name: file.get_tensor(name) for name in wanted}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype != wanted[name].dtype:
            raise CheckpointError(f"{path}: {name}: {wanted[name].dtype} wanted, got {tensor.dtype}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name}: NaN or infinity")
    return tensors, metadata
