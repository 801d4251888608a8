"""The configurations that `bnas-larq benchmark` measures, each in a new process: memory freed and
code compiled by one measurement would count in favour of the next.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnas_larq.console import say, stderr_of_children
from bnas_larq.errors import BnasLarqError
from bnas_larq.run.processes import own_command, own_environment

#: The precisions of `both`.
BOTH = ("float32", "bfloat16")


class Configuration(NamedTuple):
    """What differs between the measurements of one command."""

    cells: int | None
    channels: int | None
    batch_size: int
    mixed_precision: str

    def options(self) -> list[str]:
        """The configuration as command-line options."""
        given = [(key, value) for key, value in self._asdict().items() if value is not None]
        return [word for key, value in given for word in (f"--{key.replace('_', '-')}", str(value))]


def configurations(
    cells: Sequence[int | None],
    channels: Sequence[int | None],
    batch_sizes: Sequence[int],
    mixed_precision: str,
    table: bool,
) -> list[Configuration]:
    """All combinations; with `table` also half and twice the cells, then half and twice the batch.
    A network that is not made of cells has None of them. BnasLarqError: too few channels for a
    network; a table of several cells or batch sizes."""
    fewest = min((width for width in channels if width is not None), default=2)
    if fewest < 2:
        raise BnasLarqError(
            "A network needs at least two channels (a binary kernel is centred over its input "
            f"channels). Received: {fewest}."
        )
    sizes = list(itertools.product(cells, batch_sizes))
    if table:
        if len(sizes) > 1:
            raise BnasLarqError(
                "--table varies one number of cells and one batch size. "
                f"Received: {len(cells)} and {len(batch_sizes)} of them. Give one, or omit --table."
            )
        cell_count, batch_size = sizes[0]
        numbers = [None] if cell_count is None else _half_and_twice(cell_count)
        sizes = [(number, batch_size) for number in numbers]
        sizes += [(cell_count, size) for size in _half_and_twice(batch_size) if size != batch_size]
    precisions = BOTH if mixed_precision == "both" else (mixed_precision,)
    return [
        Configuration(cell_count, width, batch_size, precision)
        for precision in precisions
        for width in channels
        for cell_count, batch_size in sizes
    ]


def _half_and_twice(number: int) -> list[int]:
    return sorted({max(1, number // 2), number, 2 * number})


def check_output(path: Path, overwrite: bool) -> None:
    """Raise BnasLarqError unless results may be written here; before anything is measured."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise BnasLarqError(
            f"Results go to a file in a folder that exists. Received: {path}. Name another one."
        )
    if path.exists() and not overwrite:
        raise BnasLarqError(
            f"Nothing is overwritten unasked. Received: {path}, which exists. "
            "Choose another file or add --overwrite."
        )


def measure_in_processes(
    name: str, configurations: Sequence[Configuration], arguments: Sequence[str]
) -> list[dict[str, Any]]:
    """Measure each configuration by `bnas-larq benchmark NAME`, with further arguments, in a new
    process; BnasLarqError if one fails, whose own message is on stderr."""
    records = []
    for number, configuration in enumerate(configurations, 1):
        options = configuration.options()
        say(f"{name} {number}/{len(configurations)}: {' '.join(options)}")
        process = subprocess.run(
            [*own_command(), "benchmark", name, *options, *arguments, "--json"],
            env=own_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr_of_children(),
            text=True,
            check=False,
        )
        if code := process.returncode:
            reason = "was killed, perhaps for its memory" if code < 0 else "failed"
            raise BnasLarqError(
                "Every configuration must be one that this machine can run. "
                f"Received: {' '.join(options)}, which {reason} (exit code {code}). "
                "Omit it, or make it smaller."
            )
        records += json.loads(process.stdout)
    return records
