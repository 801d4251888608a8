"""The deploy bundle, and its runner as the target runs it: in a process without this package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.data import Normalization
from bnas_larq.data.geometry import Geometry
from bnas_larq.data.images import read_image_file
from bnas_larq.errors import ExportError, RunError
from bnas_larq.export.bundle import Preprocessing, deployment_card, output_kind, write_bundle

NORMALIZATION = Normalization((0.48, 0.45, 0.4), (0.25, 0.24, 0.26))
LABELS = [f"class {index}" for index in range(9)] + ["last\nof all"]
REPORT = {
    "bytes": 1234,
    "binary_convolutions": 8,
    "float_convolutions": 2,
    "parity": {"images": 60, "equal_predictions": 1.0, "max_abs_difference": 1e-6},
}
FILES = [
    "README.md",
    "SHA256SUMS",
    "card.md",
    "decoding.py",
    "labels.txt",
    "model.tflite",
    "preprocessing.json",
    "run.py",
]


def write(folder, content, facts=(), **options):
    return write_bundle(
        folder,
        content,
        labels=LABELS,
        preprocessing=Preprocessing(8, 8, NORMALIZATION.mean, NORMALIZATION.std, **dict(facts)),
        card="# a card\n",
        report=REPORT,
        **options,
    )


@pytest.fixture(scope="module")
def bundle(exported, tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundles") / "small", exported)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Image files of every kind that needs care."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(4)
    colours = Image.fromarray(generator.integers(0, 256, (23, 31, 3), np.uint8))
    colours.save(folder / "colours.png")
    colours.resize((8, 8)).save(folder / "as it is.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    colours.save(folder / "turned.jpg", exif=exif)
    colours.convert("RGBA").save(folder / "transparent.png")
    Image.new("RGBA", (9, 9), (9, 9, 9, 0)).save(folder / "hidden colours.png")
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(folder / "12 bits.png")
    colours.convert("P").save(folder / "palette.gif")
    deep = generator.integers(0, 65536, (12, 9)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep grey.png")
    return sorted(folder.iterdir())


def run(folder, *args):
    """`python run.py ARGS` elsewhere, without this repository on its path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-X", "importtime", folder / "run.py", *map(str, args)],
        cwd=folder.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_folder_holds_what_a_device_needs(bundle, exported):
    assert sorted(path.name for path in bundle.iterdir()) == FILES
    assert (bundle / "model.tflite").read_bytes() == exported
    assert (bundle / "labels.txt").read_text().splitlines() == [*LABELS[:-1], "last of all"]
    settings = json.loads((bundle / "preprocessing.json").read_text())
    assert (settings["height"], settings["width"], settings["channel_order"]) == (8, 8, "RGB")
    assert settings["mean"] == list(NORMALIZATION.mean) and settings["output"] == "logits"
    readme = (bundle / "README.md").read_text()
    assert "lce_benchmark_model --graph=model.tflite" in readme
    assert "60 images:\n100.00% of the predictions equal" in readme
    sums = dict(line.split("  ")[::-1] for line in (bundle / "SHA256SUMS").read_text().splitlines())
    assert sorted([*sums, "SHA256SUMS"]) == FILES
    for name, expected in sums.items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == expected


def test_the_runner_says_what_keras_says(bundle, small_network, pictures):
    done = run(bundle, "--json", *pictures)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in bundle.iterdir()) == FILES  # and nothing compiled
    imported = {line.rsplit("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "numpy" in imported and not imported & {"bnas_larq", "tensorflow", "tf_keras"}
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in pictures]
    pixels = np.stack([read_image_file(path, Geometry((8, 8))) for path in pictures])
    expected = np.asarray(small_network(NORMALIZATION.apply(pixels)))
    outputs = np.array([row["outputs"] for row in rows])
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-4)
    scores = np.array([row["scores"] for row in rows])
    np.testing.assert_allclose(scores, keras.activations.softmax(tf.constant(expected)), atol=1e-4)


def test_the_runner_cuts_out_what_the_network_was_evaluated_on(
    exported, small_network, pictures, tmp_path
):
    facts = {"evaluation": "center-crop", "crop_share": 0.8}
    folder = write(tmp_path / "cropped", exported, facts)
    settings = json.loads((folder / "preprocessing.json").read_text())
    assert {key: settings[key] for key in facts} == facts and "crop_share" in settings["resize"]
    done = run(folder, "--json", *pictures)
    assert done.returncode == 0, done.stderr
    geometry = Geometry((8, 8), **facts)
    pixels = np.stack([read_image_file(path, geometry) for path in pictures])
    expected = np.asarray(small_network(NORMALIZATION.apply(pixels)))
    outputs = [json.loads(line)["outputs"] for line in done.stdout.splitlines()]
    np.testing.assert_allclose(outputs, expected, atol=1e-4, rtol=1e-4)


def test_the_runner_prints_the_likeliest_classes(bundle, small_network, pictures):
    done = run(bundle, "--top", "2", pictures[0])
    pixels = read_image_file(pictures[0], Geometry((8, 8)))
    outputs = small_network(NORMALIZATION.apply(pixels[None]))
    scores = np.asarray(keras.activations.softmax(outputs))[0]
    first, second = np.argsort(-np.asarray(outputs)[0])[:2]
    labels = (bundle / "labels.txt").read_text().splitlines()
    expected = [f"{labels[index]} {scores[index]:.3f}" for index in (first, second)]
    assert done.stdout == f"{pictures[0]}: {', '.join(expected)}\n"


@pytest.mark.parametrize("case", ["no image", "no file", "eps", "bomb", "tampered", "no sums"])
def test_the_runner_ends_with_one_sentence(bundle, pictures, tmp_path, case):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    image = {"no image": folder / "run.py", "no file": folder / "absent.png"}.get(case, pictures[0])
    if case == "eps":
        image = folder / "eps.png"  # which Pillow gives to Ghostscript
        image.write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
        )
    if case == "bomb":
        image = folder / "bomb.bmp"
        Image.new("RGB", (1, 1)).save(image)
        content = bytearray(image.read_bytes())
        content[18:26] = (60_000).to_bytes(4, "little") * 2  # width and height in its header
        image.write_bytes(content)
    if case == "tampered":
        with open(folder / "model.tflite", "r+b") as file:
            file.truncate(2000)  # the interpreter would die of it
    if case == "no sums":
        (folder / "SHA256SUMS").unlink()
    done = run(folder, image)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and done.stdout == ""
    assert len(errors) == 1 and errors[0].startswith("Error: ")
    if case == "tampered":
        assert "is not the file that was exported" in errors[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("preprocessing.json", text)
            for text in (b"[1]", b"{}", b"[" * 100_000, b"\xff", b"null")
        ),
        ("preprocessing.json", b'{"height": "8"}'),
        (
            "preprocessing.json",
            b'{"height": 8, "width": 8, "mean": [0, 0, 0], "std": [1, 1, 1], "output": "logits", '
            b'"background": [255, 255, 255]}',
        ),
        ("labels.txt", b"one\n"),
        ("SHA256SUMS", b"\xff\n"),
    ],
)
def test_the_runner_refuses_damaged_files(bundle, pictures, tmp_path, name, content):
    """With checksums that fit them: whoever changes a file can change its sum."""
    folder = shutil.copytree(bundle, tmp_path / "copy")
    (folder / name).write_bytes(content)
    if name != "SHA256SUMS":
        sums = [
            line for line in (bundle / "SHA256SUMS").read_text().splitlines() if name not in line
        ]
        sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}")
        (folder / "SHA256SUMS").write_text("\n".join(sums))
    done = run(folder, pictures[0])
    errors = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout, len(errors)) == (2, "", 1), done.stderr[-500:]
    assert errors[0].startswith("Error: ") and "no readable image" not in errors[0]


def test_nothing_is_overwritten_unasked(exported, tmp_path):
    folder = write(tmp_path / "bundle", exported)
    with pytest.raises(ExportError, match="which exists. Choose another folder or add --overwrite"):
        write(folder, exported)
    (folder / "card.md").write_text("mine")
    write(folder, exported, overwrite=True)
    assert (folder / "card.md").read_text() == "# a card\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_only_a_bundle_is_replaced(exported, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="Only a bundle is replaced by a bundle"):
        write(tmp_path, exported, overwrite=True)
    with pytest.raises(ExportError, match="Only a bundle is replaced by a bundle"):
        write(tmp_path / "thesis.txt", exported, overwrite=True)
    # Folders of downloads hold sums too, and a bundle may have been written among other things.
    (tmp_path / "SHA256SUMS").write_text("")
    with pytest.raises(ExportError, match="Only a bundle is replaced by a bundle"):
        write(tmp_path, exported, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_of_the_user_s_named_like_a_file_of_a_bundle_stays(exported, tmp_path):
    folder = write(tmp_path / "bundle", exported)
    (folder / "card.md").unlink()
    (folder / "card.md").mkdir()
    (folder / "card.md" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="Only a bundle is replaced by a bundle"):
        write(folder, exported, overwrite=True)
    assert (folder / "card.md" / "thesis.txt").read_text() == "years of work"


def test_on_a_full_disk_nothing_is_left_and_the_earlier_one_stays(exported, tmp_path, full_disk):
    folder = write(tmp_path / "bundle", exported)
    with full_disk(1000), pytest.raises(RunError, match="A bundle must be written to disk"):
        write(folder, exported, overwrite=True)
    assert (folder / "model.tflite").read_bytes() == exported
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("top", "kind"),
    [
        ([keras.layers.Dense(3)], "logits"),
        ([keras.layers.Dense(3, activation="softmax")], "probabilities"),
        ([keras.layers.Dense(3), keras.layers.Softmax()], "probabilities"),
        ([keras.Sequential([keras.layers.Dense(3, activation="softmax")])], "probabilities"),
    ],
)
def test_the_output_is_told_from_the_last_layer(top, kind):
    assert output_kind(keras.Sequential([keras.Input((4,)), *top])) == kind


def test_a_card_tells_what_is_known_and_what_is_not(small_network):
    costs = count_costs(small_network)
    settings = {"costs": costs, "input_shape": (8, 8, 3), "classes": 10}
    card = deployment_card("mine", **settings, facts={"Data": "digits", "Begun with": None})
    assert card.startswith("# mine\n") and "- Data: digits\n" in card and "Begun" not in card
    assert f"{costs.bytes:,} bytes" in card and "Not measured here." in card
    test = {"accuracy": 0.5, "top5_accuracy": None, "examples": 1200}
    assert "Not stated" in card
    card = deployment_card("mine", **settings, test=test, terms="Their authors'.")
    assert "Their authors'." in card and "Not stated" not in card
    assert "50.00% on 1,200 test images." in card and "top-5" not in card
