"""Training and evaluation of final networks."""

from bnas_larq.training.evaluation import Evaluation, evaluate_network
from bnas_larq.training.recipe_training import check_stages, stage_pipeline, train_stored
from bnas_larq.training.teachers import Teacher
from bnas_larq.training.trainer import train_network

__all__ = [
    "Evaluation",
    "Teacher",
    "check_stages",
    "evaluate_network",
    "stage_pipeline",
    "train_network",
    "train_stored",
]
