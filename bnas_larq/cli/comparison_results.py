"""What a comparison has found out so far: comparison.json, .csv, .md and .png in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnas_larq.cli.comparison_plan import tuner_notes
from bnas_larq.cli.opening import recipe_of
from bnas_larq.runs import write_atomic, write_json

if TYPE_CHECKING:
    from bnas_larq.cli.comparison_runs import ComparisonFolder
    from bnas_larq.recipe import Recipe


def write_comparison(comparison: ComparisonFolder) -> tuple[str, Path]:
    """Write all of them; the table as text, and the path of comparison.json.

    Raises:
        RunError: a file cannot be written, or a run's result cannot be read.
    """
    from bnas_larq.report.comparison import (
        comparison_csv,
        comparison_markdown,
        comparison_text,
        method_rows,
        run_facts,
    )
    from bnas_larq.report.comparison_picture import save_comparison_picture

    folder, failures, planned = comparison.folder, comparison.failures(), comparison.plan()
    budget = recipe_of(folder)
    runs = [
        run_facts(comparison.run_path(one["name"]), one, failures.get(one["name"]))
        for one in planned
    ]
    rows, said = method_rows(runs), notes(budget, planned)
    title = f"Comparison {folder.path.resolve().name}: {budget.data.name}, budget {budget.name}"
    path = write_json(
        folder / "comparison.json",
        {
            "budget": budget.model_dump(mode="json"),
            "finished": all(run["status"] == "finished" for run in runs),
            "methods": rows,
            "runs": runs,
            "adapted": {one["name"]: one["adapted"] for one in planned},
            "notes": said,
        },
    )
    write_atomic(folder / "comparison.csv", comparison_csv(rows))
    write_atomic(folder / "comparison.md", comparison_markdown(rows, runs, said, title))
    save_comparison_picture(rows, runs, folder / "comparison.png", title)
    return f"{title}\n\n{comparison_text(rows, runs, said)}", path


def notes(budget: Recipe, planned: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """How the numbers came about, for whoever reads the table.

    Args:
        planned: the runs, as plan.json has them.
    """
    search, network, train = budget.search, budget.network, budget.train
    images = "all images" if search.limit is None else f"{search.limit:,} images"
    template = "with" if network.shortcut else "without"
    return [
        f"Search: {search.epochs} epochs, {search.cells} cells, {search.channels} channels, batch "
        f"{search.batch_size}, on {images} of the training part: one half moves the weights, the "
        "other α. The validation part only says which epoch's genotype is taken, where "
        "search.select is `best`. What of the methods' own settings was scaled to this is in "
        "plan.json.",
        *tuner_notes(planned),
        "Every genotype was then trained in the same way on the whole training part: "
        f"{network.cells} cells, {network.channels} channels, {template} shortcuts, scheme "
        f"{network.scheme}, {train.epochs} epochs, batch {train.batch_size}. "
        "Networks are trained with this scheme, the budget's, whatever scheme searched them.",
        "The test part was used once for each network, after its training, for the test accuracy.",
        "a ± b: mean and sample standard deviation over the finished runs; OPs, size and shares "
        "are means.",
        "Search time: wall time of the stage, with building and compiling; one run after the "
        "other, each in a process of its own.",
        "OPs, honest: only 1-bit MACs divided by 64; OPs, papers': the full-precision shortcuts "
        "too. Size: 1 bit for each binary weight, 4 bytes for each other one and each scale.",
        "Zeroise, pools: share of the genotype's edges with Zeroise, and with pooling or identity.",
        "Random genotypes are uniform draws from the space, Zeroise included.",
    ]
