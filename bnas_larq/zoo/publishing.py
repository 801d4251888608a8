"""From a finished run to a zoo entry, whose weights are evaluated again before it is written.

What is published is what was evaluated: files are copied first, and the network is built from the
copies.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import count_costs
from bnas_larq.data import (
    EVALUATION_BATCH,
    ImageDataset,
    Normalization,
    data_errors,
    evaluation_dataset,
    load_described,
)
from bnas_larq.errors import DataError, ZooError
from bnas_larq.export.exporter import export_network
from bnas_larq.export.file_network import FileNetwork
from bnas_larq.files import write_atomic
from bnas_larq.genotype import PUBLISHED
from bnas_larq.networks.network_files import GENOTYPE, NETWORK, WEIGHTS, StoredNetwork
from bnas_larq.networks.weight_files import load_weights, save_weights
from bnas_larq.recipe import Recipe
from bnas_larq.report.curves import save_training_curves
from bnas_larq.resources import user_zoo
from bnas_larq.tables import csv_text
from bnas_larq.train_settings import with_sources
from bnas_larq.training import Evaluation, evaluate_network
from bnas_larq.zoo.entries import CARD, Entry, check_target, store_entry
from bnas_larq.zoo.entry_format import DATASET, check_url, is_share
from bnas_larq.zoo.model_card import model_card
from bnas_larq.zoo.published_run import (
    RECIPE,
    FinishedRun,
    Origin,
    check_redistributable,
    license_of,
)
from bnas_larq.zoo.registry import check_not_a_dataset
from bnas_larq.zoo.variants import VARIANTS, variant

#: Relative, far above machines' rounding: finds other images or weights of the same accuracy.
LOSS_TOLERANCE = 1e-3
TRAINING, CONFUSION = "training.csv", "confusion.csv"
#: A sentence for the card.
_HALF = "Weights are stored as float16; the accuracy is that of the stored ones."
#: Costs that are too long for an entry, or say nothing about it.
_LEFT_OUT = ("layers", "name", "uncounted")


def publish_run(
    run: str | Path,
    name: str,
    *,
    variant: str | None = None,
    dataset: str | None = None,
    out: str | Path | None = None,
    license: str = "Apache-2.0",
    description: str = "",
    notes: Sequence[str] = (),
    weights_url: str | None = None,
    half: bool = False,
    data: ImageDataset | None = None,
    data_dir: str | Path | None = None,
    overwrite: bool = False,
) -> Entry:
    """Make a zoo entry of a finished run.

    The weights are evaluated on the run's test split again. They must classify exactly the recorded
    number of images correctly, with the recorded loss (within 1e-3). Other hardware may round
    differently and move one image across the boundary: then publish where the run was made.

    Args:
        run: folder of a trained and evaluated run.
        name: of the entry; small letters, digits and hyphens.
        variant: the family member it belongs to, such as "bnas-d", at whatever size. Default: that
            of the entry it was fine-tuned from, or the one whose cells and size it has; without
            any it is found by its name only.
        dataset: what `weights=` finds it by; default the data set's name, or its folder's.
        out: the zoo; default the user's own.
        license: of the weights. Those fine-tuned from weights that may not be redistributed keep
            that licence and go to the user's own zoo only.
        description: one line for lists; default made from the facts.
        notes: sentences for the card's limits: what else users should know.
        weights_url: where you will put weights.h5 for others. With it the entry also works without
            that file, which is downloaded when it is first needed.
        half: store the weights as float16, in less than half of the bytes. The entry's accuracy is
            that of the rounded weights, which may differ by 0.1 points (by one image of fewer than
            2,000).
        data: the run's data set, if it is loaded already.
        data_dir: where the data set is now, if not where the recipe says.
        overwrite: replace an earlier entry of this name.

    Raises:
        ZooError: the run is not finished, its weights do not give the recorded accuracy, the test
            split is another, or the entry cannot be made; then nothing is written.
        BnasLarqError: the run or the data set is damaged.

    Example:
        >>> publish_run("runs/digits", "My Digits")
        Traceback (most recent call last):
            ...
        bnas_larq.errors.ZooError: A zoo entry's name must be of small letters, digits...
    """
    zoo = user_zoo() if out is None else Path(out)
    check_target(zoo, name, overwrite=overwrite)
    finished = FinishedRun.load(run)
    dataset = dataset or finished.dataset
    if not DATASET.fullmatch(dataset):
        raise ZooError(
            "A data set's name in the zoo has small letters, digits, hyphens and underscores. "
            f"Received: {dataset!r}. Give another with --dataset."
        )
    check_not_a_dataset(name, dataset)
    chosen = _variant(variant, finished.network, finished.began_with)
    check_redistributable(finished.began_with, zoo, user_zoo())
    license, redistributable = license_of(finished.began_with, license)
    for text in (license, description, *notes):
        if not text.isprintable():
            raise ZooError(
                "An entry's licence, description and notes are one line of printable text each. "
                f"Received: {text!r}. Correct it."
            )
    if weights_url:
        check_url(weights_url)
    remarks = [*notes, *([_HALF] if half else [])]
    data = data or _load_data(finished.recipe, data_dir)
    _check_data(finished, data)

    def fill(folder: Path) -> dict[str, Any]:
        genotype = [GENOTYPE] if finished.network.genotype else []
        for file in (NETWORK, *genotype, WEIGHTS):
            shutil.copyfile(finished.folder / file, folder / file)
        model = StoredNetwork.load(folder).load_model()
        if half:
            load_weights(model, save_weights(model, folder / WEIGHTS, half=True))
        normalization = Normalization.from_dict(finished.network.normalization)
        with data_errors():
            images = evaluation_dataset(data.test, EVALUATION_BATCH, normalization)
            evaluation = evaluate_network(model, images)
        rounded = max(1, len(evaluation.labels) // 1000) if half else 0
        _check_accuracy(finished, evaluation, rounded)
        costs = {k: v for k, v in count_costs(model).to_dict().items() if k not in _LEFT_OUT}
        metrics = evaluation.metrics()
        if (validation := finished.facts["train"].get("validation_accuracy")) is not None:
            metrics["validation_accuracy"] = validation
        deployed = {}
        if finished.float_storage is not None:
            deployed = _deployed_facts(model, images, finished.float_storage)
        evaluation.write_confusion(folder / CONFUSION, data.class_names)
        write_atomic(folder / RECIPE, _portable(finished.recipe).to_yaml())
        write_atomic(folder / TRAINING, _csv(finished.epochs))
        save_training_curves(finished.epochs, folder)
        facts = {
            "variant": chosen,
            "dataset": dataset,
            "source": "published",
            "redistributable": redistributable,
            "license": license,
            "description": description
            or f"{finished.network.config.size} for {dataset}, "
            f"{len(finished.epochs)} epochs of training",
            "metrics": metrics,
            "cost": costs,
            "deployed": deployed,
            "provenance": {**_provenance(finished), "notes": remarks},
            "urls": {WEIGHTS: weights_url} if weights_url else {},
        }
        write_atomic(folder / CARD, model_card(name, facts, finished, remarks))
        return facts

    return store_entry(zoo, name, fill, overwrite=overwrite)


def _variant(
    wanted: str | None, network: StoredNetwork, began_with: Sequence[Origin] = ()
) -> str | None:
    if network.genotype is None:
        if wanted is not None:
            raise ZooError(
                "The members of a family are made of cells. "
                f"Received: --variant {wanted} for {network.config.size}. Omit it."
            )
        return None
    if wanted is not None:
        return variant(wanted).name
    for origin in began_with:  # fine-tuning changes neither cells nor size
        if origin.variant is not None:
            return origin.variant
    config = network.config
    own = (network.genotype.id, config.cells, config.channels, config.stem_groups, config.shortcut)
    for known in VARIANTS.values():
        groups = known.stem_groups if config.stem == "imagenet" else 1
        size = (known.cells, known.channels, groups, known.shortcut)
        if (known.load_genotype().id, *size) == own and config.reductions is None:
            return known.name
    return None


def _load_data(recipe: Recipe, data_dir: str | Path | None) -> ImageDataset:
    settings = recipe.data
    if data_dir is not None:
        if settings.name == "digits":
            raise ZooError(
                f"The embedded digits are in no folder. Received: {data_dir}. Omit --data-dir."
            )
        settings = settings.model_copy(update={"data_dir": str(data_dir)})
    try:
        return load_described(settings, recipe.seed)
    except DataError as error:
        raise ZooError(
            f"Publishing needs the run's test images. Received: {error} "
            "Name their folder with --data-dir."
        ) from error


def _check_data(run: FinishedRun, data: ImageDataset) -> None:
    """The data set must be the one the run was made with."""
    before = (run.network.data.get("fingerprints") or {}).get("test")
    with data_errors():
        same = before in (None, data.test.fingerprint())
    if not same or tuple(data.class_names) != run.network.class_names:
        raise ZooError(
            "A run is published with the test images it was evaluated on. "
            f"Received: another test split of {data.name!r} than {run.folder} records. "
            "Name the folder of the run's data set with --data-dir."
        )


def _check_accuracy(run: FinishedRun, evaluation: Evaluation, rounded: int) -> None:
    """The weights must have the accuracy and the loss that the run recorded; rounded ones may
    classify this many images otherwise."""
    recorded, measured = run.recorded, evaluation.metrics()
    total = measured["examples"]
    before, now = (
        round(metrics["accuracy"] * total) if is_share(metrics.get("accuracy")) else None
        for metrics in (recorded, measured)
    )
    if recorded.get("examples") != total or before is None or abs(before - now) > rounded:
        raise ZooError(
            "An entry's accuracy is the one its weights have. Received: "
            f"{now} of {total} test images right, and in {run.folder / 'state.json'} "
            f"{before} of {recorded.get('examples')}. "
            "Train again, or evaluate and publish on the machine of the run."
        )
    before, now = recorded.get("loss"), measured["loss"]
    if not isinstance(before, float) or not abs(now - before) <= LOSS_TOLERANCE * max(1, before):
        raise ZooError(
            "An entry's test loss is the one its weights have. Received: "
            f"{now:.4f}, and in {run.folder / 'state.json'} {before}. "
            "Train again, or publish with the weights and images that were evaluated."
        )


def _deployed_facts(
    model: keras.Model, images: tf.data.Dataset, float_storage: str
) -> dict[str, Any]:
    """Of a model's `.tflite` file, as of `export_network`, and its accuracy on the test images, the
    first batch of which is compared with Keras; ExportError for a model that cannot be converted.
    """
    first, _ = next(iter(images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        report = export_network(model, path, first.numpy(), float_storage=float_storage)
        evaluation = evaluate_network(FileNetwork(path.read_bytes()), images)
    keys = ("bytes", "sha256", "float_storage", "memory")
    keys += ("binary_convolutions", "float_convolutions")
    return {**{key: report[key] for key in keys}, "accuracy": evaluation.metrics()["accuracy"]}


def _portable(recipe: Recipe) -> Recipe:
    """The recipe without the paths of the machine it ran on."""
    changes: dict[str, Any] = {"data": recipe.data.model_copy(update={"data_dir": None})}
    source = recipe.genotype
    if source is not None and source not in PUBLISHED and not source.startswith("random:"):
        changes["genotype"] = GENOTYPE
    changes["train"] = with_sources(
        recipe.train, lambda text, digest: (Path(text).name, digest), lambda cache: None
    )
    if recipe.finetune is not None:
        entry = Path(recipe.finetune.entry).name
        changes["finetune"] = recipe.finetune.model_copy(update={"entry": entry})
    return recipe.model_copy(update=changes)


def _provenance(run: FinishedRun) -> dict[str, Any]:
    environment = ("python", "machine", "cores", "packages")
    return {
        "made_by": "bnas-larq zoo publish",
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "searched": bool(run.facts["search"].get("searched")),
        "epochs": len(run.epochs),
        "seconds": {stage: facts.get("seconds") for stage, facts in run.facts.items()},
        "data": {key: run.network.data.get(key) for key in ("name", "sizes", "fingerprints")},
        "environment": {key: run.environment.get(key) for key in environment},
        "began_with": [dataclasses.asdict(origin) for origin in run.began_with],
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metrics of all epochs, with a column for each that any epoch has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def cell(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return csv_text([columns, *([cell(row.get(key)) for key in columns] for row in rows)])
