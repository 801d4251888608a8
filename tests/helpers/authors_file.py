"""Reads the fixtures of the authors' program (PyTorch) and puts their weights into our models.

Final networks are read as `bnas_larq.zoo` imports them. In a supernet
`cells.2._ops.5._ops.3.op.0.weight` is the convolution of the fourth candidate on the sixth edge of
the third cell. Kernels are [out, in, height, width], images [batch, channels, height, width].
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from bnas_larq.backend import keras
from bnas_larq.genotype import Genotype
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.super_net import SuperNet
from bnas_larq.zoo.checkpoint_import import read_import

#: The supernet fixture's columns hold the dilated convolutions before the others, unlike the
#: paper's table and `SearchSpace.bnas()`: kernel sizes fit both orders, logits only this one. Our
#: column c is the fixture's column COLUMNS[c].
COLUMNS = [0, 1, 2, 5, 6, 3, 4]


class AuthorsFile:
    """One fixture file: an input, weights, and what the authors' program makes of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays = np.load(path)

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    @property
    def images(self) -> np.ndarray:
        """The input, [batch, height, width, channels]."""
        return self["input_nchw"].transpose(0, 2, 3, 1)

    def kernel(self, key: str) -> np.ndarray:
        """The kernel of the convolution `key`, [height, width, in, out]."""
        return self[f"w/{key}.weight"].transpose(2, 3, 1, 0)

    def fill(self, layer: keras.layers.Layer, key: str) -> None:
        """Assign the tensors of the authors' module `key` to `layer`."""
        read = {name: self.arrays.get(f"w/{key}.{name}") for name in ("weight", "bias")}
        if isinstance(layer, keras.layers.BatchNormalization):
            statistics = [self[f"w/{key}.running_{name}"] for name in ("mean", "var")]
            values = [read["weight"], read["bias"], *statistics]
        elif isinstance(layer, keras.layers.Dense):
            values = [read["weight"].T, read["bias"]]
        else:
            values = [self.kernel(key), read["bias"]]
        layer.set_weights([value for value in values if value is not None])

    # -- final networks ----------------------------------------------------------------------------

    def fill_network(self, model: keras.Model, genotype: Genotype) -> None:
        """Assign the weights of all layers of a final network, as `bnas_larq.zoo` imports them."""
        for layer, arrays in read_import(self.path, genotype).weights.items():
            model.get_layer(layer).set_weights(arrays)

    # -- supernets ---------------------------------------------------------------------------------

    def full_precision(self) -> list[str]:
        """Names of the supernet's candidate convolutions that were not binary (oddity 3)."""
        names = SearchSpace.bnas().normal
        binary = set(self["binarized"].tolist())
        pattern = re.compile(r"w/(cells\.(\d+)\._ops\.(\d+)\._ops\.(\d+)\.op\.0\.weight)")
        found = (pattern.fullmatch(key) for key in self.arrays.files)
        return [
            f"cell{match[2]}_edge{match[3]}_{names[COLUMNS.index(int(match[4]))]}_conv"
            for match in found
            if match and match[1] not in binary
        ]

    def fill_supernet(self, net: SuperNet) -> None:
        """Assign α and all weights that count in training mode."""
        norm, conv, _ = net.stem
        self.fill(norm, "stem.bn")
        self.fill(conv, "stem.op.0")
        self.fill(net.classifier[1], "classifier")
        for index, cell in enumerate(net.cells):
            for which in (0, 1):
                self.fill(cell.preprocess[which][1], f"cells.{index}.preprocess{which}.op.0")
            for place, layer in enumerate(cell.shortcut):
                self.fill(layer, f"cells.{index}.preprocess_res.{place}")
            for edges in cell.outgoing:
                for candidate in edges.candidates:
                    if net.space.normal[candidate.column].startswith("bin"):
                        self._fill_candidate(index, edges.rows, candidate)
        net.set_alphas(self["alphas_normal"][:, COLUMNS], self["alphas_reduce"][:, COLUMNS])

    def _fill_candidate(self, cell: int, rows: list[int], candidate) -> None:
        column = COLUMNS[candidate.column]
        kernels = [self.kernel(f"cells.{cell}._ops.{row}._ops.{column}.op.0") for row in rows]
        convolutions = [
            layer for layers in candidate.chains for layer in layers if hasattr(layer, "kernel")
        ]
        if len(convolutions) == 1:  # one wide convolution for all edges, or only one edge
            kernels = [np.concatenate(kernels, axis=-1)]
        for layer, kernel in zip(convolutions, kernels, strict=True):
            layer.set_weights([kernel])

    def alpha_gradients(self) -> list[np.ndarray]:
        """Gradients of the loss with respect to α of normal and reduction cells, our columns."""
        return [self[f"grad_alphas_{kind}"][:, COLUMNS] for kind in ("normal", "reduce")]
