"""Search by keras-tuner, which is loaded when a search begins."""

from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.records import TrialResult, pareto_front
from bnas_larq.search.tuning.tuner_search import TunerSearch

__all__ = ["Encoding", "TrialResult", "TunerSearch", "pareto_front"]
