"""Which configurations `bnas-larq benchmark` measures, and a new process for each of them.

Memory that one measurement has freed, and code that it has compiled, would count for the next one.
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

#: What `both` stands for.
BOTH = ("float32", "bfloat16")


class Configuration(NamedTuple):
    """What differs between the measurements of one command."""

    cells: int
    channels: int
    batch_size: int
    mixed_precision: str

    def options(self) -> list[str]:
        """As options of the command line."""
        options: list[str] = []
        for key, value in self._asdict().items():
            options += [f"--{key.replace('_', '-')}", str(value)]
        return options


def configurations(
    cells: Sequence[int],
    channels: Sequence[int],
    batch_sizes: Sequence[int],
    mixed_precision: str,
    table: bool,
) -> list[Configuration]:
    """All combinations; with `table` also half and twice the cells, and half and twice the batch,
    one of them at a time.

    Raises:
        BnasLarqError: too few channels for a network; a table of several cells or batches.
    """
    if min(channels) < 2:
        raise BnasLarqError(
            "A network needs at least two channels (a binary kernel is centred over its input "
            f"channels). Received: {min(channels)}."
        )
    sizes = list(itertools.product(cells, batch_sizes))
    if table:
        if len(sizes) > 1:
            raise BnasLarqError(
                "--table varies one number of cells and one batch size. "
                f"Received: {len(cells)} and {len(batch_sizes)} of them. Give one, or no --table."
            )
        of_cells, of_images = sizes[0]
        sizes = [(number, of_images) for number in _around(of_cells)]
        sizes += [(of_cells, number) for number in _around(of_images) if number != of_images]
    precisions = BOTH if mixed_precision == "both" else (mixed_precision,)
    return [
        Configuration(of_cells, width, of_images, precision)
        for precision in precisions
        for width in channels
        for of_cells, of_images in sizes
    ]


def _around(number: int) -> list[int]:
    return sorted({max(1, number // 2), number, 2 * number})


def check_output(path: Path, overwrite: bool) -> None:
    """Raise BnasLarqError unless a file may be written here; before anything is measured."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise BnasLarqError(
            f"Results go to a file in a folder that exists. Received: {path}. Name another one."
        )
    if path.exists() and not overwrite:
        raise BnasLarqError(
            f"Nothing is overwritten unasked. Received: {path}, which exists. "
            "Choose another file or add --overwrite."
        )


def measured_apart(
    name: str, wanted: Sequence[Configuration], given: Sequence[str]
) -> list[dict[str, Any]]:
    """The measurement of each configuration by `bnas-larq benchmark NAME` in a new process.

    Args:
        given: further arguments of the command.

    Raises:
        BnasLarqError: a process failed; what it said is on stderr.
    """
    records = []
    for number, one in enumerate(wanted, 1):
        say(f"{name} {number}/{len(wanted)}: {' '.join(one.options())}")
        arguments = [*own_command(), "benchmark", name, *one.options(), *given, "--json"]
        done = subprocess.run(
            arguments,
            env=own_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr_of_children(),
            text=True,
            check=False,
        )
        if done.returncode:
            reason = "was killed, perhaps for its memory" if done.returncode < 0 else "failed"
            raise BnasLarqError(
                f"Each configuration must be one that this machine can run. "
                f"Received: {' '.join(one.options())}, which {reason} "
                f"(exit code {done.returncode}). Leave it out, or make it smaller."
            )
        records += json.loads(done.stdout)
    return records
