"""Reads the fixtures of the authors' program (PyTorch) and puts their weights into our models.

Names there: `cells.2._ops.5.op.0.weight` is the convolution of the sixth edge of a final network's
third cell, `cells.2._ops.5._ops.3.op.0.weight` that of the fourth candidate on the sixth edge of a
supernet's. Kernels are [out, in, height, width], images [batch, channels, height, width].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.genotype import Genotype
from bnas_larq.models.supernet import SuperNet
from bnas_larq.spaces import SearchSpace

#: The supernet fixture's columns hold the dilated convolutions before the others, unlike the
#: paper's table and `SearchSpace.bnas()`: kernel sizes fit both orders, logits only this one. Our
#: column c is the fixture's column COLUMNS[c].
COLUMNS = [0, 1, 2, 5, 6, 3, 4]


class AuthorsFile:
    """One fixture file: an input, weights, and what the authors' program makes of them."""

    def __init__(self, path: Path) -> None:
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

    def fill_network(self, model: keras.Model, genotype: Genotype, cells: int) -> None:
        """Assign the weights of all layers of a final network."""
        for layer in model.layers:
            if layer.weights:
                self.fill(layer, _key_of(layer.name, genotype, cells))

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
            for mixed in cell.mixed_states:
                for candidate in mixed.candidates:
                    if net.space.normal[candidate.column].startswith("bin"):
                        self._fill_candidate(index, mixed.rows, candidate)
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


def _key_of(name: str, genotype: Genotype, cells: int) -> str:
    """The authors' name of the layer `name` of a final network."""
    part = {"bn": "bn", "conv": "op.0"}
    if match := re.fullmatch(r"cell(\d+)_(preprocess\d)_(bn|conv)", name):
        return f"cells.{match[1]}.{match[2]}.{part[match[3]]}"
    if match := re.fullmatch(r"cell(\d+)_shortcut_(bn|conv)", name):
        return f"cells.{match[1]}.preprocess_res.{0 if match[2] == 'bn' else 1}"
    if match := re.fullmatch(r"cell(\d+)_node(\d+)_from(\d+)_.*_(bn|conv)", name):
        cell, node, state = int(match[1]), int(match[2]), int(match[3])
        reduction = cell in (cells // 3, 2 * cells // 3)
        edges = (genotype.reduce if reduction else genotype.normal)[node]
        place = 2 * node + [edge.state for edge in edges].index(state)
        return f"cells.{cell}._ops.{place}.{part[match[4]]}"
    return {"stem_bn": "stem.bn", "stem_conv": "stem.op.0", "classifier": "classifier"}[name]


@pytest.fixture(scope="session")
def authors(shared: Path) -> Callable[[str], AuthorsFile]:
    """Opens a fixture of the authors' program by name; skips where ../shared is absent."""

    def open_file(name: str) -> AuthorsFile:
        path = shared / "fixtures" / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"the fixture {path} is absent")
        return AuthorsFile(path)

    return open_file
