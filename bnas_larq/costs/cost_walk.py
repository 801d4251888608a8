"""What a network would cost: counted from its genotype and size, layer by layer, without building
the Keras graph, which takes ten times as long.

Equal to `count_costs(build_network(genotype, config))`, layer for layer; tests hold them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bnas_larq.backend import keras
from bnas_larq.costs.accounting import Costs, LayerCost, layer_cost
from bnas_larq.costs.multiplications import FULL_PRECISION, Multiplications, bits_behind
from bnas_larq.genotype import Cell, Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import edge_context, live_edges, used_states
from bnas_larq.layers.operations import build_layer, build_operation
from bnas_larq.networks.network import NetworkConfig


class _State(NamedTuple):
    """A tensor that is not there: its shape without batch, its precision."""

    shape: tuple[int | None, ...]
    bits: int = FULL_PRECISION


@dataclasses.dataclass(frozen=True)
class Part:
    """A chain of layers at its place in a network.

    Attributes:
        layers: costs of those that multiply or hold weights.
        source, result: shapes before and behind it, without batch.
    """

    layers: tuple[LayerCost, ...]
    source: tuple[int | None, ...]
    result: tuple[int | None, ...]

    def renamed(self, old: str, new: str) -> Part:
        """The same with another prefix of the layers' names."""
        layers = (
            dataclasses.replace(cost, name=new + cost.name.removeprefix(old))
            for cost in self.layers
        )
        return dataclasses.replace(self, layers=tuple(layers))


@dataclasses.dataclass(frozen=True)
class PlannedCell:
    """A cell's parts.

    Attributes:
        plan: place and size.
        inputs: preprocessing of the older and the newer input; None for one that is not built.
        edges: (node, state) → the operation of a live edge.
        shortcut: the way from the previous cell's output; None without one.
    """

    plan: template.CellPlan
    inputs: tuple[Part | None, Part | None]
    edges: Mapping[tuple[int, int], Part]
    shortcut: Part | None

    @property
    def layers(self) -> list[LayerCost]:
        """Costs of all layers."""
        parts = (*self.inputs, *self.edges.values(), self.shortcut)
        return [cost for part in parts if part is not None for cost in part.layers]


@dataclasses.dataclass(frozen=True)
class PlannedNetwork:
    """A network's parts.

    Attributes:
        stems: the CIFAR stem, or both parts of the ImageNet stem.
        cells: in their order, those without readers too.
        classifier: pool and dense layer.
    """

    stems: tuple[Part, ...]
    cells: tuple[PlannedCell, ...]
    classifier: Part


def planned_costs(
    genotype: Genotype,
    config: NetworkConfig | None = None,
    *,
    dead_branches: bool = False,
    memory: dict | None = None,
    **settings: Any,
) -> Costs:
    """Costs of the network that `build_network` would make.

    Args:
        genotype, config, settings: as of `build_network`.
        dead_branches: also count what reaches no output, such as the preprocessing of inputs that
            a cell never reads; the authors' programs build it, `build_network` leaves it out.
        memory: costs of parts, kept as long as the caller holds the dictionary; for counting
            networks of many genotypes or sizes.

    Raises:
        BnasLarqError, GenotypeError: as of `build_network`.
    """
    config = config.replace(**settings) if config else NetworkConfig.from_dict(settings)
    parts = planned_parts(genotype, config, dead_branches=dead_branches, memory=memory)
    plans = [cell.plan for cell in parts.cells]
    alive = set(range(-2, len(plans))) if dead_branches else _alive(genotype, config, plans)
    layers = list(parts.stems[0].layers)
    if len(parts.stems) > 1 and -1 in alive:
        layers += parts.stems[1].layers
    for cell in parts.cells:
        layers += cell.layers if cell.plan.index in alive else []
    layers += parts.classifier.layers
    return Costs(f"bnas_{genotype.id.replace('-', '_')}", tuple(layers))


def planned_parts(
    genotype: Genotype,
    config: NetworkConfig,
    *,
    dead_branches: bool = False,
    memory: dict | None = None,
) -> PlannedNetwork:
    """The parts of the network that `build_network` would make, also of cells nobody reads.

    Args:
        genotype, config, dead_branches, memory: as of `planned_costs`.

    Raises:
        BnasLarqError, GenotypeError: as of `build_network`.
    """
    context = config.context()
    image = _State(config.input_shape)
    if config.stem == "imagenet":
        first, second = template.imagenet_stem(config.channels, context, config.stem_groups)
        one, older = _walk(first, image)
        other, newer = _walk(second, older)
        stems = (one, other)
    else:
        stem, newer = _walk(template.cifar_stem(config.channels, context), image)
        stems, older = (stem,), newer
    memory = {} if memory is None else memory
    cells = []
    for plan in template.plan_cells(config.cells, config.channels, config.stem):
        cell = genotype.reduce if plan.reduction else genotype.normal
        planned, output = _cell(cell, plan, (older, newer), config, dead_branches, memory)
        cells.append(planned)
        older, newer = newer, output
    top = template.classifier(config.num_classes, config.classifier_activation)
    return PlannedNetwork(stems, tuple(cells), _walk(top, newer)[0])


def dead_parameters(
    genotype: Genotype, config: NetworkConfig | None = None, **settings: Any
) -> int:
    """Trainable parameters in branches that reach no output, which `build_network` leaves out."""
    whole = planned_costs(genotype, config, dead_branches=True, **settings)
    living = planned_costs(genotype, config, **settings)
    return whole.trainable_parameters - living.trainable_parameters


def _alive(
    genotype: Genotype, config: NetworkConfig, plans: Sequence[template.CellPlan]
) -> set[int]:
    """Cells whose output is read on the way to the classifier; −1 and −2: newer and older stem."""
    alive = {len(plans) - 1}
    for plan in reversed(plans):
        if plan.index not in alive:
            continue
        cell = genotype.reduce if plan.reduction else genotype.normal
        inputs = used_states(cell) & {0, 1}
        # a first node of zeros takes its shape from the newer input if nothing else is there
        if (config.shortcut and plan.index > 0) or (not inputs and not live_edges(cell[0])):
            inputs |= {1}
        alive |= {plan.index - 2 + which for which in inputs}
    return alive


def _cell(
    cell: Cell,
    plan: template.CellPlan,
    states: tuple[_State, _State],
    config: NetworkConfig,
    dead_branches: bool,
    memory: dict,
) -> tuple[PlannedCell, _State]:
    """(the cell's parts, its output): the counterpart of `final_cell`."""
    context = config.context()

    def part(
        name: str, state: _State, layers: Callable[[], Sequence[keras.layers.Layer]], *kind
    ) -> tuple[Part, _State]:
        """The part called `name`; parts of one kind have the same layers but for their names."""
        # Patterns tell layers apart by name, so that equal parts are equal only without them.
        settings = (config.padding, config.scheme, config.full_precision)
        key = (state, plan.filters, settings, config.full_precision and name, *kind)
        if key not in memory:
            memory[key] = name, *_walk(layers(), state)
        first, known, result = memory[key]
        return known.renamed(first, name), result

    used = {0, 1} if dead_branches else used_states(cell)
    inputs: list[tuple[Part | None, _State | None]] = [(None, None)] * 2
    for which in used & {0, 1}:
        inputs[which] = part(
            f"{plan.name}_preprocess{which}",
            states[which],
            lambda which=which: template.preprocess(plan, which, config.stem, context),
            *("preprocess", which, plan.after_reduction, config.stem),
        )
    # What an edge from an input makes of it, all nodes have: the shape behind the strides.
    rows, columns, _ = states[1].shape
    strides = 2 if plan.reduction else 1
    node_state = _State((-(-rows // strides), -(-columns // strides), plan.filters))
    edges = {}
    for index, node in enumerate(cell):
        for edge in live_edges(node):
            place = edge_context(plan, index, edge, context)
            edges[index, edge.state], _ = part(
                place.name,
                inputs[edge.state][1] if edge.state < 2 else node_state,
                lambda edge=edge, place=place: build_operation(edge.op, place),
                *("operation", edge.op, place.strides),
            )
    shortcut = None
    if config.shortcut and plan.index > 0:
        shortcut, _ = part(
            f"{plan.name}_shortcut",
            states[1],
            lambda: template.shortcut(plan, len(cell), context),
            *("shortcut", len(cell), plan.reduction),
        )
    output = _State((*node_state.shape[:2], len(cell) * plan.filters))
    return PlannedCell(plan, tuple(part for part, _ in inputs), edges, shortcut), output


def _walk(chain: Sequence[keras.layers.Layer], state: _State) -> tuple[Part, _State]:
    """The counterpart of `chain`: the layers as a part, and the state behind them."""
    source, layers = state.shape, []
    for layer in chain:
        shape = (None, *state.shape)
        if not layer.built:
            build_layer(layer, shape)
        result = tuple(layer.compute_output_shape(shape))[1:]
        calls = Multiplications()
        calls.add(layer.name, layer, state.shape, result, state.bits)
        if layer.weights or layer.name in calls.macs:
            layers.append(layer_cost(layer, layer.name, calls, layer.weights))
        state = _State(result, bits_behind(layer, [state.bits]))
    return Part(tuple(layers), source, state.shape), state
