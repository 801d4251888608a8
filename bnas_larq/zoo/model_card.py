"""The facts of a model card; `templates/model_card.md` holds its words.

Every number comes from the run or from the evaluation at publishing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnas_larq.data_settings import AugmentationSettings
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network_files import StoredNetwork
from bnas_larq.pages import render
from bnas_larq.recipe import Recipe
from bnas_larq.zoo.published_run import FinishedRun
from bnas_larq.zoo.variants import VARIANTS, Variant

#: Rows of the training's table; of longer trainings evenly spaced epochs.
_ROWS = 12
#: Settings that a card states elsewhere; and those of blocks, which it always states.
_STATED = (
    *("input_shape", "num_classes", "classifier_activation", "stem", "preprocess"),
    *("cells", "channels", "widths", "blocks"),
)
_BLOCKS = ("transition", "block_order", "nonlinearity")
#: What the papers train for (arXiv 2002.06963), for comparison.
_PAPER_EPOCHS = {"cifar10": 600, "imagenet": 250}


def model_card(
    name: str, facts: Mapping[str, Any], run: FinishedRun, notes: Sequence[str] = ()
) -> str:
    """The card of the entry `name` as Markdown; `facts` are those of `bnas_larq.zoo.entries.Entry`,
    `notes` are listed under the limits."""
    network, recipe, metrics = run.network, run.recipe, facts["metrics"]
    sizes = network.data.get("sizes") or {}
    variant = VARIANTS.get(facts["variant"] or "")
    parts = ("train", "validation") if recipe.train.on == "all" else ("train",)
    return render(
        "model_card.md",
        name=name,
        facts=facts,
        metrics=metrics,
        cost=facts["cost"],
        right=round(metrics["accuracy"] * metrics["examples"]),
        notes=notes,
        recipe=recipe,
        stages=_stages(recipe),
        sources=_sources(recipe),
        finetune=recipe.finetune,
        began_with=run.began_with,
        variant=variant,
        config=network.config,
        genotype=network.genotype,
        class_names=network.class_names,
        unusual=unusual(network.config),
        difference=variant and difference(variant, network),
        data=network.data,
        sizes=_sizes(sizes, recipe.train.on == "all"),
        normalization={
            key: [round(float(value), 4) for value in values]
            for key, values in network.normalization.items()
        },
        augmentation=_augmentation(recipe.data.augmentation),
        own_augmentation=any(stage.augmentation for stage in recipe.plan),
        training_images=sum(sizes.get(part) or 0 for part in parts),
        search=run.facts["search"],
        search_time=_time(run.facts["search"]),
        train_time=_time(run.facts["train"]),
        machine=_machine(run.environment),
        epochs=run.epochs,
        table=_table(run.epochs),
        paper_epochs=network.genotype and _PAPER_EPOCHS.get(facts["dataset"]),
    )


def unusual(config: BaseConfig) -> str:
    """Settings of the template that differ from the usual, as `; padding symmetric`, and the blocks
    of a residual network."""
    usual = type(config)()
    own = {
        key: value
        for key in sorted(config.settings(), key=BaseConfig.settings().__contains__)
        if key not in _STATED
        and ((value := getattr(config, key)) != getattr(usual, key) or key in _BLOCKS)
    }
    return f"; {_pairs(own)}" if own else ""


def difference(variant: Variant, network: StoredNetwork) -> str:
    """How a network differs from the papers' of its variant, a sentence; empty if it does not."""
    config, papers = network.config, variant.config()
    same_cells = variant.load_genotype().id == network.genotype.id
    if not same_cells or (config.cells, config.channels) != (variant.cells, variant.channels):
        cells = "the same cells" if same_cells else f"the cells `{variant.genotype}`"
        return (
            f"It is not the papers' {variant.factory}, which has {variant.cells} cells of "
            f"{variant.channels} channels and {cells}: their results do not hold for it."
        )
    if (config.stem, config.stem_groups) != (papers.stem, papers.stem_groups):
        return (
            f"It has the cells and the size of the papers' {variant.factory}, but not its stem, "
            f"which is made for {'×'.join(map(str, papers.input_shape))}: their results do not "
            "hold for it."
        )
    if (config.shortcut, config.reductions) != (papers.shortcut, None):
        return (
            f"It has the cells and the size of the papers' {variant.factory}, but another shortcut "
            "or other reduction cells: their results do not hold for it."
        )
    return ""


def _stages(recipe: Recipe) -> list[str]:
    """A line on each stage of the training, but a fine-tuning's head."""
    stages = recipe.plan if recipe.finetune is None else recipe.plan[-1:]
    lines = []
    for stage in stages:
        decay = stage.weight_decay
        decay = f"{decay:g}" if isinstance(decay, float) else _pairs(decay.model_dump())
        facts = dict(stage.network_settings)
        if len(stages) > 1:
            facts |= {"stage": stage.name, "from": Path(stage.start).name}
        if stage.crop_size:
            facts["crops"] = f"{stage.crop_size}×{stage.crop_size}"
        if stage.teacher:
            facts["teacher"] = Path(stage.teacher.model).name
        lines.append(
            f"{f' ({_pairs(facts)})' if facts else ''}: {stage.epochs} epochs, "
            f"batch {stage.batch_size}, {stage.optimizer}, learning rate {stage.learning_rate:g} "
            f"({stage.schedule}), weight decay {decay}, drop-path {stage.drop_path:g}, "
            f"label smoothing {stage.label_smoothing:g}"
            + (
                f", its own augmentation ({_augmentation(own)})"
                if (own := stage.augmentation)
                else ""
            )
        )
    return lines


def _sizes(sizes: Mapping[str, int], all_train: bool) -> str:
    """How many images each part has; `all_train`: the validation part trains, too."""
    also = {"validation": " (which train, too)"} if all_train else {}
    return ", ".join(
        f"{size:,} for {part}{also.get(part, '')}" for part, size in sizes.items() if size
    )


def _augmentation(settings: AugmentationSettings) -> str:
    """What is changed about training images, or `none`."""
    return _pairs(settings.model_dump(exclude_defaults=True)) or "none"


def _sources(recipe: Recipe) -> str:
    """The weights that stages start and learn from, without which a run cannot be repeated."""
    weights = [(stage.start, stage.start_sha256) for stage in recipe.plan if stage.starts_elsewhere]
    teachers = [stage.teacher for stage in recipe.plan if stage.teacher]
    weights += [(one.model, one.sha256) for one in teachers if not one.is_previous]
    return ", ".join(
        f"`{Path(name).name}`" + (f" (SHA-256 {digest[:12]}…)" if digest else "")
        for name, digest in dict.fromkeys(weights)
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """At most `_ROWS` epochs, the first and the last among them."""
    last, count = len(rows) - 1, min(_ROWS, len(rows))
    columns = {"loss": ".4f", "accuracy": ".2%", "val_loss": ".4f", "val_accuracy": ".2%"}
    table = []
    for epoch in sorted({round(i * last / max(count - 1, 1)) for i in range(count)}):
        values = [(rows[epoch].get(key), form) for key, form in columns.items()]
        cells = [format(v, form) if isinstance(v, float | int) else "–" for v, form in values]
        table.append([str(epoch + 1), *cells])
    return table


def _machine(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages") or {}
    own = packages.get("bnas-larq")
    facts = [f"bnas-larq {own}" if own else "bnas-larq from a checkout"] if packages else []
    facts += [f"{key} {packages[key]}" for key in ("tensorflow", "larq") if packages.get(key)]
    cores, machine = environment.get("cores"), environment.get("machine")
    if cores and machine:
        facts.append(f"{cores} core{'s' if cores > 1 else ''} of {machine}")
    return ", ".join(facts) or "versions and machine not recorded"


def _time(stage: Mapping[str, Any]) -> str:
    seconds = stage.get("seconds")
    return "time not recorded" if seconds is None else f"{seconds / 60:.1f} minutes"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
