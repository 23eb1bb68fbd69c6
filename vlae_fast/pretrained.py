"""Weights that ship with the package, found by name."""

from pathlib import Path

from vlae_fast.checkpoint import CheckpointError, read_json
from vlae_fast.config import VLAEConfig, from_dict

__all__ = ["config_of", "folder_of", "shipped"]

_WEIGHTS = Path(__file__).parent / "weights"


def shipped() -> list[str]:
    """Names of the weights that ship with the package."""
    return sorted(path.parent.name for path in _WEIGHTS.glob("*/model.safetensors"))


def folder_of(name_or_folder: str | Path) -> Path:
    """An existing folder as it is, or that of the shipped weights of this name. Raises CheckpointError for neither."""
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if str(name_or_folder) in shipped():
        return _WEIGHTS / name_or_folder
    raise CheckpointError(f"{folder}: no such folder, and no weights of that name ({', '.join(shipped())})")


def config_of(folder: Path) -> VLAEConfig:
    """Configuration of the model in a folder. Raises CheckpointError, or ValueError that names the field at fault."""
    path = folder / "config.json"
    content = read_json(path)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path}: no object with a field 'model'")
    return from_dict(VLAEConfig, content["model"], str(path))
