"""Classify images with the network in this folder: python run.py IMAGE...

Needs NumPy 1, Pillow and larq-compute-engine, but neither bnas_larq nor TensorFlow:
pip install larq-compute-engine "numpy<2" Pillow
(`bnas-larq export --bundle` copied it here, next to the files it reads.)
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="threads of the interpreter")
    parser.add_argument("--json", action="store_true", help="print all outputs as JSON")
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    if min(args.top, args.threads) < 1:
        parser.error("--top and --threads must be at least 1")
    try:
        content = checked("model.tflite")
        labels = checked("labels.txt").decode().splitlines()
        settings = described(checked("preprocessing.json"))
        network = interpreter(content, args.threads)
        for name in args.images:
            outputs = network.predict([prepare(name, settings)[None]])[0][0]
            if len(labels) != len(outputs):
                raise ValueError(f"labels.txt has {len(labels)} lines for {len(outputs)} outputs")
            scores = outputs if settings["output"] == "probabilities" else softmax(outputs)
            if args.json:
                rows = {"image": name, "outputs": outputs.tolist(), "scores": scores.tolist()}
                print(json.dumps({**rows, "class": labels[int(outputs.argmax())]}))
                continue
            best = np.argsort(-outputs, kind="stable")[: args.top]
            print(name + ": " + ", ".join(f"{labels[i]} {scores[i]:.3f}" for i in best))
    except (OSError, ValueError, ImportError, RuntimeError, SyntaxError) as error:
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def checked(name: str) -> bytes:
    """A file of this folder, verified by its checksum: a damaged one crashes the interpreter."""
    for path in (HERE / name, HERE / "SHA256SUMS"):
        if not path.is_file():  # a pipe or device might never end
            raise ValueError(f"{path} is no file; copy the folder again")
    content = (HERE / name).read_bytes()
    line = f"{hashlib.sha256(content).hexdigest()}  {name}"
    if line not in (HERE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        raise ValueError(f"{HERE / name} is not the file that was exported; copy the folder again")
    return content


def described(content: bytes) -> dict:
    """The settings in preprocessing.json."""
    settings = json.loads(content)
    try:
        sides, colours = (settings["height"], settings["width"]), settings["mean"] + settings["std"]
        sound = all(isinstance(side, int) and 0 < side <= 10_000 for side in sides)
        sound &= len(settings["mean"]) == len(settings["std"]) == 3 and min(settings["std"]) > 0
        sound &= all(abs(float(value)) < 1e6 for value in colours)
        sound &= settings["output"] in ("logits", "probabilities")
        sound &= settings["evaluation"] == "resize" or 0 < settings["crop_share"] <= 1
        sound &= all(value in range(256) for value in settings["background"])
    except (KeyError, TypeError, OverflowError):
        sound = False
    if not sound:
        raise ValueError(
            "preprocessing.json does not hold what was exported; copy the folder again"
        )
    return settings


def prepare(path: str, settings: dict) -> np.ndarray:
    """An image file, prepared as in training: float32 [height, width, 3]."""
    sys.dont_write_bytecode = True  # a bundle's folder holds nothing else
    from decoding import decoded  # the file beside this one

    size = (settings["width"], settings["height"])
    try:
        with decoded(path, tuple(settings["background"])) as image:
            if image.size != size:
                box = evaluated(*image.size, settings)
                image = image.resize(size, Image.Resampling.BILINEAR, box)
            pixels = np.asarray(image, np.float32)
    except Exception as error:  # Pillow's decoders raise many kinds for damaged files
        raise ValueError(f"{path} is no readable image ({error})") from error
    scale = np.float32(1) / (np.float32(255) * np.asarray(settings["std"], np.float32))
    shift = np.asarray(settings["mean"], np.float32) / np.asarray(settings["std"], np.float32)
    return pixels * scale - shift


def evaluated(width: int, height: int, settings: dict) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the part of a picture that the network was evaluated on."""
    if settings["evaluation"] == "resize":
        return 0, 0, width, height
    scale = settings["crop_share"] * min(height / settings["height"], width / settings["width"])
    tall, wide = min(settings["height"] * scale, height), min(settings["width"] * scale, width)
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, min(left + wide, width), min(top + tall, height)


def softmax(values: np.ndarray) -> np.ndarray:
    """Scores that sum to 1."""
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def interpreter(content: bytes, threads: int):
    """Larq Compute Engine's interpreter, without its converter, which loads TensorFlow."""
    package = importlib.util.find_spec("larq_compute_engine")
    if package is None:
        raise ImportError(
            'run.py needs larq-compute-engine: pip install larq-compute-engine "numpy<2" Pillow'
        )
    if int(np.__version__.split(".")[0]) > 1:  # the interpreter would read empty images
        raise ImportError(
            f'larq-compute-engine needs NumPy 1, not {np.__version__}: pip install "numpy<2"'
        )
    folder = Path(package.submodule_search_locations[0]) / "tflite" / "python"
    name = "interpreter_wrapper_lite"
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            try:
                return module.LiteInterpreter(content, threads, False, False, False)
            except RuntimeError:  # only the indirect kernels know grouped 1-bit convolutions
                return module.LiteInterpreter(content, threads, False, True, False)
    raise ImportError(f"larq-compute-engine in {folder.parent.parent} has no interpreter")


if __name__ == "__main__":
    sys.exit(main())
