"""Searches: how α is trained in the supernet and which genotype is kept."""

from bnas_larq.search.gradient import GradientSearch, SearchResult

__all__ = ["GradientSearch", "SearchResult"]
