"""The deploy bundle: a folder with the network and all that a device needs to use it.

It is written whole or not at all; `SHA256SUMS` covers every other file. The texts (the network's
card, the README) are made here, too.
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
from bnas_larq.data import decoding
from bnas_larq.data.geometry import CROP_SHARE, RESIZE
from bnas_larq.errors import ExportError, RunError, one_line
from bnas_larq.export.nested_models import flattened
from bnas_larq.files import replace_folder, temporary_folder
from bnas_larq.pages import render

MODEL, SUMS, DECODING = "model.tflite", "SHA256SUMS", "decoding.py"
#: The files of a bundle.
FILES = frozenset(
    {MODEL, "labels.txt", "preprocessing.json", "card.md", "run.py", DECODING, "README.md", SUMS}
)
#: Larger differences come from a sign, not from rounding alone.
_FLIPPED = 1e-4
#: A module, so that it is linted like one, but copied as text.
_RUNNER = Path(__file__).with_name("runner.py")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input, and what the output means.

    Attributes:
        height, width: size of the input in pixels.
        mean, std: of red, green and blue, scaled to [0, 1].
        output: `"logits"` or `"probabilities"`.
        evaluation, crop_share, background: see `bnas_larq.data.geometry.Geometry`.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    output: str = "logits"
    evaluation: str = RESIZE
    crop_share: float = CROP_SHARE
    background: Sequence[int] = decoding.WHITE

    def to_dict(self) -> dict[str, Any]:
        """The content of preprocessing.json, with the rules spelled out."""
        part = "stretched"
        if self.evaluation != RESIZE:
            part = "unless it has that size, crop_share of its largest central part scaled"
        return {
            "format": "bnas-larq-preprocessing",
            "version": 1,
            "height": self.height,
            "width": self.width,
            "channels": 3,
            "channel_order": "RGB",
            "layout": "NHWC, one image",
            "dtype": "float32",
            "resize": f"upright, then {part} to height and width: bilinear, antialiased (Pillow)",
            "evaluation": self.evaluation,
            "crop_share": self.crop_share,
            "background": list(self.background),
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
    """Write the deploy bundle; returns its folder, as an absolute path.

    Args:
        folder: the new folder; its parent is created.
        labels: one name per output.
        preprocessing: as in training.
        card: the model card, Markdown; see `deployment_card`.
        report: from `bnas_larq.export.exporter.export_network`.
        overwrite: replace an earlier bundle.

    Raises:
        ExportError: the folder exists (without `overwrite`) or is not a bundle.
        RunError: it cannot be written.
    """
    folder = Path(folder)
    check_bundle(folder, overwrite=overwrite)
    folder = Path(os.path.abspath(folder))  # "." has no name for a temporary sibling
    images = report.get("parity_images", "images")
    names = {"model": MODEL, "sums": SUMS}
    files = {
        MODEL: tflite,
        "labels.txt": "".join(f"{one_line(label)}\n" for label in labels),
        "preprocessing.json": json.dumps(preprocessing.to_dict(), indent=1) + "\n",
        "card.md": card,
        "run.py": _RUNNER.read_text(encoding="utf-8"),
        DECODING: Path(decoding.__file__).read_text(encoding="utf-8"),
        "README.md": render(
            "bundle_readme.md", **names, report=report, images=images, flipped=_FLIPPED
        ),
    }
    contents = {name: c if isinstance(c, bytes) else c.encode() for name, c in files.items()}
    sums = [f"{hashlib.sha256(c).hexdigest()}  {name}\n" for name, c in sorted(contents.items())]
    contents[SUMS] = "".join(sums).encode()
    temporary = None
    try:
        temporary = temporary_folder(folder)
        check_bundle(folder, overwrite=overwrite)  # temporary_folder may restore an earlier one
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        replace_folder(temporary, folder)
    except OSError as error:
        raise RunError(
            f"A bundle must be written to disk. Received: {one_line(error)}. "
            "Free space or choose another folder."
        ) from error
    finally:
        if temporary is not None:  # already renamed unless something failed
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def check_bundle(folder: Path, *, overwrite: bool) -> None:
    """Raise ExportError unless a bundle may be written to `folder`."""
    if not folder.exists():
        return
    if not overwrite:
        raise ExportError(
            f"Nothing is overwritten by default. Received: {folder}, which exists. "
            "Choose another folder or add --overwrite."
        )
    real = folder.is_dir() and not folder.is_symlink()
    # Download folders hold SHA256SUMS, too, and users may keep files and folders of their own in a
    # bundle, by whatever name.
    names = {path.name if path.is_file() else None for path in folder.iterdir()} if real else {None}
    if (names and SUMS not in names) or names - FILES:
        raise ExportError(
            "Only a bundle is replaced by a bundle. "
            f"Received: {folder}, which is or holds something else. Choose another folder."
        )


def output_kind(model: keras.Model) -> str:
    """`"probabilities"` if the model ends with a softmax, else `"logits"`."""
    layer = flattened(model).outputs[0].node.layer
    softmax = isinstance(layer, keras.layers.Softmax)
    activation = getattr(layer, "activation", None)
    return "probabilities" if softmax or activation is keras.activations.softmax else "logits"


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
        input_shape: height, width, channels.
        test: metrics on the test split, if it was evaluated.
        facts: further lines; those without a value are omitted.
        terms: the licence of weights that may not be given to others, if any.
    """
    height, width = input_shape[:2]
    return render(
        "deployment_card.md",
        name=name,
        height=height,
        width=width,
        classes=classes,
        facts=facts or {},
        test=dict(test, top5_accuracy=test.get("top5_accuracy")) if test else None,
        costs=costs,
        terms=terms,
    )
