"""download.py, against a local server: what is there is left alone, what is whole and right arrives, nothing else."""

import errno
import gzip
import hashlib
import http.server
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diffnotes import download
from diffnotes.download import cache_folder, check, fetch

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

CONTENT = bytes(i * i % 251 for i in range(200_000))
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one content at every path, as well or as badly as its attributes say, and keeps count."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks: list[int] = []  # after so many bytes of an answer, the connection is cut: once each
        self.status = 0  # answers with this error instead
        self.chunked = False  # sends no length, and one chunk that is longer than what comes
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, body = self.server, self.server.content
        server.asked += 1
        if server.status:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"fffff\r\n" + body)  # 2^20 - 1 bytes are promised
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Server]]:
    """Two servers on this machine, which no proxy stands before."""
    monkeypatch.setenv("no_proxy", "*")
    started = [Server(), Server()]
    for server in started:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(servers: list[Server]) -> Server:
    return servers[0]


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- one address ------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_and_then_left_alone(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    for _ in range(2):
        assert fetch(path, [server.url], SUM) == path.read_bytes() == CONTENT
    assert server.asked == 1
    assert left_in(path.parent) == {"file"}


def test_nothing_is_fetched_where_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("the network was asked"))
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert fetch(path, ["http://nowhere.invalid/"], SUM) == CONTENT
    path.write_bytes(CONTENT[:-1])
    found = hashlib.sha256(CONTENT[:-1]).hexdigest()
    with pytest.raises(ValueError, match=rf"the SHA-256 of .*file must be {SUM}, got {found}"):
        fetch(path, ["http://nowhere.invalid/"], SUM)
    assert path.exists()  # what the user put there is the user's


def test_what_broke_off_is_tried_once_more(server: Server, tmp_path: Path) -> None:
    server.breaks = [70_000]
    fetch(tmp_path / "once", [server.url], SUM)
    assert (tmp_path / "once").read_bytes() == CONTENT
    server.breaks = [1, 70_000]
    with pytest.raises(OSError, match=f"broke off after 70000 of {len(CONTENT)} bytes"):
        fetch(tmp_path / "twice", [server.url], SUM)
    assert left_in(tmp_path) == {"once"}
    assert server.asked == 4


@pytest.mark.parametrize("gz", [False, True])
def test_wrong_bytes_are_one_error_with_both_sums(server: Server, tmp_path: Path, gz: bool) -> None:
    wrong = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.content = gzip.compress(wrong) if gz else wrong
    found = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(OSError, match=rf"^file could not be downloaded: .*must be {SUM}, got {found}$"):
        fetch(tmp_path / "file", [server.url], SUM, gz=gz)
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("garbage", [b"<html>please log in</html>", gzip.compress(CONTENT)[:-9], b""])
def test_what_does_not_decompress_is_refused(server: Server, tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(garbage)
    with pytest.raises(ValueError, match=rf"must be {SUM}, got (a file that does not decompress|e3b0c44298)"):
        check(path, SUM, gz=True)  # e3b0..: nothing decompresses to nothing
    path.unlink()
    if garbage:
        server.content = garbage
        with pytest.raises(OSError, match="does not decompress"):
            fetch(path, [server.url], SUM, gz=True)
        assert left_in(tmp_path) == set()


def test_the_content_counts_and_not_how_it_is_packed(server: Server, tmp_path: Path) -> None:
    for level in (1, 9):
        server.content, path = gzip.compress(CONTENT, level), tmp_path / str(level)
        assert fetch(path, [server.url], SUM, gz=True) == CONTENT
        assert path.read_bytes() == server.content
        assert check(path, SUM, gz=True) == CONTENT
    with pytest.raises(ValueError, match=SUM):
        check(path, SUM)


# ---- several addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["status", "content", "breaks", "chunked", "nobody", "no address"])
def test_the_second_mirror_helps(servers: list[Server], tmp_path: Path, failure: str) -> None:
    first, second = servers
    url = first.url
    match failure:
        case "status":
            first.status = 503
        case "content":
            first.content = CONTENT[::-1]
        case "breaks":
            first.breaks = [70_000]
        case "chunked":
            first.chunked = True
        case "nobody":
            url = "http://127.0.0.1:9/file"  # the port of "discard", where nobody listens
        case "no address":
            url = "file"
    fetch(tmp_path / "file", [url, second.url], SUM)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert (first.asked, second.asked) == (0 if failure.startswith("no") else 1, 1)
    assert left_in(tmp_path) == {"file"}


def test_when_none_helps_every_reason_is_given(servers: list[Server], tmp_path: Path) -> None:
    first, second = servers
    first.status, second.content = 404, b"wrong"
    reasons = rf"{first.url}: .*404.*; {second.url}: .*must be {SUM}, got {hashlib.sha256(b'wrong').hexdigest()}"
    with pytest.raises(OSError, match=rf"^file could not be downloaded: {reasons}$"):
        fetch(tmp_path / "file", [first.url, second.url], SUM)
    assert (first.asked, second.asked) == (2, 2)


def test_no_network_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    with pytest.raises(OSError, match=r"could not be downloaded: http://a/: .*unreachable.*; http://b/: .*unreach"):
        fetch(tmp_path / "file", ["http://a/", "http://b/"], SUM)
    assert left_in(tmp_path) == set()


# ---- the disk ---------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_clear_error(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.tqdm, "update", full)  # called after each chunk that is written
    with pytest.raises(OSError, match=r"could not be downloaded: .*No space left on device"):
        fetch(tmp_path / "file", [server.url], SUM)
    assert left_in(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_seen_before_the_download(server: Server, tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    with pytest.raises(OSError, match="no folder"):
        fetch(tmp_path / "no folder" / "file", [server.url], SUM)
    assert server.asked == 0


def test_several_may_fetch_one_file_at_once(server: Server, tmp_path: Path) -> None:
    """Also where the file system has no locks: there are none."""
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: fetch(tmp_path / "file", [server.url], SUM), range(4)))) == 4
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert left_in(tmp_path) == {"file"}


# ---- around it --------------------------------------------------------------------------------------------------


def test_the_bar_counts_bytes_and_is_silent_unless_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(tmp_path / "quiet", [server.url], SUM)
    assert capsys.readouterr() == ("", "")
    fetch(tmp_path / "shown", [server.url], SUM, progress=True)
    assert "195k/195k" in capsys.readouterr().err


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DIFFNOTES_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "diffnotes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "diffnotes"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().is_absolute()
    monkeypatch.setenv("DIFFNOTES_DATA", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
