"""Image data: sources, splits, augmentation and pipelines."""

from __future__ import annotations

from bnas_larq.data.augmentation import Augmentation
from bnas_larq.data.dataset import ImageDataset
from bnas_larq.data.examples import Examples, data_errors
from bnas_larq.data.normalization import Normalization
from bnas_larq.data.pipelines import (
    EVALUATION_BATCH,
    EpochPipeline,
    EvaluationPipeline,
    bilevel_pipeline,
    evaluation_dataset,
    training_pipeline,
    view_images,
)
from bnas_larq.data.shards import distributed
from bnas_larq.data.sources import load_dataset, load_described, load_moved

__all__ = [
    "EVALUATION_BATCH",
    "Augmentation",
    "EpochPipeline",
    "EvaluationPipeline",
    "Examples",
    "ImageDataset",
    "Normalization",
    "bilevel_pipeline",
    "data_errors",
    "distributed",
    "evaluation_dataset",
    "load_dataset",
    "load_described",
    "load_moved",
    "training_pipeline",
    "view_images",
]
