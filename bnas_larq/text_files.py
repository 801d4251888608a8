"""Text of files as data: regular files only, of bounded size, depth and numbers.

A run's files may be damaged, and a recipe may be a stranger's: a device without end, lists nested a
million deep, aliases that multiply, numbers of a million digits. Every function here raises OSError
if the system refuses a file, and ValueError for whatever is wrong inside it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from bnas_larq.errors import one_line

#: Of any text file; a confusion matrix of 3,000 classes has 20 MB.
MAX_BYTES = 64 * 2**20
#: PyYAML reads some 100 kB a second; the longest shipped recipe has 3 kB.
MAX_YAML_BYTES = 2**18
#: Levels of nested lists and mappings in YAML, and values, counting those of an alias each time.
_MAX_DEPTH, _MAX_VALUES = 50, 100_000
#: Beyond floats and what Python prints. In YAML also hexadecimal (0xff) and in base 60 (1:30:00).
_HUGE = re.compile(r"(?<!\d)\d{300}")
_HUGE_YAML = re.compile(r"(?<![\da-fA-F_:])[\da-fA-F_:]{300}")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading: no folder, device or pipe, which might never end."""
    # Without this flag, which Windows lacks, a pipe would wait for its writer.
    waits_not = getattr(os, "O_NONBLOCK", 0)
    stream = open(path, "rb", opener=lambda path, flags: os.open(path, flags | waits_not))
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError("not a regular file")
    return stream


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold a text, and a system's path can be it: no lone surrogates, which stand
    for bytes of a foreign encoding, and no NUL."""
    return "\0" not in text and text.encode(errors="replace").decode() == text


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes."""
    with open_regular(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return content


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """The UTF-8 text of a regular file of at most `limit` bytes."""
    return read_bytes(path, limit).decode()


def check_numbers(text: str) -> str:
    """JSON text, refused if a number in it has hundreds of digits."""
    if _HUGE.search(text):
        raise ValueError("a number of 300 digits or more")
    return text


def parse_json(text: str) -> Any:
    """JSON, nested at most 200 deep; NaN and Infinity are numbers, as Python writes them."""
    from pydantic_core import from_json

    return from_json(check_numbers(text).encode())


def read_yaml(path: str | Path) -> Any:
    """`parse_yaml` of a file."""
    return parse_yaml(read_text(path, MAX_YAML_BYTES))


def parse_yaml(text: str) -> Any:
    """Safe YAML without repeated keys, of which PyYAML takes the last one."""
    if _HUGE_YAML.search(text):
        raise ValueError("a number of 300 digits or more")
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ValueError(one_line(error)) from error
    except Exception as error:  # whatever int, float, date and dict raise
        raise ValueError(f"a value that is not what its form says ({one_line(error)})") from error


class _Loader(yaml.SafeLoader):
    """Counts what it composes, before anything is made of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.values = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        before, alias = self.values, self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        self.depth += 1
        _require(self.depth <= _MAX_DEPTH, f"more than {_MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        _require(not alias or id(node) in self.sizes, "an alias inside its own anchor", mark)
        self.values += self.sizes[id(node)] if alias else 1
        _require(self.values <= _MAX_VALUES, f"more than {_MAX_VALUES:,} values", mark)
        self.sizes.setdefault(id(node), self.values - before)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.Node:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                _require(
                    key.value not in seen, f"the key {key.value!r} is repeated", key.start_mark
                )
                seen.add(key.value)
                # YAML 1.1 takes the key `on` for true.
                if key.tag == "tag:yaml.org,2002:bool":
                    key.tag = "tag:yaml.org,2002:str"
        return node


def _require(sound: bool, problem: str, mark: yaml.Mark) -> None:
    if not sound:
        raise yaml.composer.ComposerError(None, None, problem, mark)
