"""Search by keras-tuner. Importing this loads no keras-tuner: only a search does."""

from bnas_larq.search.tuning.encoding import Encoding
from bnas_larq.search.tuning.pareto import pareto_front
from bnas_larq.search.tuning.records import TrialResult
from bnas_larq.search.tuning.searcher import TunerSearch

__all__ = ["Encoding", "TrialResult", "TunerSearch", "pareto_front"]
