"""A model card for a network that has none: what was measured, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnas_larq.models.costs import Costs

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
        costs: from `bnas_larq.models.costs.count_costs`.
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
