"""The folder that goes to a device: the network, and all that it takes to use it there.

It is written whole or not at all. `SHA256SUMS` covers every other file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras
from bnas_larq.costs.accounting import Costs
from bnas_larq.errors import ExportError, RunError, one_line
from bnas_larq.export.flat import flattened
from bnas_larq.files import replace_folder, temporary_folder

MODEL, SUMS = "model.tflite", "SHA256SUMS"
#: All that a bundle holds.
FILES = frozenset(
    {MODEL, "labels.txt", "preprocessing.json", "card.md", "run.py", "README.md", SUMS}
)
#: The runner, shipped as a module so that it is checked like one, and copied as text.
_RUNNER = Path(__file__).with_name("runner.py")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input, and what its output means.

    Attributes:
        height, width: size of the input in pixels.
        mean, std: per channel, red, green, blue, of values scaled to [0, 1].
        output: `"logits"` or `"probabilities"`.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: str = "logits"

    def to_dict(self) -> dict[str, Any]:
        """For preprocessing.json, with the rules spelled out."""
        return {
            "format": "bnas-larq-preprocessing",
            "version": 1,
            "height": self.height,
            "width": self.width,
            "channels": 3,
            "channel_order": "RGB",
            "layout": "NHWC, one image",
            "dtype": "float32",
            "resize": "upright, then stretched to height and width: bilinear, antialiased (Pillow)",
            "formula": "(pixel / 255 - mean) / std, pixel 0 to 255",
            "mean": list(self.mean),
            "std": list(self.std),
            "output": self.output,
        }


def write_bundle(
    folder: str | Path,
    tflite: bytes,
    *,
    labels: Sequence[str],
    preprocessing: Preprocessing,
    card: str,
    report: Mapping[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write the deploy bundle.

    Args:
        folder: where to; its parent is created.
        tflite: content of the exported file.
        labels: one name per output.
        preprocessing: of the images the network was trained on.
        card: the model card, Markdown.
        report: of the export, see `bnas_larq.export.exporter.export_network`.
        overwrite: replace an earlier bundle.

    Returns:
        The folder, with model.tflite, labels.txt, preprocessing.json, card.md, run.py, README.md
        and SHA256SUMS.

    Raises:
        ExportError: the folder exists (without `overwrite`) or is no bundle; the labels do not fit.
        RunError: it cannot be written.
    """
    folder = Path(folder)
    check_bundle(folder, overwrite=overwrite)
    folder = Path(os.path.abspath(folder))  # "." has no name to put another one beside
    files = {
        MODEL: tflite,
        "labels.txt": _lines(labels),
        "preprocessing.json": json.dumps(preprocessing.to_dict(), indent=1) + "\n",
        "card.md": card,
        "run.py": _RUNNER.read_text(encoding="utf-8"),
        "README.md": _readme(report),
    }
    contents = {name: c if isinstance(c, bytes) else c.encode() for name, c in files.items()}
    sums = [f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in sorted(contents.items())]
    contents[SUMS] = "".join(sums).encode()
    temporary = None
    try:
        temporary = temporary_folder(folder)
        check_bundle(folder, overwrite=overwrite)  # it may have brought an earlier one back
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        replace_folder(temporary, folder)
    except OSError as error:
        raise RunError(
            f"A bundle must be written to disk. Received: {one_line(error)}. "
            "Free space or choose another folder."
        ) from error
    finally:
        if temporary is not None:  # renamed already unless something failed
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_bundle(folder: Path, *, overwrite: bool) -> None:
    """Raise ExportError unless a bundle may be written to `folder`."""
    if not folder.exists():
        return
    if not overwrite:
        raise ExportError(
            f"Nothing is overwritten unasked. Received: {folder}, which exists. "
            "Choose another folder or add --overwrite."
        )
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    # Many folders of downloads hold such sums, and a bundle may lie among a user's own files.
    if folder.is_symlink() or held is None or (held and SUMS not in held) or held - FILES:
        raise ExportError(
            "Only a bundle is replaced by a bundle. "
            f"Received: {folder}, which is or holds something else. Choose another folder."
        )


def _lines(labels: Sequence[str]) -> str:
    """One label on each line."""
    return "".join(f"{one_line(label)}\n" for label in labels)


def output_kind(model: keras.Model) -> str:
    """`"probabilities"` if the model ends with a softmax, else `"logits"`."""
    layer = flattened(model).outputs[0].node.layer
    softmax = isinstance(layer, keras.layers.Softmax)
    activation = getattr(layer, "activation", None)
    return "probabilities" if softmax or activation is keras.activations.softmax else "logits"


#: Differences from here on come from a sign, not from rounding alone.
FLIPPED = 1e-4
_ABOUT_FLIPS = """
Differences above 1e-4 mean that on some image a value in front of a sign lies within rounding of 0
and got the other sign; neither result is more right."""


def _readme(report: Mapping[str, Any]) -> str:
    parity = report["parity"]
    compared = (
        f"Compared with Keras on {parity['images']} {report.get('parity_images', 'images')}:\n"
        f"{parity['equal_predictions']:.2%} of the predictions equal, "
        f"largest difference of an output {parity['max_abs_difference']:.2g}."
        + ("" if parity["max_abs_difference"] < FLIPPED else _ABOUT_FLIPS)
    )
    return f"""# How to use this network

`python run.py image.png` prints the likeliest classes. It needs no TensorFlow, only

    pip install larq-compute-engine "numpy<2" Pillow

(wheels for Linux and macOS). In another language: read `preprocessing.json` for how an image
becomes the input, and give `model.tflite` to Larq Compute Engine's interpreter. The file does not
run in plain TensorFlow Lite: its 1-bit convolutions are Larq Compute Engine's.

`sha256sum -c {SUMS}` checks all files. `card.md` tells what the network was trained on and how
good it is.

## The file

{report["bytes"]:,} bytes; {report["binary_convolutions"]} convolutions in 1 bit, \
{report["float_convolutions"]} in full precision.
{compared}

## Speed

Measure it on the device, with the benchmark program of Larq Compute Engine
(<https://docs.larq.dev/compute-engine/benchmark/>), built for its processor:

    ./lce_benchmark_model --graph={MODEL} --num_threads=1 --warmup_runs=10 --num_runs=50

Its kernels are optimised for 64-bit ARM. On x86 they are reference code: what you measure there
says nothing about the device.
"""


_NOT_STATED = (
    "Not stated: the weights are for whoever trained them to license. Their training data may set\n"
    "terms of its own."
)


def deployment_card(
    name: str,
    *,
    costs: Costs,
    input_shape: tuple[int, ...],
    classes: int,
    test: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    terms: str | None = None,
) -> str:
    """The card of a run's network or a user's model, Markdown.

    Args:
        name: of the network.
        costs: from `bnas_larq.costs.accounting.count_costs`.
        input_shape: height, width, channels.
        classes: number of outputs.
        test: metrics on the test split, if it was evaluated.
        facts: more lines: what → value; None and empty ones are left out.
        terms: the licence of weights that others have a say in, if any.
    """
    lines = [f"# {name}", "", f"Images {input_shape[0]}×{input_shape[1]}, {classes} classes.", ""]
    lines += [f"- {key}: {value}" for key, value in (facts or {}).items() if value]
    lines += ["", "## Accuracy", ""]
    if test:
        top5 = f", top-5 {test['top5_accuracy']:.2%}" if test.get("top5_accuracy") else ""
        lines.append(f"{test['accuracy']:.2%}{top5} on {test['examples']:,} test images.")
    else:
        lines.append("Not measured here.")
    lines += [
        "",
        "## Cost of one image",
        "",
        f"- MACs: {costs.binary_macs:,} 1-bit + {costs.full_precision_macs:,} full precision",
        f"- OPs, papers' convention: {costs.ops_paper:.4g}",
        f"- OPs, honest (only 1-bit MACs / 64): {costs.ops_honest:.4g}",
        f"- Weights: {costs.bytes:,} bytes (1 bit per binary weight, 4 bytes per other number; the",
        f"  file adds its structure); parameters: {costs.parameters:,}",
        "",
        "## Licence",
        "",
        terms or _NOT_STATED,
    ]
    return "\n".join(lines) + "\n"
