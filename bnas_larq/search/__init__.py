"""Searches: how architectures are tried in the supernet, or one by one, and which one is kept."""

from bnas_larq.search.bandit import BanditSearch
from bnas_larq.search.gradient import GradientSearch
from bnas_larq.search.searcher import SearchData, Searcher, SearchResult
from bnas_larq.search.tuning import TunerSearch

__all__ = [
    "BanditSearch",
    "GradientSearch",
    "SearchData",
    "SearchResult",
    "Searcher",
    "TunerSearch",
]
