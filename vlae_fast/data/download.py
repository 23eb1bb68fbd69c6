"""The published files from their public addresses: resumed where a transfer broke off, checked before they are used."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from vlae_fast.data.files import MAX_UNPACKED_BYTES, DataError, data_folder
from vlae_fast.extra import cli_extra

with cli_extra():
    from tqdm import tqdm

__all__ = ["PUBLISHED", "DownloadError", "RemoteFile", "download"]

TIMEOUT_SECONDS = 30
"""Silence of a server after which it counts as gone."""
_BLOCK_BYTES = 2**16


class DownloadError(DataError):
    """A file could not be fetched; the message is one line that names the address and where the file belongs."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    folder: str
    """Where it belongs below the data folder."""
    url: str
    """Public address."""
    checksum: str
    """`sha256:...` or `md5:...`, hexadecimal."""

    @property
    def name(self) -> str:
        """Its name, the last part of the address."""
        return self.url.rpartition("/")[2]

    def fits(self, path: Path) -> bool:
        """Whether a file has the checksum. Raises OSError."""
        algorithm, _, wanted = self.checksum.partition(":")
        with path.open("rb") as file:
            hashed = hashlib.new(algorithm, usedforsecurity=False)
            while block := file.read(2**20):
                hashed.update(block)
        return hashed.hexdigest() == wanted


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_STATIC_MNIST = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_"
PUBLISHED = {
    "dynamic-mnist": tuple(
        RemoteFile("mnist", f"{_MNIST}{part}-images-idx3-ubyte.gz", f"sha256:{checksum}")
        for part, checksum in (
            ("train", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            ("t10k", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        )
    ),
    "static-mnist": tuple(
        RemoteFile("static_mnist", f"{_STATIC_MNIST}{part}.amat", f"sha256:{checksum}")
        for part, checksum in (
            ("train", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
            ("valid", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
            ("test", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
        )
    ),
    "caltech101": (
        RemoteFile(
            "caltech101_silhouettes",
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
            "sha256:eb6735e8d84b1850fabc5590124aab1755e90c9fd28123585324398405e1e42a",
        ),
    ),
    "omniglot": (
        RemoteFile(
            "omniglot",
            "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/chardata.mat",
            "md5:21ecaf34373511aa7691cf2e0802aa3d",
        ),
    ),
}
"""Files of each data set."""


def download(name: str, data_dir: Path | None = None) -> list[Path]:
    """Fetches the files of a data set into `data_dir` (default: as `load` has it); returns where they lie.

    A transfer that broke off goes on where it stopped, from NAME.part; a file takes its name only when its checksum
    fits; one that lies there is kept if it fits, and never overwritten. Raises DownloadError, which says what to fetch
    by hand and where to put it.
    """
    if name not in PUBLISHED:
        raise DownloadError(f"{name!r}: one of {', '.join(PUBLISHED)} wanted")
    folder = data_folder(data_dir)
    wanted = {folder / file.folder / file.name: file for file in PUBLISHED[name]}
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
    except OSError as error:
        raise DownloadError(f"{error.filename or str(folder)!r}: {error.strerror or error}") from None
    return list(wanted)


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
        bar = tqdm(total=total, initial=size, desc=file.name, unit="B", unit_scale=True)
        with bar, part.open("ab" if resumed else "wb") as out:
            while block := response.read(_BLOCK_BYTES):
                size += out.write(block)
                bar.update(len(block))
                if size > MAX_UNPACKED_BYTES:
                    raise _TransferError(f"more than {MAX_UNPACKED_BYTES} bytes come")
            out.flush()
            os.fsync(out.fileno())
    return total is None or size >= total
