"""Search by keras-tuner. Importing this loads no keras-tuner: only a search does."""

from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.records import TrialResult, pareto_front
from bnas_larq.search.tuning.tuner_search import TunerSearch

__all__ = ["Encoding", "TrialResult", "TunerSearch", "pareto_front"]
