"""`bnas-larq`: the list of commands, and the one place that turns errors into exit codes.

`bnas-larq --help` answers at once because nothing heavy is imported here: a command's module is
loaded when that command is called.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from bnas_larq import console
from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.errors import BnasLarqError, one_line

#: Exit codes: what the user can mend, and Ctrl-C as shells count it.
USER_ERROR, INTERRUPTED = 2, 130

#: In the order of work. The module holds a click command named `command`.
COMMANDS = {
    "run": LazyCommand(
        "bnas_larq.cli.run_commands:run",
        "The whole way of a recipe: search, train, evaluate, export.",
    ),
    "search": LazyCommand(
        "bnas_larq.cli.run_commands:search", "Search a cell: images in, genotype out."
    ),
    "train": LazyCommand("bnas_larq.cli.run_commands:train", "Train the network of a genotype."),
    "evaluate": LazyCommand(
        "bnas_larq.cli.run_commands:evaluate", "Accuracy of a run's network on the test split."
    ),
    "export": LazyCommand(
        "bnas_larq.cli.export_command",
        "Write a network as .tflite, lint it, or bundle it for a device.",
    ),
    "finetune": LazyCommand(
        "bnas_larq.cli.run_commands:finetune",
        "Fit a published or trained network to your own images.",
    ),
    "zoo": LazyCommand(
        "bnas_larq.cli.zoo_commands:zoo", "Published networks: list, show, verify, publish, import."
    ),
    "cost": LazyCommand(
        "bnas_larq.cli.cost_command", "MACs, OPs, bytes of networks; sizes that meet a budget."
    ),
    "compare": LazyCommand(
        "bnas_larq.cli.compare_command", "Several searches on the same data, budget and seeds."
    ),
    "benchmark": LazyCommand(
        "bnas_larq.cli.benchmark_commands",
        "Time a step of search or training against the machine's limit.",
    ),
    "worker": LazyCommand(
        "bnas_larq.cli.run_commands:worker", "Run trials for a search by keras-tuner elsewhere."
    ),
    "report": LazyCommand(
        "bnas_larq.cli.run_commands:report",
        "Draw a run's cells and curves, and write its HTML report.",
    ),
    "recipes": LazyCommand(
        "bnas_larq.cli.recipe_commands", "List the recipes that ship with bnas-larq, or show one."
    ),
    "doctor": LazyCommand(
        "bnas_larq.cli.doctor", "Versions, machine, and whether everything fits together."
    ),
}

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("bnas-larq")
    except metadata.PackageNotFoundError:
        version = "unknown (not installed: running from a checkout)"
    click.echo(f"bnas-larq {version}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    registry=COMMANDS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option(
    "--plugin",
    "plugins",
    metavar="MODULE",
    multiple=True,
    help="Import your own Python module first, which registers operations. Repeatable.",
)
@click.option("--quiet", is_flag=True, help="Show results, warnings and errors only.")
@click.option("--verbose", is_flag=True, help="Also show what TensorFlow and other packages print.")
@click.pass_context
def cli(ctx: click.Context, plugins: Sequence[str], quiet: bool, verbose: bool) -> None:
    """Search, train and deploy networks whose weights and activations are single bits.

    Start with: bnas-larq run quickstart
    """
    if quiet and verbose:
        raise click.UsageError("Give --quiet or --verbose. Received: both.", ctx)
    ctx.with_resource(console.command(quiet=quiet, verbose=verbose))
    for plugin in plugins:
        _import_plugin(plugin)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _import_plugin(name: str) -> None:
    """Import a user's module by its dotted name; modules in the current directory are found too."""
    if os.getcwd() not in sys.path:
        # A console script lacks this entry. At the end, so that no file here hides a package.
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except BnasLarqError:
        raise
    except Exception as error:  # whatever a foreign module raises is the user's to mend
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if "importlib" in place.filename else f", {place.filename} line {place.lineno}"
        raise BnasLarqError(
            "A plugin must be a Python module that can be imported. "
            f"Received: {name!r} ({type(error).__name__}: {one_line(error)}{where}). "
            "Give its dotted name, from the current directory or installed."
        ) from error


def main(args: Sequence[str] | None = None) -> int:
    """Run `bnas-larq` with `args` (default: the command line's) and return its exit code.

    0 success; 2 something the user can mend, told in one line on stderr; 130 interrupted.
    Anything else is a bug and keeps its traceback. Commands return nothing or an exit code.
    """
    try:
        result = cli.main(args, prog_name="bnas-larq", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BnasLarqError as error:
        return _fail(error)
    except click.UsageError as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()  # a group called without a command: its help is the answer
            return USER_ERROR
        path = error.ctx.command_path if error.ctx else "bnas-larq"
        message = one_line(error.format_message())
        end = "" if message.endswith((".", "?")) else "."
        return _fail(f"{message}{end} See `{path} --help`.")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return _fail(
            "Interrupted. A run keeps what it reached: "
            "repeat the command with --resume to go on from there.",
            INTERRUPTED,
        )
    except OSError as error:
        if error.errno in _DISK_FULL:
            return _fail(
                f"The disk is full ({one_line(error)}). "
                "Free space, then repeat the command with --resume."
            )
        if error.errno in _NOT_ALLOWED:
            return _fail(
                "Files must be readable and folders writable. "
                f"Received: {one_line(error)}. Check the permissions or choose another folder."
            )
        if error.errno in _NO_PATH:
            return _fail(
                "A name or path must be one that this system can open. "
                f"Received: {one_line(error)}. Check it."
            )
        raise


def _fail(message: object, code: int = USER_ERROR) -> int:
    click.echo(f"Error: {one_line(message)}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
