"""The engine of a search: mixed cells, relaxations, architecture weights, bilevel training."""
