"""Layers: quantizers, candidate operations, the mixed cell, and the cells of final networks."""
