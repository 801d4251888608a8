"""What the makers of searchers and trials need to know of a run: a part of `Workflow`.

A protocol, because `Workflow` itself imports those makers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bnas_larq.backend import tf
    from bnas_larq.data import Augmentation, ImageDataset, Normalization
    from bnas_larq.models.network import NetworkConfig
    from bnas_larq.recipe import Recipe
    from bnas_larq.runs import RunFolder


class RunParts(Protocol):
    """See the attributes of `bnas_larq.cli.workflow.Workflow`."""

    folder: RunFolder
    recipe: Recipe
    data: ImageDataset
    normalization: Normalization
    augmentation: Augmentation
    network_config: NetworkConfig

    def batches(self, examples: Any) -> tf.data.Dataset:
        """Examples once, in stored order, for evaluation."""
