"""Training and evaluation of final networks."""

from bnas_larq.training.evaluation import Evaluation, evaluate_network
from bnas_larq.training.finetune import fine_tune_network
from bnas_larq.training.stored import train_stored
from bnas_larq.training.trainer import train_network

__all__ = [
    "Evaluation",
    "evaluate_network",
    "fine_tune_network",
    "train_network",
    "train_stored",
]
