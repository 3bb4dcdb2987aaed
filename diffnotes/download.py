"""Download a file from the first address that delivers it, and check it before it gets its name."""

import gzip
import hashlib
import os
import secrets
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 2**18  # bytes read at a time


def cache_folder() -> Path:
    """Where downloads are kept: $DIFFNOTES_DATA, or `diffnotes` in the user's cache folder."""
    if chosen := os.environ.get("DIFFNOTES_DATA"):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home folder
        cache = tempfile.gettempdir()
    return Path(cache) / "diffnotes"


def fetch(path: Path, urls: Sequence[str], sha256: str, gz: bool = False, progress: bool = False) -> Path:
    """`path`, downloaded unless it exists, from the first of `urls` that delivers; each is tried twice.

    The file gets its name only when it is whole and its SHA-256 is right, so several processes may fetch it at once.

    Args:
        sha256: of the file, or with `gz` of its decompressed content (mirrors may compress it differently).
        progress: show a bar in bytes.

    Raises:
        ValueError: the file exists and has another SHA-256.
        OSError: every address failed (the message says why), or the folder cannot be written.
    """
    if path.exists():
        check(path, sha256, gz)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    reasons: dict[str, str] = {}
    try:
        part.touch()
        for url in (*urls, *urls):
            try:
                _download(url, part, progress)
                check(part, sha256, gz)
            except (OSError, ValueError, HTTPException) as error:
                reasons[url] = f"{url}: {error or type(error).__name__}"
            else:
                os.replace(part, path)
                return path
    finally:
        part.unlink(missing_ok=True)
    raise OSError(f"{path.name} could not be downloaded: {'; '.join(reasons.values())}")


def check(path: Path, sha256: str, gz: bool = False) -> bytes:
    """The content of a file, decompressed if `gz` is set; a wrong SHA-256 is a ValueError that shows both sums."""
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
    request = urllib.request.Request(url)
    with urllib.request.urlopen(request, timeout=30) as answer, open(part, "wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        with tqdm(total=total or None, unit="B", unit_scale=True, disable=not progress) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if file.tell() < total:
            raise OSError(f"the connection broke off after {file.tell()} of {total} bytes")
