"""The published files from their public addresses: resumed where a transfer broke off, checked before they are used."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from vlae_fast.bar import progress
from vlae_fast.data.files import MAX_UNPACKED_BYTES, DataError, MissingDataError, data_folder, find
from vlae_fast.data.published import PUBLISHED, RemoteFile

__all__ = ["DownloadError", "download"]

TIMEOUT_SECONDS = 30
"""Silence of a server after which it counts as gone."""
_BLOCK_BYTES = 2**16


class DownloadError(DataError):
    """A file could not be fetched; the message is one line that names the address and where the file belongs."""


def download(name: str, data_dir: str | Path | None = None) -> list[Path]:
    """Fetches the files of a data set into `data_dir` (default: as `load` has it); returns where they lie.

    A transfer that broke off goes on where it stopped, from NAME.part; a file takes its name only when its checksum
    fits; one that lies where `load` finds it, gzipped or not, is kept if it fits, and never overwritten. Raises
    DownloadError, which says what to fetch by hand and where to put it.
    """
    if name not in PUBLISHED:
        raise DownloadError(f"{name!r}: one of {', '.join(PUBLISHED)} wanted")
    folder = data_folder(data_dir)
    wanted = {_place(folder, file): file for file in PUBLISHED[name]}
    try:
        for path, file in wanted.items():
            if not os.path.lexists(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _fetch(file, path)
            elif not file.fits(path):
                raise DownloadError(f"{str(path)!r}: not the published file, its checksum differs; move it away")
    except _TransferError as error:
        by_hand = ", ".join(f"{file.url} to {str(p)!r}" for p, file in wanted.items() if not os.path.lexists(p))
        raise DownloadError(f"{file.url}: {error}; fetch by other means {by_hand}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DownloadError(f"{error.filename or str(folder)!r}: {error.strerror or error}") from None
    return list(wanted)


def _place(folder: Path, file: RemoteFile) -> Path:
    """Where a file lies that `load` would read for this one, or where it belongs."""
    try:
        return find(folder, file.name.removesuffix(".gz"))[0]
    except MissingDataError:
        return folder / file.folder / file.name


class _TransferError(Exception):
    """Why a file did not come; no matter of the disk."""


def _fetch(file: RemoteFile, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    if part.is_symlink():
        part.unlink()  # it would be written through
    while True:
        begun = part.stat().st_size if part.exists() else 0
        reason: object = "the transfer breaks off"
        try:
            complete = _transfer(file, part, begun)
        except BrokenPipeError:  # nobody reads the bar any more
            raise
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            complete = False
            reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", repr(error))
        if complete and file.fits(part):
            part.replace(path)
            return
        if complete:
            part.unlink()
            reason = "what comes has another checksum"
        # Once more, if that helps: a part from before may be of another file, a broken transfer may go on.
        if not (begun if complete else part.exists() and part.stat().st_size > begun):
            raise _TransferError(" ".join(str(reason).split()))


def _transfer(file: RemoteFile, part: Path, begun: int) -> bool:
    """Adds to `part`, of which `begun` bytes are there, what the server sends; whether that is all of the file."""
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing comes after what is there
            return True
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            raise _TransferError("another range comes than was asked for")
        size = begun if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = size + int(length) if length.isdecimal() else None
        bar = progress(total=total, initial=size, desc=file.name, unit="B", unit_scale=True)
        with bar, part.open("ab" if resumed else "wb") as out:
            while block := response.read(_BLOCK_BYTES):
                size += out.write(block)
                bar.update(len(block))
                if size > MAX_UNPACKED_BYTES:
                    raise _TransferError(f"more than {MAX_UNPACKED_BYTES} bytes come")
            out.flush()
            os.fsync(out.fileno())
    return total is None or size >= total
