"""Small search spaces, whose graphs are traced quickly. Recipes know them by name once this module
is imported: as a plugin of the command line, too.
"""

from __future__ import annotations

import dataclasses

from bnas_larq.spaces import SPACES, SearchSpace

_FEW = ("none", "max_pool_3x3", "bin_conv_3x3")

#: One node and three candidates.
SPACES["tiny"] = lambda: SearchSpace("tiny", _FEW, _FEW, nodes=1)
#: All candidates of BNAS, in cells of two nodes: 5 edges instead of 14.
SPACES["two-nodes"] = lambda: dataclasses.replace(SearchSpace.bnas(), name="two-nodes", nodes=2)
