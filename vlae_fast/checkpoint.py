"""Files of tensors and of JSON, read without executing anything and written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlae_fast import checks

__all__ = [
    "CheckpointError",
    "beside",
    "digest",
    "is_special",
    "make_folder",
    "put_in_place",
    "read_file",
    "read_json",
    "read_tensors",
    "remove_stale",
    "sync_folder",
    "write_file",
    "write_json",
    "write_tensors",
    "write_through",
]

Bytes = bytes | memoryview

_READ = 1 << 20
"""Bytes that are compared at once."""
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.bool: "BOOL"}
"""The names that safetensors has for them."""

_TEMPORARY = re.compile(r"\..+\.(\d{1,9})\.new")


class CheckpointError(ValueError):
    """A file that is missing, damaged or of another model; the message names it."""


def write_file(path: str | Path, *content: Bytes) -> None:
    """Writes beside `path`, flushes to the disk, reads it back, then renames: readers see the old file or the new one.

    The parts of the content follow one another in the file; nothing is copied.

    The file there gives its mode and owner on, a link is replaced and not followed. Durable once it returns: the folder
    is flushed too, where the system can do that. A character device or a pipe is written through, never replaced.
    Raises CheckpointError, the old file and nothing else there, where the disk is full or nothing may be written.
    """
    path = checks.path("path", path)
    temporary = beside(path)
    made: list[Path] = []
    try:
        if is_special(path):
            write_through(path, content)
            return
        made = _missing(path.parent)
        make_folder(path.parent)
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:
                _take_over_mode(path, temporary)
                for part in content:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            _compare(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # somebody else has put something there
            for folder in made:
                folder.rmdir()
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


def beside(path: Path) -> Path:
    """Where this process writes what will take the place of `path`: a hidden name, which is no longer than may be."""
    end = f".{os.getpid()}.new"
    return path.with_name("." + os.fsdecode(os.fsencode(path.name)[: 254 - len(end)]) + end)


def _compare(path: Path, content: Iterable[Bytes]) -> None:
    """Raises OSError where a file does not hold what was written to it."""
    with path.open("rb") as file:
        for part in content:
            for start in range(0, len(part), _READ):
                written = part[start : start + _READ]
                if file.read(len(written)) != written:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))


def put_in_place(new: Path, path: Path) -> None:
    """Renames a file that is flushed already, as `write_file` does in the end. Raises OSError."""
    _take_over_mode(path, new)
    new.replace(path)
    sync_folder(path.parent)


def is_special(path: Path) -> bool:
    """Is there something that is written to but never replaced: a device, pipe or socket, or a link of the system's?

    The links of /dev and /proc (/dev/stdout) count, whatever they lead to.
    """
    if path.is_symlink() and path.parent.resolve().parts[1:2] in (("dev",), ("proc",)):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # nothing there, or a link to nothing
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def write_through(path: Path, content: Iterable[Bytes]) -> None:
    """Writes to what `is_special`. Raises OSError, also for a pipe that nobody reads, where others would wait."""
    if path.is_block_device():
        raise CheckpointError(f"{path}: cannot be written (a block device)")
    number = _own_descriptor(path)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
    with os.fdopen(os.open(path, flags) if number is None else os.dup(number), "wb") as file:
        os.set_blocking(file.fileno(), True)
        file.writelines(content)


def _own_descriptor(path: Path) -> int | None:
    """The number of the descriptor of this process that /dev/stdout, /dev/fd/N and the like stand for.

    Opened a second time, the file behind it would have two places to write to, and one overwrite the other.
    """
    if path.is_symlink() and path.parent.resolve() == Path("/dev"):  # /dev/stdout
        path = path.parent / os.readlink(path)
    match = re.fullmatch(rf"/proc/{os.getpid()}/fd/(\d{{1,9}})", str(path.parent.resolve() / path.name))
    return int(match[1]) if match else None


def _take_over_mode(old: Path, new: Path) -> None:
    """Gives a file the mode, and where that is allowed the owner, of the regular file that it will replace."""
    if old.is_symlink() or not old.exists():
        return
    if hasattr(os, "chown"):  # not on Windows
        there = old.stat()
        with contextlib.suppress(PermissionError):
            os.chown(new, there.st_uid, there.st_gid)
    shutil.copymode(old, new)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, durable as `write_file` is. Raises OSError."""
    missing = _missing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        sync_folder(part.parent)


def _missing(folder: Path) -> list[Path]:
    """What is not there of a folder and those above it."""
    return [part for part in (folder, *folder.parents) if not part.exists()]


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, where the system can do that. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written to but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without it
            raise
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> None:
    """Removes what `write_file` left in a folder when its process was killed."""
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _runs_elsewhere(int(match[1])):
            path.unlink(missing_ok=True)


def _runs_elsewhere(process: int) -> bool:
    if os.name == "nt":  # a signal 0 would be a Ctrl-C there
        return True
    if process == os.getpid():  # this process has just begun; in a container every process may have the same number
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file."""
    write_file(path, (json.dumps(value, indent=2) + "\n").encode())


def read_file(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file (a pipe might never end). Raises CheckpointError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: a file wanted, not a folder, pipe or device")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise CheckpointError(f"{path}: larger than {max_bytes} bytes")
    return content


def read_json(path: Path, max_bytes: int = 1 << 20) -> Any:
    """What a JSON file holds. Raises CheckpointError."""
    content = read_file(path, max_bytes)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from None


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """sha256 of the names, types, shapes and bytes of tensors, and of metadata."""
    hashed = hashlib.sha256(json.dumps(dict(metadata or {}), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hashed.update(_bytes_of(tensor.detach().cpu().contiguous()))
    return hashed.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file; its metadata hold a checksum of all else. Raises CheckpointError.

    So it does, nothing written, for NaN or infinity: such a file would not be read again.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _check_finite(path, contiguous)
    header: dict[str, Any] = {
        "__metadata__": dict(sorted({**(metadata or {}), "sha256": digest(contiguous, metadata)}.items()))
    }
    content, end = [], 0
    for name, tensor in sorted(contiguous.items(), key=lambda item: (-item[1].element_size(), item[0])):  # all aligned
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        content.append(_bytes_of(tensor))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_file(path, len(text).to_bytes(8, "little"), text, *content)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name}: NaN or infinity")


def read_tensors(path: Path, wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, which must hold exactly the names, shapes and dtypes of `wanted`.

    float16 is widened where float32 is wanted. `wanted` may be on the meta device; nothing is read before the header
    fits. Raises CheckpointError, also for NaN or infinity, and for a checksum (files from elsewhere need none) that
    does not fit.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: a file wanted, not a folder, pipe or device")
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
        reason = error.strerror if isinstance(error, OSError) else None
        raise CheckpointError(f"{path}: {reason or error}") from None
    for name, tensor in tensors.items():
        widened = torch.float32 if tensor.dtype == torch.float16 else tensor.dtype
        if wanted[name].dtype not in (tensor.dtype, widened):
            raise CheckpointError(f"{path}: {name}: {wanted[name].dtype} wanted, got {tensor.dtype}")
    _check_finite(path, tensors)
    if metadata.pop("sha256", None) not in (None, digest(tensors, metadata)):
        raise CheckpointError(f"{path}: damaged, its checksum does not fit")
    return {name: tensor.to(wanted[name].dtype) for name, tensor in tensors.items()}, metadata
