"""Files and folders that are complete or absent, even after a kill; JSON and JSON lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import reprlib
import shutil
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bnas_larq.errors import BnasLarqError, RunError, first_problem, nearest, one_line
from bnas_larq.text_files import check_numbers, open_regular, parse_json, read_bytes, read_text

if TYPE_CHECKING:
    import pydantic

    Model = TypeVar("Model", bound=pydantic.BaseModel)

#: Of files that hold a whole Keras model.
MODEL_SUFFIXES = (".h5", ".hdf5", ".keras")

_DAY = 24 * 60 * 60
#: Of 255 that file systems allow.
_NAME_BYTES = 200


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: str | Path, content: str | bytes | Iterable[bytes]) -> Path:
    """Write a file completely or not at all: under a temporary name, flushed, then renamed.

    RunError if it cannot be written (full disk, no permission); an earlier file is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a killed process that had our number
        with open(temporary, "xb") as stream:  # follows no link, unlike "wb"
            for part in [content] if isinstance(content, bytes) else content:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(
            f"A result must be written to disk. Received: {one_line(error)}. "
            "Free space or choose another folder, then resume; progress is kept."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def temporary_folder(target: Path) -> Path:
    """A new empty folder beside `target`, to be filled and passed to `replace_folder`.

    First cleans up after killed processes: a `target` that one had moved away comes back, and
    half-filled folders with this process' number, or a day old, are deleted (younger ones may be
    another machine's, on a shared disk). OSError if the new one cannot be made.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+\.tmp(\.old)?")
    for leftover in sorted(target.parent.iterdir()):
        match = pattern.fullmatch(leftover.name)
        if not match or leftover.is_symlink():
            continue
        if match[1] and not os.path.lexists(target):
            os.replace(leftover, target)
        elif match[0].startswith(temporary.name) or time.time() - leftover.stat().st_mtime > _DAY:
            shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    return temporary


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new`, made by `temporary_folder(target)`, to `target`.

    The old folder is deleted last, and put back if the rename fails with an OSError: `target` is
    never half filled.
    """
    old = target.with_name(f"{new.name}.old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def expand_home(path: str | os.PathLike[str]) -> str:
    """`path` from the root if it begins with `~`, which shells leave in `--out=~/x` and in YAML;
    BnasLarqError if there is no such home folder."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise BnasLarqError(
            "A path with ~ in front begins in a home folder that exists. "
            f"Received: {expanded!r}. Correct the user's name, or put ./ in front."
        )
    return expanded


def is_plain_name(text: str) -> bool:
    """Whether `text` can only name a file or folder inside the folder it is put in, and can be
    shown: printable, without `/`, no dot in front, short enough for a suffix."""
    printable = text.isprintable() and len(text.encode()) <= _NAME_BYTES
    return printable and text != "" and "/" not in text and not text.startswith(".")


def check_plain_tree(root: Path) -> None:
    """Raise RunError if anything below `root` is neither a file nor a folder: what is written
    through a link changes what is elsewhere, and a pipe never ends."""
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                mode = os.lstat(path).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    kind = "a link" if stat.S_ISLNK(mode) else "neither"
                    raise RunError(
                        "A run folder holds regular files and real folders only. "
                        f"Received: {path}, which is {kind}. Remove it, or put a copy in its place."
                    )


def visible_files(root: Path) -> list[str]:
    """Names in `root` of all files but hidden ones, bytes that are no UTF-8 as escapes; `os.walk`
    tolerates that some vanish."""
    paths = (Path(parent, name) for parent, _, names in os.walk(root) for name in names)
    names = (path.relative_to(root) for path in paths)
    visible = (n.as_posix() for n in names if not any(p.startswith(".") for p in n.parts))
    return sorted(name.encode(errors="backslashreplace").decode() for name in visible)


def read_json(path: str | Path) -> Any:
    """Read a run's JSON file; RunError if it is damaged."""
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise RunError(
            f"A run folder's {Path(path).name} must be readable JSON. "
            f"Received: {path} ({one_line(error)}). Restore the file or start a new run."
        ) from error


def read_model(
    path: str | Path,
    model: type[Model],
    *nested: type[pydantic.BaseModel],
    subject: str,
    remedy: str,
    error: type[BnasLarqError] = RunError,
) -> Model:
    """Read a JSON file as a pydantic model, or raise `error` with the first thing that is wrong.

    Args:
        nested: models inside `model`. A field's `description` completes "… must be"; so does the
            message of a validator's ValueError.
        subject: what the file is, such as "A zoo entry".
        remedy: the way out, a sentence.
    """
    import pydantic

    try:
        return model.model_validate_json(check_numbers(read_text(path)))
    except pydantic.ValidationError as cause:
        raise error(_explain(cause, (model, *nested), subject, str(path), remedy)) from cause
    except (OSError, ValueError) as cause:
        raise error(
            f"{subject} must be readable JSON. Received: {path} ({one_line(cause)[:120]}). {remedy}"
        ) from cause


def read_record(path: str | Path, model: type[pydantic.BaseModel]) -> dict[str, Any]:
    """The values of a run's JSON file as they stand in it; RunError unless `model` accepts them."""
    return _checked(read_json(path), model, Path(path))


def read_rows(path: str | Path, model: type[pydantic.BaseModel]) -> list[dict[str, Any]]:
    """`read_lines`; RunError unless `model` accepts every row."""
    return [
        _checked(row, model, Path(path), f", line {number}")
        for number, row in enumerate(read_lines(path), 1)
    ]


def read_rows_to_resume(
    path: str | Path, model: type[pydantic.BaseModel], key: str
) -> list[dict[str, Any]]:
    """`read_rows` of a log that goes on: a last line that a kill has cut off is removed from it.

    Args:
        key: holds a row's number.
    """
    rows = read_rows(path, model)
    keep_lines_before(path, len(rows), key=key)
    return rows


def _checked(values: Any, model: type[pydantic.BaseModel], path: Path, line: str = "") -> Any:
    import pydantic

    try:
        model.model_validate(values)
    except pydantic.ValidationError as cause:
        problem = first_problem(cause)
        value = "nothing" if problem["type"] == "missing" else reprlib.repr(problem["input"])
        key = one_line(".".join(map(str, problem["loc"])))[:80]
        raise RunError(
            f"A run's {path.name} must hold {model.holds}. "
            f"Received: {one_line(value)}{key and f' as {key}'} in {path}{line}. {model.remedy}"
        ) from cause
    return values


def _explain(
    error: pydantic.ValidationError,
    models: tuple[type[pydantic.BaseModel], ...],
    subject: str,
    where: str,
    remedy: str,
) -> str:
    """Rule, Received, way out."""
    problem = first_problem(error)
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    location = [str(part) for part in problem["loc"]]
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return f"{subject} must be readable JSON. Received: {where} ({message[:120]}). {remedy}"
    if kind in ("missing", "extra_forbidden"):
        key, inside = location[-1], one_line(".".join(location[:-1]))[:80]
        where += f", {inside}" if inside else ""
        if kind == "missing":
            return f"{subject} needs every key. Received: no {key!r} in {where}. {remedy}"
        received = f"{one_line(key)[:40]!r} in {where}; {nearest(key, fields)}"
        return f"{subject} has fixed keys. Received: {received}"
    key = next((part for part in reversed(location) if part in fields), "")
    description = fields[key].description if key else None
    rule = message if kind == "value_error" else description or f"valid: {message}"
    if not key:
        return f"{subject} must be {rule}. Received: {where}. {remedy}"
    value = one_line(repr(problem["input"]))
    value = value if len(value) <= 80 else f"{value[:80]}…"
    return f"{subject}'s {key!r} must be {rule}. Received: {value} in {where}. {remedy}"


def write_json(path: str | Path, values: Any) -> Path:
    """Write indented JSON atomically."""
    return write_atomic(path, json.dumps(values, indent=1, allow_nan=True) + "\n")


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, without a last line that a kill has cut off; RunError if
    another one is damaged."""
    path = Path(path)
    if not path.exists():
        return []
    try:
        # Bytes that are no text, which a crash leaves at the end.
        lines = read_bytes(path).decode(errors="replace").splitlines()
    except (OSError, ValueError) as error:
        raise _damaged_lines(path, one_line(error)) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):
            raise _damaged_lines(path, f"line {number}")
    return rows


def _damaged_lines(path: Path, problem: str) -> RunError:
    return RunError(
        f"A run's {path.name} must hold one JSON object on each line. "
        f"Received: {path} ({problem}). Restore the file, or start a new run."
    )


def append_line(path: str | Path, row: Mapping[str, Any]) -> None:
    """Append one object to a JSON-lines file and flush it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def keep_lines_before(path: str | Path, number: int, key: str = "epoch") -> None:
    """Drop the lines whose `key` is `number` or more: a resumed run writes them again. RunError as
    of `read_lines`, or if a line lacks the key."""
    rows = read_lines(path)
    if not all(isinstance(row.get(key), int) for row in rows):
        raise _damaged_lines(Path(path), f"a line without {key!r}")
    rows = [row for row in rows if row[key] < number]
    if Path(path).exists():
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
