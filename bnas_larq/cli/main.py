"""`bnas-larq`: the list of commands, and the one place that turns errors into exit codes.

Nothing heavy is imported here, so that `--help` answers at once: a command's module is imported
when that command is called.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from bnas_larq import console
from bnas_larq.cli.groups import LazyCommand, LazyGroup
from bnas_larq.errors import BnasLarqError, one_line

#: Exit codes: an error that the user can fix, and Ctrl-C by the convention of shells.
USER_ERROR, INTERRUPTED = 2, 130

#: In the order of work: name, module of this folder (with an attribute unless it is `command`),
#: line in `--help`.
_COMMANDS = (
    ("run", "run_commands:run", "Run a recipe: search, train, evaluate, export."),
    ("search", "run_commands:search", "Search a cell: images in, genotype out."),
    ("train", "run_commands:train", "Train the network of a genotype."),
    ("evaluate", "run_commands:evaluate", "Measure a run's network on the test split."),
    ("export", "export_command", "Write a network as .tflite; lint it; bundle it for devices."),
    ("verify-faces", "face_command", "Tell whether two images show the same person."),
    ("finetune", "run_commands:finetune", "Fine-tune a network on your own images."),
    ("zoo", "zoo_commands:zoo", "Published networks: list, show, verify, publish, import."),
    ("cost", "cost_command", "Count MACs, OPs and bytes; find sizes that meet a budget."),
    ("compare", "compare_command", "Compare searches on the same data, budget and seeds."),
    ("benchmark", "benchmark_commands", "Time a search or training step against its floor."),
    ("worker", "run_commands:worker", "Run trials for a keras-tuner search led elsewhere."),
    ("report", "run_commands:report", "Draw a run's cells and curves, and write its HTML report."),
    ("recipes", "recipe_commands", "List the shipped recipes, or show one."),
    ("doctor", "doctor", "Show versions and machine, and check that they fit together."),
)
COMMANDS = {name: LazyCommand(f"bnas_larq.cli.{target}", line) for name, target, line in _COMMANDS}

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from bnas_larq.machine import installed_version

    version = installed_version("bnas-larq") or "unknown (not installed: running from a checkout)"
    console.print_result(f"bnas-larq {version}")
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
    help="First import your own module, which registers operations. Repeatable.",
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
        console.print_result(ctx.get_help())


def _import_plugin(name: str) -> None:
    """Import a user's module by its dotted name, also from the current directory."""
    if os.getcwd() not in sys.path:
        # Console scripts lack it. Last, so that no file here hides a package.
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except BnasLarqError:
        raise
    except Exception as error:  # whatever the module raises, its user can fix
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if "importlib" in frame.filename else f", {frame.filename} line {frame.lineno}"
        raise BnasLarqError(
            "A plugin must be a Python module that can be imported. "
            f"Received: {name!r} ({type(error).__name__}: {one_line(error)}{where}). "
            "Give its dotted name, from the current directory or installed."
        ) from error


def main(args: Sequence[str] | None = None) -> int:
    """Run `bnas-larq` with `args` (default: the command line's) and return its exit code.

    0: success; 2: an error that the user can fix, in one line on stderr; 130: interrupted. Anything
    else is a bug and keeps its traceback.
    """
    console.accept_any_text()
    # Building networks makes hundreds of thousands of objects that stay, and Python by default
    # looks through all of them again and again: a tenth of the time of a short run.
    gc.set_threshold(10_000)
    try:
        cli.main(args, prog_name="bnas-larq", standalone_mode=False)
        return 0
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
            "Interrupted. A run keeps its progress: repeat the command with --resume to continue.",
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
    print(f"Error: {one_line(message)}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
