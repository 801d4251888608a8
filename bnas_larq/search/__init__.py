"""Searchers: by gradient, in stages of it, by bandit, one-shot, and by keras-tuner."""

from bnas_larq.search.bandit_search import BanditSearch
from bnas_larq.search.gradient_search import GradientSearch
from bnas_larq.search.one_shot_search import OneShotSearch
from bnas_larq.search.progressive_search import ProgressiveSearch
from bnas_larq.search.searcher import SearchData, Searcher, SearchResult
from bnas_larq.search.tuning import TunerSearch

__all__ = [
    "BanditSearch",
    "GradientSearch",
    "OneShotSearch",
    "ProgressiveSearch",
    "SearchData",
    "SearchResult",
    "Searcher",
    "TunerSearch",
]
