"""Training and evaluation of final networks."""

from bnas_larq.training.evaluation import Evaluation, evaluate_network
from bnas_larq.training.recipe_training import fine_tune_network, train_stored
from bnas_larq.training.trainer import train_network

__all__ = ["Evaluation", "evaluate_network", "fine_tune_network", "train_network", "train_stored"]
