"""Layers: quantizers, candidate operations, the mixed cell of the supernet and the cells of final networks."""
