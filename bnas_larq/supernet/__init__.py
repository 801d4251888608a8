"""The engine of a search: the supernet, its cells and candidates, relaxations, and training."""
