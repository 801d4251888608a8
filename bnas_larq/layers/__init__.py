"""What final networks are made of: quantizers, schemes, candidate operations, stems, cells."""

# Whoever imports a layer finds all operations and schemes registered.
from bnas_larq.layers import operations as _operations  # noqa: F401
from bnas_larq.layers import projection as _projection  # noqa: F401
