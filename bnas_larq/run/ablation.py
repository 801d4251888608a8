"""An ablation: what each change of a network and its training is worth, at equal operations.

Its folder holds `recipes/<row>.yaml`, the complete recipe of each row, beside the networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bnas_larq.costs.budget_solver import scale_widths, solve_budget
from bnas_larq.costs.cost_walk import planned_costs
from bnas_larq.errors import BnasLarqError, RecipeError
from bnas_larq.files import read_rows, write_atomic, write_json
from bnas_larq.genotype import Genotype
from bnas_larq.layers.quantizers import get_scheme
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.recipe import Recipe, load_recipe, merge_values, parse_recipe
from bnas_larq.recipe_checks import check_keys_are_read
from bnas_larq.report import comparison_report as report
from bnas_larq.report.curves import save_study_curves
from bnas_larq.run.creation import pin_source, resolve_recipe
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.searchers import check_inputs
from bnas_larq.run.study import Study
from bnas_larq.run.team import Team
from bnas_larq.run_records import Epoch
from bnas_larq.spaces import check_operation
from bnas_larq.tables import scientific

#: Sections and keys that all rows share.
_COMMON = ("name", "seed", "genotype", "data", "search", "layer_study", "ablation", "faces")


def row_recipes(recipe: Recipe, folder: Path) -> list[tuple[str, Recipe, Genotype | None]]:
    """Name, recipe and genotype of each row, with the changes of all rows up to it. Residual
    networks have no genotype.

    Args:
        folder: of the ablation, which must not be that of a teacher.

    Raises:
        ZooError, RunError: a row starts or learns from a network that is not there.
        RecipeError: no genotype is given, or a change is none that a row may make.
        GenotypeError: an unknown operation, or one that the genotype does not have.
    """
    of_cells = recipe.network.kind == "cells"
    if (of_cells and recipe.genotype is None) or recipe.finetune is not None:
        raise RecipeError(
            "An ablation trains new networks of one genotype, or residual ones. Received: "
            f"{'finetune' if recipe.finetune else 'no genotype'}. Set genotype to a file or a "
            "published name."
        )
    genotype = Genotype.load(recipe.genotype) if of_cells else None
    values = {**recipe.model_dump(mode="json"), "ablation": None}
    rows = []
    for row in recipe.ablation.rows:
        for section in row.changes:
            if section in _COMMON:
                raise RecipeError(
                    f"The rows of an ablation share {section}. Received: it in the changes of "
                    f"{row.name!r}. Set it for all rows."
                )
        kind = row.changes.get("network", {}).get("kind", recipe.network.kind)
        if (kind == "cells") != of_cells:
            raise RecipeError(
                "All rows of an ablation have networks of cells, or none has. Received: "
                f"network.kind {kind} in the changes of {row.name!r}. Set it for all rows."
            )
        values = merge_values(values, row.changes)
        genotype = _replaced(genotype, row.operations)
        row_recipe = resolve_recipe(parse_recipe({**values, "name": row.name}))
        row_recipe = pin_source(row_recipe, folder)
        check_keys_are_read(row_recipe)
        rows.append((row.name, row_recipe, genotype))
    return rows


def _replaced(genotype: Genotype | None, operations: dict[str, str]) -> Genotype | None:
    """The genotype with operations replaced by others; the order of rows matters."""
    if not operations:
        return genotype
    if genotype is None:
        raise RecipeError(
            "Residual networks have no operations to replace. "
            f"Received: operations={operations}. Remove them."
        )
    for old, new in operations.items():
        check_operation(new)
        if genotype.count(old) == 0:
            raise RecipeError(
                f"A row replaces operations that the genotype has. Received: {old!r}, which is not "
                f"in {genotype.id}. Remove it."
            )
    cells = (
        tuple(
            tuple(edge._replace(op=operations.get(edge.op, edge.op)) for edge in node)
            for node in cell
        )
        for cell in genotype.cells
    )
    return Genotype(*cells, genotype.name, genotype.provenance)


def sized_rows(inputs: RunInputs) -> Iterator[tuple[str, Recipe, Genotype | None]]:
    """`row_recipes` with the size that each row gets."""
    budget, tolerance = None, inputs.recipe.ablation.tolerance
    for name, recipe, genotype in row_recipes(inputs.recipe, inputs.folder.path):
        config = RunInputs(inputs.folder, recipe, inputs.data).network_config
        size = {}
        if budget is None:
            budget = planned_costs(genotype, config).ops_honest
        elif tolerance is not None:
            size = _size(name, genotype, config, budget, tolerance)
        network = recipe.network.model_copy(update=size)
        yield name, recipe.model_copy(update={"network": network}), genotype


def _size(
    name: str, genotype: Genotype | None, config: BaseConfig, budget: float, tolerance: float
) -> dict[str, Any]:
    """The channels, or all widths, whose operations differ least from the budget."""
    multiple = get_scheme(config.scheme).channel_multiple
    limits = {"convention": "honest", "multiple": multiple, "tolerance": tolerance}
    if genotype is None:
        scaled = scale_widths(config, budget, **limits)
        size, operations = {"widths": scaled.widths}, planned_costs(None, scaled).ops_honest
        if last_width := getattr(scaled, "last_width", None):  # of BinaryDuo's network
            size["last_width"] = last_width
    else:
        settings = {k: v for k, v in config.to_dict().items() if k not in ("cells", "channels")}
        (best,) = solve_budget(genotype, budget, cells=config.cells, **limits, **settings)
        size, operations = {"channels": best.channels}, best.ops_honest
    if operations < budget * (1 - tolerance):
        keys, values = " and ".join(size), " and ".join(map(str, size.values()))
        raise BnasLarqError(
            f"The rows of an ablation have equal operations. Received: no {keys} of row "
            f"{name!r} within {tolerance:.0%} of {scientific(budget)}; {values} give "
            f"{scientific(operations)}. Raise ablation.tolerance, or change the size."
        )
    return size


class Ablation(Study):
    """The networks of the section `ablation`."""

    @classmethod
    def create(cls, recipe: Recipe, out: str | Path | None = None, **settings: Any) -> Ablation:
        ablation = super().create(recipe, out, **settings)
        try:
            ablation._plan()
        except BaseException:
            ablation.close()
            raise
        return ablation

    @staticmethod
    def check(inputs: RunInputs, team: Team) -> None:
        for _, recipe, genotype in sized_rows(inputs):
            team.check(recipe, ("train",))
            own = RunInputs(inputs.folder, recipe, inputs.data)
            own.given_genotype = genotype
            check_inputs(own, ("train",))

    def _plan(self) -> None:
        """Write the recipes of all rows, if they are not there yet."""
        rows = self.recipe.ablation.rows
        if all(self._row_path(row.name).is_file() for row in rows):
            return
        for name, recipe, genotype in sized_rows(self.study.inputs):
            if genotype is not None:
                file = self.folder / "genotypes" / f"{name}.json"
                genotype.save(file)
                recipe = recipe.model_copy(update={"genotype": str(file.resolve())})
            write_atomic(self._row_path(name), recipe.to_yaml())

    def _row_path(self, row: str) -> Path:
        return self.folder / "recipes" / f"{row}.yaml"

    def _members(self) -> dict[str, tuple[str, int]]:
        """Name of each network → its row and seed; all rows with the first seed come first."""
        study = self.recipe.ablation
        rows = [(row.name, seed) for seed in study.seeds for row in study.rows]
        return {f"{row}-seed{seed}": (row, seed) for row, seed in rows}

    def names(self) -> list[str]:
        return [*self._members()]

    def recipe_of(self, name: str) -> Recipe:
        row, seed = self._members()[name]
        return load_recipe(self._row_path(row)).model_copy(update={"name": name, "seed": seed})

    def write(self) -> tuple[str, Path]:
        runs, curves = [], []
        for name, (row, seed) in self._members().items():
            planned = {"name": name, "method": row, "seed": seed, "searcher": None, "space": None}
            planned["genotype"] = self._row_path(row).name
            runs.append(report.run_facts(self.path(name), planned, None))
            curves.append((row, read_rows(self.path(name) / "train" / "metrics.jsonl", Epoch)))
        rows, notes, folder = report.method_rows(runs), self._notes(), self.folder
        title = f"Ablation {self.recipe.name}: {self.recipe.data.name}"
        finished = all(run["status"] == "finished" for run in runs)
        path = write_json(
            folder / "ablation.json",
            {
                "recipe": self.recipe.model_dump(mode="json"),
                "finished": finished,
                "rows": rows,
                "runs": runs,
                "notes": notes,
            },
        )
        write_atomic(folder / "ablation.csv", report.comparison_csv(rows))
        write_atomic(folder / "ablation.md", report.comparison_markdown(rows, runs, notes, title))
        report.save_comparison_picture(rows, runs, folder / "ablation.png", title)
        save_study_curves(curves, folder / "ablation_curves.png", title)
        return f"{title}\n\n{report.comparison_text(rows, runs, notes)}", path

    def _notes(self) -> list[str]:
        """What each row changes, and how the numbers came about."""
        notes = []
        for row in self.recipe.ablation.rows:
            network = load_recipe(self._row_path(row.name)).network
            changes = [*_texts(row.changes), *map(" -> ".join, row.operations.items())]
            described = "; ".join(changes) or "the recipe as it is"
            widths = (network.channels,) if network.kind == "cells" else network.widths
            widths += (network.last_width,) if network.last_width else ()
            notes.append(f"{row.name}: {described}. {', '.join(map(str, widths))} channels.")
        return [
            *notes,
            "Each row keeps the changes of the rows above it. The test part was used once for each "
            "network, after its training.",
            "a ± b: mean and sample standard deviation over the seeds. OPs, honest: only 1-bit "
            "MACs divided by 64. Size: 1 bit for each binary weight, 4 bytes for each other weight "
            "and each scale.",
        ]


def _texts(changes: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested changes as `train.drop_path 0.0`."""
    texts = []
    for key, value in changes.items():
        if isinstance(value, dict):
            texts += _texts(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key} {value}")
    return texts
