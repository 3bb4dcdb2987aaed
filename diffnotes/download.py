"""One file from the network: tried at several addresses, resumed where it broke off, and checked before it is used.

Of a .gz file the content can be checked, and not the way it was compressed: mirrors compress anew.
"""

import contextlib
import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 2**18  # bytes at a time


def cache_folder() -> Path:
    """Where downloads are kept: $DIFFNOTES_DATA, or `diffnotes` in the user's cache folder."""
    if chosen := os.environ.get("DIFFNOTES_DATA"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diffnotes"


def fetch(path: Path, urls: Sequence[str], sha256: str, gz: bool = False, progress: bool = False) -> Path:
    """`path`, downloaded from the first of `urls` that gives what is wanted, unless it is there already.

    A download that broke off lies beside it as `path.part` and is taken up where it stopped. The file appears under its
    own name only when its SHA-256 is right. Of several processes that want one file, one downloads and the others wait
    (where the system has file locks, which Windows lacks).

    Args:
        sha256: of the file, or of its content after decompression where `gz` is set.
        progress: show a bar in bytes.

    Raises:
        ValueError: what arrived, or what was there, has another SHA-256; what arrived is deleted.
        OSError: no address gave the whole file; the message has the reason of each.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.exists():  # nobody else downloaded it while we waited
                return _first_that_works(path, urls, sha256, gz, progress)
    check(path, sha256, gz)
    return path


def _first_that_works(path: Path, urls: Sequence[str], sha256: str, gz: bool, progress: bool) -> Path:
    part = path.with_name(path.name + ".part")
    reasons: list[str] = []
    kind: type[Exception] = OSError
    for url in urls:
        try:
            _whole(url, part, sha256, gz, progress)
        except ValueError as error:
            kind = ValueError
            reasons.append(f"{url}: {error}")
        except (OSError, HTTPException) as error:
            reasons.append(f"{url}: {error or type(error).__name__}")
        else:
            os.replace(part, path)
            return path
    raise kind(f"{path.name} could not be downloaded: " + "; ".join(reasons))


def _whole(url: str, part: Path, sha256: str, gz: bool, progress: bool) -> None:
    """Download what `part` lacks, and check all of it. A beginning that does not fit is thrown away, once."""
    resumed = part.exists()
    _download(url, part, progress)
    try:
        check(part, sha256, gz)
    except ValueError:
        part.unlink()
        if not resumed:
            raise
        _whole(url, part, sha256, gz, progress)  # the beginning may have been of another address's file


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process is downloading `path`. The lock falls with its process, however that ends."""
    try:
        from fcntl import LOCK_EX, flock
    except ImportError:
        yield
        return
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        flock(lock, LOCK_EX)
        yield


def check(path: Path, sha256: str, gz: bool = False) -> bytes:
    """The content of a file, decompressed where `gz` is set, if it is the one that belongs to this SHA-256.

    Raises:
        ValueError: it is not; the message has both sums.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if gz else content
        found = hashlib.sha256(content).hexdigest()
    except (EOFError, OSError, zlib.error) as error:
        found = f"a file that does not decompress ({error})"
    if found != sha256:
        raise ValueError(f"the SHA-256 of {path} must be {sha256}, got {found}")
    return content


def _download(url: str, part: Path, progress: bool) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is left to send: it was whole, or it is of another file
            return
        raise
    with answer:
        resumed = answer.status == 206  # a server that does not know ranges sends all of it again
        total = int(answer.headers.get("Content-Length") or 0) + (have if resumed else 0)
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(
                total=total or None,
                initial=have if resumed else 0,
                unit="B",
                unit_scale=True,
                disable=not progress,
            ) as bar,
        ):
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
            if total and file.tell() < total:
                raise OSError(f"the connection broke off after {file.tell()} of {total} bytes")
