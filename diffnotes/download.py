"""Download a file from the first address that delivers it, and check it before it gets its name."""

import gzip
import hashlib
import os
import shutil
import tempfile
import urllib.request
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from tqdm.auto import tqdm


def cache_folder() -> Path:
    """Where downloads are kept: $DIFFNOTES_DATA, or `diffnotes` in the user's cache folder."""
    if chosen := os.environ.get("DIFFNOTES_DATA"):
        return Path(chosen)
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home folder
        cache = tempfile.gettempdir()
    return Path(cache) / "diffnotes"


def fetch(path: Path, urls: Sequence[str], sha256: str, gz: bool = False, progress: bool = False) -> bytes:
    """The content of `path`, read by `check`; a file that is not there comes from the first of `urls` that delivers.

    Each is tried twice. The file gets its name only when it is whole and its SHA-256 is right, so several processes may
    fetch it at once.

    Args:
        sha256: of the file, or with `gz` of its decompressed content (mirrors may compress it differently).
        progress: show a bar in bytes.

    Raises:
        ValueError: the file exists and has another SHA-256.
        OSError: every address failed (the message says why), or the folder cannot be written.
    """
    if path.exists():
        return check(path, sha256, gz)
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / "part"
        for url in (*urls, *urls):
            try:
                _download(url, part, progress)
                content = check(part, sha256, gz)
            except (OSError, ValueError, HTTPException) as error:
                reasons[url] = f"{url}: {error or type(error).__name__}"
            else:
                part.replace(path)
                return content
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
    with urllib.request.urlopen(url, timeout=30) as answer, open(part, "wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        with tqdm.wrapattr(answer, "read", total=total or None, disable=not progress) as counted:
            shutil.copyfileobj(counted, file)
        if file.tell() < total:
            raise OSError(f"the connection broke off after {file.tell()} of {total} bytes")
