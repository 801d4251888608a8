"""Model cards: what a published network is, how it came about, and what it is not good for.

Every number comes from the run or from the evaluation at publishing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnas_larq.networks.network import NetworkConfig
from bnas_larq.zoo.published_run import FinishedRun
from bnas_larq.zoo.variants import VARIANTS

#: Rows of the training's table; of longer trainings evenly chosen epochs.
_ROWS = 12
#: What the papers train for (arXiv 2002.06963), to compare with.
_PAPER_EPOCHS = {"cifar10": 600, "imagenet": 250}


def model_card(
    name: str, facts: Mapping[str, Any], run: FinishedRun, notes: Sequence[str] = ()
) -> str:
    """The card of the entry `name` as Markdown.

    Args:
        facts: the entry's, see `bnas_larq.zoo.entries.Entry`.
        run: that it is published from.
        notes: what else users should know, listed under the limits.
    """
    sections = [
        f"# {name}\n\n{facts['description']}\n\n{_table(_overview(facts, run))}",
        f"## Use\n\n{_use(name, facts)}",
        f"## Data\n\n{_data(run)}",
        f"## Training\n\n{_training(run)}",
        f"## Limits\n\n{_list([*_limits(facts, run), *notes])}",
        f"## Cells\n\n```\n{run.network.genotype.pretty()}\n```",
        f"## Licence and provenance\n\n{_list(_provenance(facts, run))}",
        f"## Make it again\n\n{_repeat(facts, run)}",
    ]
    return "\n\n".join(sections) + "\n"


def _overview(facts: Mapping[str, Any], run: FinishedRun) -> list[tuple[str, str]]:
    metrics, cost, config = facts["metrics"], facts["cost"], run.network.config
    right = round(metrics["accuracy"] * metrics["examples"])
    shape = "×".join(map(str, config.input_shape))
    rows = [
        (
            "Test accuracy",
            f"**{metrics['accuracy']:.2%}** ({right:,} of {metrics['examples']:,} images right; "
            "evaluated in the run and again when published)",
        )
    ]
    if "top5_accuracy" in metrics:
        rows.append(("Test accuracy, top 5", f"{metrics['top5_accuracy']:.2%}"))
    rows.append(("Test loss", f"{metrics['loss']:.4f} nats"))
    if "validation_accuracy" in metrics:
        rows.append(("Validation accuracy", f"{metrics['validation_accuracy']:.2%}"))
    return [
        *rows,
        ("Images → classes", f"{shape} → {config.num_classes}"),
        (
            "Network",
            f"{config.cells} cells of {config.channels} channels, {config.stem} stem, "
            f"genotype `{run.network.genotype.id}`{_unusual(config)}",
        ),
        (
            "MACs",
            f"{cost['binary_macs']:,} in 1 bit, {cost['full_precision_macs']:,} in full precision "
            f"({cost['shortcut_macs']:,} of them in shortcuts)",
        ),
        ("OPs, papers' convention", f"{cost['ops_paper']:.4g} (1-bit MACs and shortcuts / 64)"),
        ("OPs, counted honestly", f"{cost['ops_honest']:.4g} (only 1-bit MACs / 64)"),
        ("Memory", f"{cost['bytes']:,} bytes (1 bit per binary weight, 4 bytes per other number)"),
        ("Parameters", f"{cost['parameters']:,}, {cost['trainable_parameters']:,} trainable"),
    ]


def _unusual(config: NetworkConfig) -> str:
    """What in the template is not as usual; empty if nothing is."""
    usual = NetworkConfig()
    keys = ("stem_groups", "padding", "shortcut", "scheme", "full_precision")
    own = {key: value for key in keys if (value := getattr(config, key)) != getattr(usual, key)}
    return f"; {_pairs(own)}" if own else ""


def _use(name: str, facts: Mapping[str, Any]) -> str:
    variant = VARIANTS.get(facts["variant"] or "")
    if variant is None:
        load = (
            "from bnas_larq.zoo import find_entry, preprocess_input\n\n"
            f'model = find_entry("{name}").load_model(classifier_activation="softmax")'
        )
    else:
        load = (
            f"from bnas_larq.zoo import {variant.factory}, preprocess_input\n\n"
            f'model = {variant.factory}(weights="{name}")'
        )
    return (
        f"```python\n{load}\n"
        f'outputs = model.predict(preprocess_input(images, weights="{name}"))\n```\n\n'
        f"Fine-tune it: `bnas-larq finetune {name} --data FOLDER`. "
        f"Deploy it: `bnas-larq export {name} --bundle FOLDER`."
    )


def _data(run: FinishedRun) -> str:
    described, settings, network = run.network.data, run.recipe.data, run.network
    sizes = described.get("sizes") or {}
    parts = [f"{sizes[part]:,} for {part}" for part in sizes if sizes[part]]
    normalization = {k: [round(float(v), 4) for v in vs] for k, vs in network.normalization.items()}
    changes = settings.augmentation.model_dump(exclude_defaults=True)
    size = "as they are" if settings.image_size is None else f"resized to {settings.image_size}"
    lines = [
        f"`{described.get('name', settings.name)}`: {', '.join(parts) or 'sizes not recorded'}; "
        "the test part took no part in training or in choices.",
        f"Images {size}; values / 255, minus {normalization.get('mean')}, divided by "
        f"{normalization.get('std')}.",
        f"Augmentation: {_pairs(changes)}.",
        f"Classes: {_names(network.class_names)}.",
    ]
    return _list(lines)


def _training(run: FinishedRun) -> str:
    recipe, lines = run.recipe, []
    search = run.facts["search"]
    if search.get("searched"):
        s = recipe.search
        lines.append(
            f"Search: space `{s.space}`, {s.epochs} epochs, {s.cells} cells of {s.channels} "
            f"channels, {_limit(s.limit)}, {_time(search)}. The cell is that of epoch "
            f"{search.get('epoch', '?')}."
        )
    elif recipe.finetune is None:
        lines.append(f"Search: none; the genotype was given ({_genotype_source(run)}).")
    if recipe.finetune is not None:
        f = recipe.finetune
        lines.append(
            f"Fine-tuned from `{run.began_with[0].name}` with a new head: {f.head_epochs} epochs "
            f"of the head alone (adam, learning rate {f.head_learning_rate:g}, constant), then "
            f"everything; rate of binary kernels × {f.binary_multiplier}."
        )
    t = recipe.train
    lines += [
        f"Training: {t.epochs} epochs, batch {t.batch_size}, {t.optimizer}, learning rate "
        f"{t.learning_rate:g} ({t.schedule}), weight decay {t.weight_decay:g}, drop-path "
        f"{t.drop_path:g}, label smoothing {t.label_smoothing:g}, {_time(run.facts['train'])}.",
        f"Seed {recipe.seed}; {_machine(run)}. All settings: [recipe.yaml](recipe.yaml); all "
        "epochs: [training.csv](training.csv); confusion of the test images: "
        "[confusion.csv](confusion.csv).",
    ]
    if not run.epochs:
        return _list(lines)
    return f"{_list(lines)}\n\n{_epochs(run.epochs)}\n\n![training](train_curves.png)"


def _epochs(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of at most `_ROWS` epochs, with the first and the last."""
    last = len(rows) - 1
    count = min(_ROWS, len(rows))
    chosen = sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
    header = ("epoch", "training loss", "accuracy", "validation loss", "accuracy")
    table = [header, ("---:",) * len(header)]
    for index in chosen:
        row = rows[index]
        table.append(
            (
                str(index + 1),
                _number(row.get("loss"), "{:.4f}"),
                _number(row.get("accuracy"), "{:.2%}"),
                _number(row.get("val_loss"), "{:.4f}"),
                _number(row.get("val_accuracy"), "{:.2%}"),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def _limits(facts: Mapping[str, Any], run: FinishedRun) -> list[str]:
    config, epochs = run.network.config, len(run.epochs)
    images = (run.network.data.get("sizes") or {}).get("train")
    lines = [
        f"Trained for {epochs} epochs"
        + (f" on {images:,} images" if images else "")
        + ", one run with one seed: how much another seed would differ was not measured."
    ]
    usual = _PAPER_EPOCHS.get(facts["dataset"])
    if usual is not None and epochs < usual:
        lines.append(f"That is little: the papers train {usual} epochs on {facts['dataset']}.")
    variant = VARIANTS.get(facts["variant"] or "")
    if variant is not None:
        papers = variant.config()
        same_cells = variant.load_genotype().id == run.network.genotype.id
        if not (
            same_cells and (config.cells, config.channels) == (variant.cells, variant.channels)
        ):
            cells = f"the cells `{variant.genotype}`" if not same_cells else "the same cells"
            lines.append(
                f"It is not the papers' {variant.factory}, which has {variant.cells} cells of "
                f"{variant.channels} channels and {cells}: their results do not hold for it."
            )
        elif (config.stem, config.stem_groups) != (papers.stem, papers.stem_groups):
            lines.append(
                f"It has the cells and the size of the papers' {variant.factory}, but not its "
                f"stem, which is made for {'×'.join(map(str, papers.input_shape))}: their results "
                "do not hold for it."
            )
    lines += [
        "It always answers with one of its classes, also for an image of something else.",
        f"Images that differ from `{facts['dataset']}` in size, colours or kind were not tried.",
    ]
    return lines


def _provenance(facts: Mapping[str, Any], run: FinishedRun) -> Iterable[str]:
    yield f"Licence of the weights: {facts['license']}"
    if not facts["redistributable"]:
        yield "**Not to be passed on**: use it yourself, under the licence it came with."
    for origin in run.began_with:
        terms = f", licence: {origin.license}" if origin.license else ""
        yield f"Began with the weights of `{origin.name}` ({origin.source}{terms})."
    yield (
        f"Made with the recipe `{run.recipe.name}` by bnas-larq, published with "
        "`bnas-larq zoo publish`; SHA-256 of every file: [entry.json](entry.json)."
    )
    yield "The licence of the images is their makers' and not covered here."


def _repeat(facts: Mapping[str, Any], run: FinishedRun) -> str:
    name = run.recipe.data.name
    data = {"digits": "", "folder": " --data-dir FOLDER"}.get(name, " --data-dir TFDS-DIRECTORY")
    if run.recipe.finetune is not None:
        source = "FOLDER" if name == "folder" else name
        first = run.began_with[0].name
        flags = data if name not in ("digits", "folder") else ""
        return (
            f"`bnas-larq finetune {first} --data {source}{flags} --seed {run.recipe.seed}`, with "
            "the settings of [recipe.yaml](recipe.yaml) that differ from the usual as "
            "`--set KEY=VALUE`."
        )
    return (
        f"In this folder: `bnas-larq run recipe.yaml{data} --out runs/{run.recipe.name}`. The "
        "same bnas-larq and TensorFlow on the same kind of machine give the same weights."
    )


def _genotype_source(run: FinishedRun) -> str:
    genotype = run.network.genotype
    return genotype.name or str(genotype.provenance.get("source") or genotype.id)


def _machine(run: FinishedRun) -> str:
    packages = run.environment.get("packages") or {}
    own = packages.get("bnas-larq")
    versions = [f"bnas-larq {own}" if own else "bnas-larq from a checkout"] if packages else []
    versions += [f"{key} {packages[key]}" for key in ("tensorflow", "larq") if packages.get(key)]
    cores, machine = run.environment.get("cores"), run.environment.get("machine")
    place = [f"{cores} cores of {machine}"] if cores and machine else []
    return ", ".join([*versions, *place]) or "versions and machine not recorded"


def _limit(limit: int | None) -> str:
    return "all training images" if limit is None else f"{limit:,} training images"


def _time(facts: Mapping[str, Any]) -> str:
    seconds = facts.get("seconds")
    return "time not recorded" if seconds is None else f"{seconds / 60:.1f} minutes"


def _names(names: Sequence[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:20])
    return listed if len(names) <= 20 else f"{listed} and {len(names) - 20} more"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "none"


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, float | int) else "–"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)])


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
