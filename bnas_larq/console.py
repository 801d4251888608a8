"""What a command tells its user, on stderr: messages, progress, warnings. stdout holds results.

The package itself only logs, to the logger `bnas_larq`: `logging.basicConfig(level=logging.INFO)`
shows its messages in Python. A command shows them as lines, on a terminal with a progress bar
below, and hides what other packages say.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bnas_larq.errors import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger("bnas_larq")
logger.addHandler(logging.NullHandler())

_PACKAGE = str(Path(__file__).parent)
#: Where code lives that a user cannot mend, besides site-packages; `<frozen …>` and the like too.
_FOREIGN = (_PACKAGE, sysconfig.get_path("stdlib"), "<")
#: Ends what libraries wrote to file descriptor 2 before, a line of its own.
_MARK = b"\x1e\n"
#: Reads all of it, and prints what followed the last mark.
_LAST_WORDS = r'{last = $0} END {sub("^\n", "", last); printf "%s", last}'

_command: _Lines | None = None
#: While native output is hidden, a copy of file descriptor 2 as it was.
_stderr: int | None = None


def say(message: str) -> None:
    """Tell the user something; `--quiet` hides it."""
    logger.info("%s", message)
    _mark()


def print_result(result: object) -> None:
    """Print a command's result on stdout; control characters, which could rewrite the terminal, as
    escapes."""
    print(printable(str(result)), flush=True)


def accept_any_text() -> None:
    """From now on characters that stdout and stderr cannot encode come out as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def show_progress(text: str, done: int, total: int, left: str) -> None:
    """Draw a bar between `text` and `left` below a command's messages; only on a terminal."""
    if _command is not None and _command.moving:
        _command.show_bar(text, done, total, left)


def end_progress() -> None:
    """Remove the bar."""
    if _command is not None:
        _command.end_bar()


@contextlib.contextmanager
def command(*, quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Show the package's messages on stderr while a command runs.

    Args:
        quiet: warnings only.
        verbose: also what other packages log, warn of and write to file descriptor 2.
    """
    global _command
    root, before = logging.getLogger(), (_command, logger.level, sys.stderr)
    _command = lines = _Lines(quiet, verbose)
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with warnings.catch_warnings(), _hidden_native_output():
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if _stderr is not None and sys.stderr.fileno() == 2:
                # Not closed in the end: handlers that libraries create meanwhile may keep it.
                sys.stderr = open(os.dup(_stderr), "w", 1, sys.stderr.encoding, sys.stderr.errors)
        warnings.showwarning = lines.warn
        logger.setLevel(logging.INFO)
        root.addHandler(lines)  # where TensorFlow finds one, it adds none of its own
        try:
            yield
        finally:
            lines.end_bar()
            root.removeHandler(lines)
            _command, level, sys.stderr = before
            logger.setLevel(level)


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """Hide warnings, TensorFlow's log lines and native output inside, but not from `--verbose`."""
    if _command is not None and _command.verbose:
        yield
        return
    tensorflow = logging.getLogger("tensorflow")
    level = tensorflow.level
    with warnings.catch_warnings(), _hidden_native_output():
        warnings.simplefilter("ignore")
        tensorflow.setLevel(logging.ERROR)
        try:
            yield
        finally:
            tensorflow.setLevel(level)


@contextlib.contextmanager
def _hidden_native_output() -> Iterator[None]:
    """Hide what C and C++ code writes to file descriptor 2, unless the process dies inside.

    A second process reads it. When this one crashes or is killed, that one prints what was written
    since the last message; otherwise nothing.
    """
    global _stderr
    if _stderr is not None or (_command is not None and _command.verbose):
        yield
        return
    try:
        sys.stderr.flush()
        copy = os.dup(2)
        reader = subprocess.Popen(
            ("awk", "-v", r"RS=\036", _LAST_WORDS),
            stdin=subprocess.PIPE,
            stdout=copy,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is not for it
        )
    except (OSError, ValueError, AttributeError):  # no stderr, or no awk
        yield
        return
    os.dup2(reader.stdin.fileno(), 2)
    _stderr = copy
    try:
        yield
    finally:
        _mark()
        _stderr = None
        os.dup2(copy, 2)
        os.close(copy)
        reader.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(1)


def stderr_of_children() -> int | None:
    """For `subprocess`: the descriptor on which another `bnas-larq` shows its messages."""
    return _stderr


def exit_at_once(code: int) -> NoReturn:
    """End the process without cleaning up, as planned: nothing that was hidden is printed."""
    _mark()
    os._exit(code)


def _mark() -> None:
    """All is well: what libraries have written so far explains no crash."""
    if _stderr is not None:
        os.write(2, _MARK)


class _Lines(logging.Handler):
    """Prints log records and warnings as lines on stderr, above the bar if there is one."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self.verbose = verbose
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.moving = terminal and not quiet and os.environ.get("TERM") != "dumb"
        self.bar: Progress | None = None

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name.partition(".")[0] != logger.name:
            if self.hides(record.pathname):
                return
            text = f"{record.levelname}:{record.name}:{text}"
        elif record.levelno >= logging.WARNING:
            text = f"Warning: {one_line(text)}"
        text = printable(text)
        if self.bar is not None:
            self.bar.console.out(text, highlight=False)
        elif sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)

    def warn(self, message, category, filename, lineno, file=None, line=None) -> None:
        """In place of `warnings.showwarning`: the package's own without code, others as usual."""
        if filename.startswith(_PACKAGE) and issubclass(category, UserWarning):
            logger.warning("%s", message)
        elif sys.stderr is not None and not self.hides(filename):
            text = warnings.formatwarning(message, category, filename, lineno, line)
            sys.stderr.write(printable(text))

    def hides(self, filename: str) -> bool:
        """Whether what comes from this file is for `--verbose` only; a user's plugin is shown."""
        foreign = filename.startswith(_FOREIGN) or f"-packages{os.sep}" in filename
        return foreign and not self.verbose

    def show_bar(self, text: str, done: int, total: int, left: str) -> None:
        if self.bar is None:
            from rich import console, progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.TextColumn("{task.fields[left]}"),
                console=console.Console(stderr=True),
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
            )
            self.bar.add_task(text, left=left)
            self.bar.start()
        (task,) = self.bar.task_ids
        self.bar.update(task, description=text, completed=done, total=total, left=left)

    def end_bar(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
