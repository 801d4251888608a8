"""Downloads of published files, compared with their SHA-256 before they get their name."""

from __future__ import annotations

import io
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bnas_larq.console import say
from bnas_larq.errors import WeightsError, one_line
from bnas_larq.files import sha256 as sum_of

if TYPE_CHECKING:
    import requests

SCHEMES = ("https", "http", "file")
#: Seconds to connect, and between two pieces of data.
TIMEOUT = (15, 60)
#: Connections before a download is given up, and seconds between them, doubled each time.
ATTEMPTS, PAUSE = 3, 0.5
#: Of any file, whatever its entry says. No network here is that large.
MAX_BYTES = 2_000_000_000


def download(url: str, path: str | Path, *, sha256: str, size: int | None = None) -> Path:
    """Make `path` the file with this SHA-256, from `url` (http, https or file) unless it is here
    already. At most `size` bytes, if they are known, and at most MAX_BYTES are fetched.

    Raises:
        WeightsError: it cannot be fetched, is too large or has another sum. Then nothing is put in
            place, and an earlier file at `path` is untouched.
    """
    import filelock

    try:
        known = urlsplit(url).scheme in SCHEMES
    except ValueError:  # such as http://[x
        known = False
    if not known:
        raise WeightsError(
            f"A download's URL begins with {', '.join(SCHEMES)}. Received: {url!r}. Correct it."
        )
    path = Path(path)
    try:
        if _is_here(path, sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            if _is_here(path, sha256):  # another process has fetched it meanwhile
                return path
            if path.exists():
                warnings.warn(
                    f"{path} is not as it was published; downloading it again.", stacklevel=2
                )
            of_size = "" if size is None else f" ({size:,} bytes)"
            say(f"downloading {path.name}{of_size} from {urlsplit(url).netloc or 'this machine'}")
            part = path.with_name(f".{path.name}.part")
            try:
                _fetch(url, part, MAX_BYTES if size is None else min(size, MAX_BYTES))
                if (received := sum_of(part)) != sha256:
                    raise WeightsError(
                        "A download must have the SHA-256 it was published with, "
                        f"{sha256[:12]}…. Received: {received[:12]}… from {url}; it was deleted. "
                        "Try again later. If it stays so, report it: do not use that file."
                    )
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"A download must be written to disk. Received: {one_line(error)}. "
            "Free space, or name another folder in the variable KERAS_HOME, and try again."
        ) from error
    return path


def _is_here(path: Path, sha256: str) -> bool:
    return path.is_file() and sum_of(path) == sha256


def _fetch(url: str, target: Path, limit: int) -> None:
    """Write what `url` holds to `target`; WeightsError if it cannot be had or exceeds `limit`."""
    import pooch
    import requests
    import urllib3

    if urlsplit(url).scheme == "file":
        return _copy(url, target, limit)
    # Uncompressed: the limit and the sum are those of the file itself.
    headers = {"Accept-Encoding": "identity"}
    hooks = {"response": _without_body}
    get = pooch.HTTPDownloader(chunk_size=1 << 16, timeout=TIMEOUT, headers=headers, hooks=hooks)
    for attempt in range(ATTEMPTS):
        try:
            with _LimitedFile(target, url, limit) as file:
                return get(url, file, None)
        # requests passes on what urllib3 and urllib raise for impossible hosts and redirections.
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            problem = one_line(error)[:160]
            if isinstance(error, requests.HTTPError):
                problem = f"{error.response.status_code} {error.response.reason}"
                if error.response.status_code < 500:
                    raise _not_there(f"{problem} for {url}") from error
            if attempt == ATTEMPTS - 1:
                raise WeightsError(
                    f"A download must reach its end. Received: {url} ({problem}). "
                    "Check the connection and try again."
                ) from error
            time.sleep(PAUSE * 2**attempt)


def _without_body(response: requests.Response, **_: Any) -> None:
    """requests reads the body of a redirection into memory, however long it is."""
    if response.is_redirect:
        response.close()


class _LimitedFile(io.BufferedWriter):
    """A new file that refuses to grow beyond `limit` bytes."""

    def __init__(self, path: Path, url: str, limit: int) -> None:
        path.unlink(missing_ok=True)  # of an earlier attempt, or a link
        super().__init__(io.FileIO(path, "x"))
        self._url, self._limit = url, limit

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > self._limit:
            raise _too_large(self._url, self._limit)
        return super().write(data)


def _copy(url: str, target: Path, limit: int) -> None:
    """The file of a file URL, on this machine or a mounted disk."""
    source = Path(url2pathname(urlsplit(url).path))
    if urlsplit(url).netloc not in ("", "localhost") or not source.is_file():
        raise _not_there(f"{url}, which is no file")
    with open(source, "rb") as stream, _LimitedFile(target, url, limit) as file:
        shutil.copyfileobj(stream, file)


def _not_there(received: str) -> WeightsError:
    return WeightsError(
        f"A published file must be where its entry says. Received: {received}. "
        "Update bnas-larq or the entry."
    )


def _too_large(url: str, limit: int) -> WeightsError:
    return WeightsError(
        f"A download must not be larger than its entry says, nor than {MAX_BYTES:,} bytes. "
        f"Received: more than {limit:,} bytes from {url}. Do not use that file."
    )
