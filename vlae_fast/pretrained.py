"""Weights that ship with the package, found by name."""

from pathlib import Path

from vlae_fast.checkpoint import CheckpointError

__all__ = ["folder_of", "shipped"]

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
