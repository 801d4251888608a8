"""Downloads of published files: resumed when cut off, and compared with their SHA-256 before they
get their name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from bnas_larq.errors import WeightsError, one_line
from bnas_larq.files import sha256 as sum_of

if TYPE_CHECKING:
    import requests

SCHEMES = ("https", "http", "file")
#: Seconds until a connection must stand, and between two pieces of data.
TIMEOUT = (15, 60)
#: Connections in a row that may bring nothing new before a download is given up.
FRUITLESS = 3
#: Seconds before the next connection; doubled after a fruitless one.
PAUSE = 0.5
#: Of a file whose size is not known beforehand. No network here is that large.
MAX_BYTES = 2_000_000_000
#: What a cut-off connection may lose.
_PIECE = 1 << 14


class _CutOff(Exception):
    """The transfer ended before its time; what came is kept, to go on from there."""


def download(url: str, path: str | Path, *, sha256: str, size: int | None = None) -> Path:
    """Make `path` the file with this SHA-256, from `url` unless it is here already.

    What a cut-off transfer brought stays beside `path` under the suffix `.part`; the next call goes
    on from there if the server can (HTTP ranges).

    Args:
        url: http, https or file.
        path: where the file is put, once it is whole and verified.
        sha256: 64 hexadecimal digits.
        size: bytes, if known; a longer file is never fetched beyond it.

    Raises:
        WeightsError: it cannot be had, it is too large, or its sum is another; then nothing is put
            in place, and an earlier file at `path` is untouched.
    """
    try:
        known = urlsplit(url).scheme in SCHEMES
    except ValueError:  # such as http://[x
        known = False
    if not known:
        raise WeightsError(
            f"A download's URL begins with {', '.join(SCHEMES)}. Received: {url!r}. Correct it."
        )
    path = Path(path)
    part = path.with_name(f"{path.name}.{sha256[:12]}.part")
    try:
        if _is_here(path, sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(part):
            if not _is_here(path, sha256):  # another process may have fetched it meanwhile
                if path.exists():
                    warnings.warn(
                        f"{path} is not as it was published; downloading it again.", stacklevel=2
                    )
                _fetch(url, part, sha256, size)
                os.replace(part, path)
    except OSError as error:
        raise WeightsError(
            f"A download must be written to disk. Received: {one_line(error)}. "
            "Free space, or let the variable KERAS_HOME name another folder, and try again."
        ) from error
    return path


def _fetch(url: str, part: Path, sha256: str, size: int | None) -> None:
    """Fill `part` with the file of this sum, or remove it and raise WeightsError."""
    resumed = part.exists() and part.stat().st_size > 0
    _transfer(url, part, size)
    if resumed and sum_of(part) != sha256:
        # The earlier part may have been another version's, or damaged: once more, from nothing.
        part.unlink()
        _transfer(url, part, size)
    if (received := sum_of(part)) != sha256:
        part.unlink()
        raise WeightsError(
            f"A download must have the SHA-256 it was published with, {sha256[:12]}…. "
            f"Received: {received[:12]}… from {url}; it was deleted. "
            "Try again later, and if it stays so, report it: do not use that file."
        )


def _transfer(url: str, part: Path, size: int | None) -> None:
    """Get the whole file into `part`, over as many connections as it takes."""
    if part.exists() and part.stat().st_size > _limit(size):
        part.unlink()
    fruitless = most = 0
    with _progress(url, size) as show:
        while True:
            most = max(most, part.stat().st_size if part.exists() else 0)
            if size is not None and most == size:
                return
            try:
                return _connect(url, part, size, show)
            except _CutOff as error:
                now = part.stat().st_size if part.exists() else 0
                fruitless = 0 if now > most else fruitless + 1
                if fruitless >= FRUITLESS:
                    of = f" of {size:,}" if size is not None else ""
                    raise WeightsError(
                        "A download must reach its end. "
                        f"Received: {now:,}{of} bytes of {url} ({one_line(error)[:120]}). "
                        "Check the connection and try again: it goes on from there."
                    ) from error
                time.sleep(PAUSE * 2**fruitless)


def _connect(
    url: str, part: Path, size: int | None, show: Callable[[int, int | None], None]
) -> None:
    """One connection: append to `part` what is missing, or all if the server knows no ranges.

    Raises:
        _CutOff: before the end.
        WeightsError: a refusal, or more bytes than `size`.
    """
    if urlsplit(url).scheme == "file":
        return _copy(url, part, _limit(size))
    import requests
    import urllib3

    start = part.stat().st_size if part.exists() else 0
    # Without compression: ranges and sizes are those of the file itself.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                part.unlink(missing_ok=True)  # longer than the file: not a part of it
                raise _CutOff("the server has no such range")
            if not response.ok:
                _refuse(url, response)
            if start and not _goes_on_at(start, response):
                start = 0
            _write(response, part, start, size, show)
    # requests passes on what urllib3 and urllib raise for impossible hosts and redirections.
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise _CutOff(one_line(error)) from error


def _write(
    response: requests.Response,
    part: Path,
    start: int,
    size: int | None,
    show: Callable[[int, int | None], None],
) -> None:
    announced = response.headers.get("Content-Length", "")
    end = start + int(announced) if announced.isdecimal() else size
    limit = _limit(size)
    if end is not None and end > limit:
        _too_large(response.url, part, limit)
    here = start
    with open(part, "r+b" if start else "wb") as stream:
        stream.seek(start)
        stream.truncate()
        for piece in response.iter_content(_PIECE):
            here += len(piece)
            if here > limit:
                stream.close()
                _too_large(response.url, part, limit)
            stream.write(piece)
            show(here, end)
    # Not every version of requests and urllib3 notices that the connection closed too early.
    if end is not None and here < end:
        raise _CutOff(f"the connection closed after {here:,} bytes")


def _goes_on_at(start: int, response: Any) -> bool:
    """Whether the answer is what lies behind the first `start` bytes."""
    place = response.headers.get("Content-Range", "")
    return response.status_code == 206 and place.startswith(f"bytes {start}-")


def _refuse(url: str, response: requests.Response) -> None:
    problem = f"{response.status_code} {response.reason}"
    if response.status_code >= 500:
        raise _CutOff(problem)
    raise WeightsError(
        f"A published file must be where its entry says. Received: {problem} for {url}. "
        "Update bnas-larq or the entry."
    )


def _too_large(url: str, part: Path, limit: int) -> None:
    part.unlink(missing_ok=True)
    raise WeightsError(
        "A download must not be larger than its entry says. "
        f"Received: more than {limit:,} bytes from {url}; "
        "nothing of it was kept. Do not use that file."
    )


def _copy(url: str, part: Path, limit: int) -> None:
    """A file URL: on this machine or a mounted disk."""
    source = Path(url2pathname(urlsplit(url).path))
    if urlsplit(url).netloc not in ("", "localhost") or not source.is_file():
        raise WeightsError(
            f"A published file must be where its entry says. Received: {url}, which is no file. "
            "Correct the entry or restore the file."
        )
    if source.stat().st_size > limit:
        _too_large(url, part, limit)
    shutil.copyfile(source, part)


def _limit(size: int | None) -> int:
    return MAX_BYTES if size is None else size


def _is_here(path: Path, sha256: str) -> bool:
    return path.is_file() and sum_of(path) == sha256


@contextlib.contextmanager
def _lock(part: Path) -> Iterator[None]:
    """Only one process writes a part; a second one waits here until the first has done."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock: there the user takes care
        yield
        return
    with open(part.with_name(f".{part.name}.lock"), "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _progress(url: str, size: int | None) -> Iterator[Callable[[int, int | None], None]]:
    """On a terminal a bar with the time left, otherwise one line; on stderr."""
    name = urlsplit(url).path.rsplit("/", 1)[-1] or url
    if not sys.stderr.isatty():
        of = f" ({size:,} bytes)" if size is not None else ""
        print(f"downloading {name}{of} from {urlsplit(url).netloc}", file=sys.stderr, flush=True)
        yield lambda here, end: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"downloading {name}", total=size)
        yield lambda here, end: bar.update(task, completed=here, total=size or end)
