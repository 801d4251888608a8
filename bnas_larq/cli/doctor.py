"""`bnas-larq doctor`: what is installed, on which machine, and whether it works together.

The first thing to paste into a bug report. Bounds come from the installed metadata, so that only
setup.py states them.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib import metadata

import click

from bnas_larq.console import print_result
from bnas_larq.errors import BnasLarqError, one_line
from bnas_larq.machine import installed_version, usable_cores

#: Shown even when bnas-larq itself is not installed (a plain checkout).
SHOWN = (
    *("tensorflow", "tf-keras", "keras", "numpy", "protobuf", "larq", "larq-zoo"),
    *("larq-compute-engine", "tensorflow-datasets", "keras-tuner", "pydantic"),
)


def misfits(root: str = "bnas-larq") -> list[str]:
    """Unmet requirements of the installed distribution `root` and of all it requires, extras aside.

    Each reads like `larq-zoo needs protobuf<3.21, found 5.29.1`.
    """
    from packaging.requirements import Requirement

    problems, seen, waiting = [], set(), [root]
    while waiting:
        owner = waiting.pop()
        if owner in seen:
            continue
        seen.add(owner)
        for requirement in map(Requirement, metadata.requires(owner) or []):
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = installed_version(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wanted = f"{requirement.name}{requirement.specifier}"
                problems.append(f"{owner} needs {wanted}, found {version or 'nothing'}")
            else:
                waiting.append(requirement.name)
    return sorted(problems)


@click.command()
def command() -> None:
    """Show versions and machine, and check that all parts work together; exit code 2 if not."""
    problems: list[str] = []

    def line(label: str, value: object) -> None:
        print_result(f"{label:22} {value}")

    line("bnas-larq", installed_version("bnas-larq") or "not installed (running from a checkout)")
    line("Python", f"{platform.python_version()} ({sys.executable})")
    if not (3, 10) <= sys.version_info[:2] < (3, 13):
        problems.append(f"Python {platform.python_version()} is not 3.10 to 3.12")
    for name in SHOWN:
        line(name, installed_version(name) or "not installed")
    if installed_version("bnas-larq"):
        problems += misfits()

    line("Keras generation", _keras_generation(problems))
    line("devices", _devices())
    line("TF_CONFIG", _cluster())
    line("patches", _patches(problems))
    line("LCE", _compute_engine(problems))
    line("system", f"{platform.system()} {platform.release()} {platform.machine()}")
    line("cores", f"{usable_cores()} of {os.cpu_count()} usable")
    line("memory", _memory())
    line("free disk here", f"{shutil.disk_usage(os.curdir).free / 1e9:.1f} GB")
    if problems:
        raise BnasLarqError(
            f"All parts must fit together. Received: {'; '.join(problems)}. "
            "Install bnas-larq in a new virtual environment: plain `pip install` picks a set that "
            "fits."
        )
    line("verdict", "everything fits together")


def _keras_generation(problems: list[str]) -> str:
    try:
        from bnas_larq.backend import tf
    except (BnasLarqError, ImportError) as error:
        problems.append(one_line(error))
        return "none that Larq can use"
    devices = ", ".join(device.device_type for device in tf.config.list_physical_devices())
    # backend.py has just checked that tf.keras is tf-keras.
    return f"2 (tf-keras {installed_version('tf-keras')}) on {devices}"


def _devices() -> str:
    """The logical devices, which `--strategy mirrored` uses; TPUs show on a machine of theirs."""
    try:
        from bnas_larq.backend import tf
    except (BnasLarqError, ImportError):
        return "unknown"  # `_keras_generation` says why
    names = [device.name for device in tf.config.list_logical_devices()]
    return ", ".join(name.removeprefix("/device:") for name in names)


def _cluster() -> str:
    """The processes that `--strategy multi-worker` needs, as TF_CONFIG names them."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return "not set"
    try:
        values = json.loads(text)
        task = f"{values['task']['type']} {values['task']['index']}"
        jobs = [f"{job} at {', '.join(hosts)}" for job, hosts in values["cluster"].items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"cannot be read ({type(error).__name__}: {one_line(error)})"
    return f"{task} of {'; '.join(jobs)}"


def _patches(problems: list[str]) -> str:
    """Those of TensorFlow's private parts that act; runs do not repeat their bits without them."""
    try:
        from bnas_larq.determinism import check_patches
    except (BnasLarqError, ImportError):
        return "not checked"  # `_keras_generation` says why
    outcomes = check_patches()
    problems += [
        f"runs may not repeat their bits, a patch of TensorFlow fails ({effect}: {failure})"
        for effect, failure in outcomes.items()
        if failure
    ]
    return ", ".join(effect for effect, failure in outcomes.items() if not failure) or "none acts"


def _compute_engine(problems: list[str]) -> str:
    try:
        import larq_compute_engine
    except ImportError as error:
        problems.append(f"export cannot import larq-compute-engine ({one_line(error)})")
        return "cannot be imported"
    return f"importable ({larq_compute_engine.__version__})"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
