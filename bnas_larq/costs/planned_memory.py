"""The calls of a genotype's network that is not built, to find its peak activation memory.

They mirror `bnas_larq.layers.cells.final_cell`; tests hold them to the built network's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnas_larq.costs.peak_memory import Call, LayerForm, peak_of_calls
from bnas_larq.genotype import Cell, Edge
from bnas_larq.layers.cells import live_edges

#: What becomes of the layers of a chain.
Forms = Sequence["LayerForm | PlusForm"]


class PlusForm(NamedTuple):
    """The sum, or product, of a chain's output so far and what other layers make of an earlier
    tensor: the one in front of the chain's form number `start`."""

    skip: Forms
    start: int
    merged: LayerForm


class PlannedCalls:
    """Calls of chains and cells, each of which reads outputs of those before."""

    #: The image, as a source.
    IMAGE = -1

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def add_chain(self, chain: Forms, source: int) -> int:
        """Add calls of a chain's layers, the first of which reads `source`; returns the last one's
        output, which is `source` for an empty chain."""
        sources = [source]
        for form in chain:
            if isinstance(form, PlusForm):
                earlier = self.add_chain(form.skip, sources[form.start])
                sources.append(self._add(form.merged, sources[-1], earlier))
            else:
                sources.append(self._add(form, sources[-1]))
        return sources[-1]

    def add_cell(
        self,
        cell: Cell,
        states: tuple[int, int],
        *,
        inputs: Sequence[Forms | None],
        edges: Mapping[tuple[int, Edge], Forms],
        shortcut: Forms | None,
        node_shape: tuple[int, int, int],
    ) -> int:
        """Add a cell that reads the outputs `states`, from its chains; returns its output."""
        nodes = [
            None if chain is None else self.add_chain(chain, state)
            for chain, state in zip(inputs, states, strict=True)
        ]
        for index, node in enumerate(cell):
            live = live_edges(node)
            terms = [self.add_chain(edges[index, edge], nodes[edge.state]) for edge in live]
            if not terms:
                terms = [self._add(_form("zeros", node_shape), states[1])]
            nodes.append(self.add_sum(terms, node_shape))
        shape = (*node_shape[:2], len(cell) * node_shape[2])
        output = self._add(_form("other", shape), *nodes[2:]) if len(cell) > 1 else nodes[2]
        if shortcut is None:
            return output
        return self.add_sum([output, self.add_chain(shortcut, states[1])], shape)

    def peak(self, input_shape: Sequence[int], output: int) -> int:
        """Peak activation memory in bytes; see `bnas_larq.costs.peak_memory`."""
        return peak_of_calls(self.calls, {self.IMAGE: tuple(input_shape)}, [output])

    def add_sum(self, terms: Sequence[int], shape: tuple[int, ...]) -> int:
        """Add the sum of outputs, unless there is only one; returns its output."""
        return self._add(_form("sum", shape), *terms) if len(terms) > 1 else terms[0]

    def _add(self, form: LayerForm, *sources: int) -> int:
        self.calls.append(Call(form, sources, len(self.calls)))
        return self.calls[-1].output


def _form(kind: str, shape: tuple[int, ...]) -> LayerForm:
    return LayerForm(kind, quantized=False, fuses=True, shape=shape)
