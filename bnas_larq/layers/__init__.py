"""Layers: quantizers, candidate operations, the mixed cell, and the cells of final networks."""

# Whoever imports a layer finds all operations and schemes registered.
from bnas_larq.layers import identity as _identity  # noqa: F401
from bnas_larq.layers import projection as _projection  # noqa: F401
from bnas_larq.layers import separable as _separable  # noqa: F401
