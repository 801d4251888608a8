"""Messages of a command reach its user; what other packages say does not, unless they crash."""

from __future__ import annotations

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from bnas_larq import console
from bnas_larq.console import clock, say

ROOT = Path(__file__).parents[1]
#: Where an installed package would be.
FOREIGN = f"/venv/lib/python3/site-packages{os.sep}package.py"


def run(code: str, **settings) -> subprocess.CompletedProcess:
    """Run `code` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def run_on_terminal(code: str, **variables: str) -> str:
    """What `code` shows on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**environment, "TERM": "xterm-256color", **variables},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 1 << 16):
            shown += block
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(ours)
    assert process.wait() == 0, shown
    return shown.decode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599.6, "1:00:00"),
        (2 * 3600 + 3 * 60 + 4, "2:03:04"),
        (100 * 3600, "100:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


# -- messages --------------------------------------------------------------------------------------


def test_in_python_messages_are_log_records(caplog, capsys):
    say("not asked for")
    caplog.set_level(logging.INFO)
    say("100 % of it")
    assert caplog.messages == ["100 % of it"]
    assert capsys.readouterr() == ("", "")


def test_a_command_shows_messages_as_lines(capsys):
    with console.command():
        say("a line")
        logging.getLogger("bnas_larq.part").warning("two\nlines")
    say("after it")
    assert capsys.readouterr() == ("", "a line\nWarning: two lines\n")


def test_quiet_shows_warnings_only(capsys):
    with console.command(quiet=True):
        say("a line")
        logging.getLogger("bnas_larq").warning("serious")
    assert capsys.readouterr().err == "Warning: serious\n"


def complain(filename: str) -> None:
    """A warning and a log record as from the code in `filename`."""
    warnings.warn_explicit("old", FutureWarning, filename, 1)
    logging.getLogger("tensorflow").handle(
        logging.LogRecord("tensorflow", logging.WARNING, filename, 1, "slow", None, None)
    )


@pytest.mark.parametrize(
    ("filename", "verbose", "shown"),
    [(FOREIGN, False, False), (FOREIGN, True, True), ("/home/me/plugin.py", False, True)],
)
def test_complaints_of_installed_packages_are_for_verbose(capsys, filename, verbose, shown):
    with console.command(verbose=verbose):
        complain(filename)
    err = capsys.readouterr().err
    assert ("FutureWarning: old" in err) == ("WARNING:tensorflow:slow" in err) == shown
    assert shown or not err


def test_our_own_warnings_are_one_line_and_our_slips_none(capsys):
    with console.command():
        warnings.warn_explicit("one\nline", UserWarning, console.__file__, 1)
        warnings.warn_explicit("divide by zero", RuntimeWarning, console.__file__, 1)
    assert capsys.readouterr().err == "Warning: one line\n"


def test_everything_is_as_before_afterwards():
    root, ours = logging.getLogger(), logging.getLogger("bnas_larq")
    before = (root.handlers[:], ours.level, warnings.showwarning, sys.stderr)
    with pytest.raises(KeyError), console.command():
        raise KeyError
    assert (root.handlers[:], ours.level, warnings.showwarning, sys.stderr) == before


# -- what C and C++ write to file descriptor 2 -----------------------------------------------------

NATIVE = """
    import os, signal, sys
    from bnas_larq import console
    with console.command(verbose={verbose}):
        os.write(2, b"noise\\n")
        console.say("a message")
        os.write(2, b"Check failed\\n")
        print("from Python", file=sys.stderr)
        {end}
    os.write(2, b"afterwards\\n")
    """


def test_native_output_is_hidden():
    done = run(NATIVE.format(verbose=False, end=""))
    assert done.stderr == "a message\nfrom Python\nafterwards\n"


def test_verbose_shows_native_output():
    done = run(NATIVE.format(verbose=True, end=""))
    assert done.stderr == "noise\na message\nCheck failed\nfrom Python\nafterwards\n"


@pytest.mark.parametrize("end", ["os.abort()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_process_that_dies_shows_what_followed_the_last_message(end):
    done = run(NATIVE.format(verbose=False, end=end))
    assert done.returncode in (-signal.SIGABRT, -signal.SIGKILL)
    assert done.stderr == "a message\nfrom Python\nCheck failed\n"


def test_a_planned_end_shows_nothing():
    done = run(NATIVE.format(verbose=False, end="console.exit_at_once(3)"))
    assert (done.returncode, done.stderr) == (3, "a message\nfrom Python\n")


def test_an_exception_keeps_its_traceback():
    done = run(NATIVE.format(verbose=False, end="1 / 0"))
    assert done.stderr.startswith("a message\nfrom Python\nTraceback (most recent call last):")


def test_child_processes_say_what_they_have_to_say():
    code = """
        import subprocess, sys
        from bnas_larq import console
        child = "from bnas_larq import console as c\\nwith c.command(): c.say('child')"
        with console.command():
            subprocess.run([sys.executable, "-c", child], stderr=console.stderr_of_children())
        """
    assert run(code).stderr == "child\n"


def test_without_stderr_a_command_works():
    code = """
        import os, sys
        from bnas_larq import console
        os.close(2)
        sys.stderr = None
        with console.command():
            console.say("unheard")
        print("done")
        """
    assert run(code).stdout == "done\n"


# -- the bar ---------------------------------------------------------------------------------------

BAR = """
    import time
    from bnas_larq import console
    with console.command(quiet={quiet}):
        for step in range(3):
            console.show_progress(f"train epoch 1/1, step {{step}}/2", step, 2, "0:07 left")
            time.sleep(0.3)
        console.say("a message [with] brackets, 3 of them")
        console.end_progress()
        console.say("after the bar")
    """


def test_a_terminal_shows_a_bar_below_the_messages():
    shown = run_on_terminal(BAR.format(quiet=False))
    assert "train epoch 1/1, step 2/2" in shown and "0:07 left" in shown and "━" in shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    lines = [line for line in plain if line and "train epoch" not in line]
    assert lines == ["a message [with] brackets, 3 of them", "after the bar"]


def test_no_color_is_honoured():
    assert "\x1b[38;5;" in run_on_terminal(BAR.format(quiet=False))
    shown = run_on_terminal(BAR.format(quiet=False), NO_COLOR="1")
    assert "━" in shown and not re.search(r"\x1b\[[0-9;]+m", shown.replace("\x1b[0m", ""))


def test_a_terminal_without_cursor_shows_lines_only():
    shown = run_on_terminal(BAR.format(quiet=False), TERM="dumb")
    assert shown.splitlines() == ["a message [with] brackets, 3 of them", "after the bar"]


def test_quiet_shows_no_bar():
    assert run_on_terminal(BAR.format(quiet=True)) == ""


def test_a_pipe_shows_lines_only():
    done = run(BAR.format(quiet=False), env={**os.environ, "FORCE_COLOR": "1"})
    assert done.stderr == "a message [with] brackets, 3 of them\nafter the bar\n"
