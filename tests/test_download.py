"""Downloads from a server on this machine: resumed, checked, refused with one line."""

import gzip
import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from vlae_fast import bar, cli
from vlae_fast.data import download as module
from vlae_fast.data import files
from vlae_fast.data.download import DownloadError, download
from vlae_fast.data.published import PUBLISHED, RemoteFile

CONTENT = np.random.default_rng(0).bytes(200_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        first = 0
        if asked and server.ranges:
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if first >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if first else 200)
        if first:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {first + server.shift}-{last}/{last + 1}")
        rest = server.content[first:]
        if server.length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: server.cut])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves CONTENT as the one file of caltech101; its fields spoil that."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.content = [], CONTENT
        server.ranges, server.length, server.cut, server.shift = True, True, None, 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        publish(monkeypatch, f"{server.url}/file.mat")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()
        thread.join()


def publish(monkeypatch, *urls, checksum=SHA256):
    monkeypatch.setitem(PUBLISHED, "caltech101", tuple(RemoteFile("folder", url, checksum) for url in urls))


def fetched(tmp_path):
    """The data folder's files, after a download."""
    (path,) = download("caltech101", tmp_path)
    assert path == tmp_path / "folder" / "file.mat"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.mat"]


def part(tmp_path, content):
    path = tmp_path / "folder" / "file.mat.part"
    path.parent.mkdir()
    path.write_bytes(content)
    return path


def test_whole(server, tmp_path, capsys):
    fetched(tmp_path)
    assert server.asked == [None]
    assert "file.mat: 100%" in capsys.readouterr().err
    fetched(tmp_path)  # nothing to do
    assert server.asked == [None]


@pytest.mark.parametrize("log", ["/dev/full", "a pipe that ends"])
def test_a_log_that_takes_no_more(log, server, tmp_path, monkeypatch):
    """A full disk behind the bar is no reason to stop; of a pipe that ends the command is told."""
    monkeypatch.setattr(bar, "LOG_SECONDS", 0)
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") if log == "/dev/full" else open(write, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        if log == "/dev/full":
            fetched(tmp_path)
        else:
            with pytest.raises(BrokenPipeError):
                download("caltech101", tmp_path)
            os.dup2(os.open(os.devnull, os.O_WRONLY), write)  # for what is left in the buffer
            assert server.asked == [None], "no transfer that broke off"
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_without_a_length(server, tmp_path):
    server.length = False
    fetched(tmp_path)


def test_a_part_is_resumed(server, tmp_path):
    part(tmp_path, CONTENT[:70_000])
    fetched(tmp_path)
    assert server.asked == ["bytes=70000-"]


def test_a_whole_part_is_taken(server, tmp_path):
    part(tmp_path, CONTENT)
    fetched(tmp_path)
    assert server.asked == ["bytes=200000-"]


@pytest.mark.parametrize("old", [b"x" * 70_000, b"x" * 300_000], ids=["shorter", "longer"])
def test_a_part_of_another_file_is_dropped(server, tmp_path, old):
    part(tmp_path, old)
    fetched(tmp_path)
    assert server.asked[-1] is None


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    part(tmp_path, CONTENT[:70_000])
    fetched(tmp_path)
    assert len(server.asked) == 1


def test_broken_transfers_go_on(server, tmp_path):
    server.cut = 60_000
    fetched(tmp_path)
    assert server.asked == [None, "bytes=60000-", "bytes=120000-", "bytes=180000-"]


def test_a_symlink_is_not_written_through(server, tmp_path):
    (tmp_path / "precious").write_bytes(b"mine")
    part(tmp_path, b"").unlink()
    (tmp_path / "folder" / "file.mat.part").symlink_to(tmp_path / "precious")
    fetched(tmp_path)
    assert (tmp_path / "precious").read_bytes() == b"mine"


def refused(tmp_path, message):
    """One line that names the address and where the file belongs; nothing has its name."""
    with pytest.raises(DownloadError, match=message) as caught:
        download("caltech101", tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert not (tmp_path / "folder" / "file.mat").exists()
    return line


def test_always_cut_short_without_ranges(server, tmp_path):
    server.ranges, server.cut = False, 60_000
    refused(tmp_path, "the transfer breaks off; fetch by other means")
    assert (tmp_path / "folder" / "file.mat.part").stat().st_size == 60_000


def test_nothing_more_comes(server, tmp_path):
    server.cut = 0
    refused(tmp_path, "the transfer breaks off")


def test_wrong_checksum(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    line = refused(tmp_path, "what comes has another checksum")
    assert f"{server.url}/file.mat to '{tmp_path / 'folder' / 'file.mat'}'" in line
    assert not list((tmp_path / "folder").iterdir())


def test_wrong_range(server, tmp_path):
    server.shift = 1
    part(tmp_path, CONTENT[:70_000])
    refused(tmp_path, "another range comes than was asked for")


def test_missing_names_all_that_is_to_be_fetched(server, tmp_path, monkeypatch):
    publish(monkeypatch, f"{server.url}/file.mat", f"{server.url}/missing.mat", f"{server.url}/missing2.mat")
    with pytest.raises(DownloadError, match="HTTP Error 404") as caught:
        download("caltech101", tmp_path)
    assert str(caught.value).count("missing2.mat") == 2
    assert "/file.mat to" not in str(caught.value)


@pytest.mark.parametrize("held", [0, 70_000])
def test_server_gone(server, tmp_path, monkeypatch, held):
    publish(monkeypatch, "http://127.0.0.1:1/file.mat")
    part(tmp_path, CONTENT[:held])
    refused(tmp_path, r"http://127.0.0.1:1/file.mat: .*refused; fetch by other means http://127.0.0.1:1/file.mat to '/")
    assert (tmp_path / "folder" / "file.mat.part").stat().st_size == held


def test_a_silent_server(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.1)
    server.shutdown()  # connections are taken, nobody answers
    refused(tmp_path, "timed out|TimeoutError")


def test_an_endless_file(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 100_000)
    server.length = False
    refused(tmp_path, "more than 100000 bytes come")
    assert (tmp_path / "folder" / "file.mat.part").stat().st_size < 200_000


def test_another_file_of_the_name_is_left_alone(server, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.mat").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="not the published file"):
        download("caltech101", tmp_path)
    assert (tmp_path / "folder" / "file.mat").read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["file.mat", "mnist/file.mat", "omniglot/file.mat.gz", "file.mat.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_copy_that_load_would_read_is_recognised(server, tmp_path, monkeypatch, place, pack, suffix):
    """Packed or not, at any place where `load` looks; nothing is asked of the server."""
    publish(monkeypatch, f"{server.url}/file.mat{suffix}")
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pack(CONTENT))
    assert download("caltech101", tmp_path) == [path]
    assert server.asked == []
    path.write_bytes(pack(CONTENT[1:]))
    with pytest.raises(DownloadError, match="not the published file, its checksum differs; move it away"):
        download("caltech101", tmp_path)


def test_a_packed_file_is_checked_by_what_is_in_it(server, tmp_path, monkeypatch):
    publish(monkeypatch, f"{server.url}/file.mat.gz")
    server.content = gzip.compress(CONTENT, 1)
    (path,) = download("caltech101", tmp_path)
    assert path.read_bytes() == server.content
    path.unlink()
    server.content = server.content[:-9] + b"x" * 9
    with pytest.raises(DownloadError, match="what comes has another checksum"):
        download("caltech101", tmp_path)


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "folder").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"folder.*File exists"):
        download("caltech101", tmp_path)
    with pytest.raises(
        DownloadError, match="'digits': one of dynamic-mnist, static-mnist, caltech101, omniglot wanted"
    ):
        download("digits", tmp_path)


def test_the_command(server, tmp_path, capsys):
    assert cli.main(["data", "download", "caltech101", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'folder' / 'file.mat'}: checksum fits\n"
    server.content = b"other"
    assert cli.main(["data", "download", "caltech101", "--data-dir", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"vlae-fast: {server.url}/file.mat: what comes has")


def test_published_files_lie_where_they_are_looked_for():
    names = {file.name for remote in PUBLISHED.values() for file in remote}
    assert {name.removesuffix(".gz") for name in names} >= {"train-images-idx3-ubyte", "chardata.mat"}
    for remote in PUBLISHED.values():
        for file in remote:
            assert file.folder in files.FOLDERS
            assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", file.checksum)
