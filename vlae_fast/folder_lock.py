"""One process at a time may train in a folder."""

import os
import sys
import threading
import weakref
from pathlib import Path
from typing import ClassVar

from vlae_fast.checkpoint import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "lock"]


def lock(descriptor: int) -> bool:
    """Takes a file or folder for this process, until it is closed; False where another one has it."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True


class FolderLock:
    """A folder that this process has for itself as long as the object lives; a killed process holds none."""

    _held: ClassVar[weakref.WeakValueDictionary[tuple[int, int, int], "FolderLock"]] = weakref.WeakValueDictionary()
    _holding = threading.Lock()

    def __init__(self, folder: Path) -> None:
        self.in_process = threading.RLock()
        """Taken by the thread that uses the folder."""
        self.saves = 0
        """States that this process has written here."""
        self._descriptor: int | None = None
        if fcntl is None:
            print(f"{folder}: no file locks on this system: keep other trainings out of it yourself", file=sys.stderr)
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        if not lock(self._descriptor):
            raise CheckpointError(f"{folder}: another training runs in this folder")

    def is_of(self, folder: Path) -> bool:
        """Whether what is there now is the folder that was locked: it may have been moved, or removed."""
        try:
            there = folder.stat()
        except OSError:
            return False
        return self._descriptor is None or os.path.samestat(there, os.fstat(self._descriptor))

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    @classmethod
    def of(cls, folder: Path) -> "FolderLock":
        """The lock of this process on an existing folder. Raises CheckpointError where another process has it."""
        there = folder.stat()
        key = (os.getpid(), there.st_dev, there.st_ino)  # a forked child inherits the table, but must not use it
        with cls._holding:
            lock = cls._held.get(key)
            if lock is None:
                lock = cls._held[key] = cls(folder)
            return lock
