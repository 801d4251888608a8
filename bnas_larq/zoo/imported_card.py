"""The model card of an imported network: whose it is, and what nobody measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnas_larq.zoo.importing import Imported

LICENSE = (
    "The weights are their authors'. Whoever has them from the authors may use them; "
    "they may not be redistributed."
)


def plain(text: str) -> str:
    """Foreign text for a line of a card: no control characters, no Markdown."""
    return "".join(c if c.isalnum() or c in " ._-" else "_" for c in text)


def imported_card(
    name: str,
    imported: Imported,
    dataset: str,
    cost: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> str:
    """The card of `imported` as Markdown; cost and provenance as in its entry.json."""
    config, checkpoint = imported.config, provenance["checkpoint"]
    genotype = imported.genotype
    kept = ", ".join(config.full_precision) or "none"
    lines = [
        f"# {name}",
        "",
        f"Weights imported from `{plain(checkpoint['name'])}`, a checkpoint of the authors' "
        "program (Kim, Singh, Choi: arXiv 2002.06963).",
        "",
        f"**Licence**: {LICENSE}",
        "",
        "**Accuracy**: not measured. What the papers report was not checked with these weights.",
        "",
        f"- Data set, as told when it was imported or judged by its size: {dataset}, "
        f"{config.num_classes} classes.",
        f"- Genotype: {plain(genotype.name or '')} {genotype.id}; {config.cells} cells, "
        f"{config.channels} channels, images {'x'.join(map(str, config.input_shape))}.",
        f"- Full-precision convolutions besides stem and shortcuts: {kept}.",
        "- Padding: symmetric, as in the authors' program. Strided binary convolutions with it "
        "have no 1-bit kernel in Larq Compute Engine; `bnas-larq export --lint` names them.",
        f"- Cost: {cost['ops_paper']:.4g} OPs in the papers' convention, {cost['ops_honest']:.4g} "
        f"counted honestly; {cost['parameters']:,} parameters, {cost['bytes']:,} bytes deployed.",
        f"- Checkpoint: {checkpoint['bytes']:,} bytes, SHA-256 `{checkpoint['sha256']}`.",
        *(f"- {note}" for note in imported.notes),
    ]
    return "\n".join(lines) + "\n"
