"""Training and evaluation of final networks."""

from bnas_larq.training.evaluation import Evaluation, evaluate_network
from bnas_larq.training.recipe_training import (
    check_stages,
    stage_config,
    stage_pipeline,
    train_stored,
)
from bnas_larq.training.teachers import Teacher
from bnas_larq.training.trainer import train_network
from bnas_larq.training.training_plan import check_networks

__all__ = [
    "Evaluation",
    "Teacher",
    "check_networks",
    "check_stages",
    "evaluate_network",
    "stage_config",
    "stage_pipeline",
    "train_network",
    "train_stored",
]
