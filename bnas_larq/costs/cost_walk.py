"""Costs of a network that is not built: its layers are walked through by shape alone, which is ten
times as fast as building the Keras graph.

The walk mirrors `bnas_larq.layers.cells.final_cell` and `build_residual_network`. For a network it
gives the costs of `count_costs(build_network(genotype, config))`, layer for layer; tests hold the
two together. For a search space it gives the costs of all candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bnas_larq.costs.accounting import Costs, layer_cost
from bnas_larq.costs.multiplications import FULL_PRECISION, Multiplications, bits_behind
from bnas_larq.costs.peak_memory import LayerForm, layer_form
from bnas_larq.costs.planned_memory import PlannedCalls, PlusForm
from bnas_larq.genotype import Cell, Edge, Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import edge_context, live_edges, used_states
from bnas_larq.layers.operations import Chain, Context, PlusInput, build_layer, build_operation
from bnas_larq.networks.base_config import BaseConfig
from bnas_larq.networks.network import NetworkConfig, check_genotype
from bnas_larq.networks.residual_network import ResidualConfig
from bnas_larq.spaces import NO_SHORTCUT, SearchSpace


class State(NamedTuple):
    """Shape (without batch) and precision of a tensor that is never computed."""

    shape: tuple[int, ...]
    bits: int = FULL_PRECISION


@dataclasses.dataclass(frozen=True)
class ChainCosts(Costs):
    """Costs of a chain of layers, whose names begin with the name of the chain, the states before
    and behind it, and what becomes of all its layers in a deployed network."""

    input: State
    output: State
    forms: tuple[LayerForm, ...]

    def renamed(self, name: str) -> ChainCosts:
        """The same chain under another name."""
        layers = (
            dataclasses.replace(layer, name=name + layer.name.removeprefix(self.name))
            for layer in self.layers
        )
        return dataclasses.replace(self, name=name, layers=tuple(layers))


@dataclasses.dataclass(frozen=True)
class CellCosts:
    """Costs of a cell's chains.

    Attributes:
        plan: position and size of the cell.
        inputs: preprocessing of the older and the newer input; None for one that is left out.
        edges: (node, edge) → its operation; Zeroise has none.
        shortcut: from the previous cell's output to this one's; None without one.
        output: the state behind the cell.
    """

    plan: template.CellPlan
    inputs: tuple[ChainCosts | None, ChainCosts | None]
    edges: Mapping[tuple[int, Edge], ChainCosts]
    shortcut: ChainCosts | None
    output: State

    @property
    def chains(self) -> list[ChainCosts]:
        """All chains."""
        chains = (*self.inputs, *self.edges.values(), self.shortcut)
        return [chain for chain in chains if chain is not None]


@dataclasses.dataclass(frozen=True)
class NetworkCosts:
    """Costs of a network's chains.

    Attributes:
        stems: the CIFAR stem, or the two halves of the ImageNet stem.
        cells: all cells, including those whose output nothing reads.
        classifier: pool and dense layer.
    """

    stems: tuple[ChainCosts, ...]
    cells: tuple[CellCosts, ...]
    classifier: ChainCosts

    @property
    def chains(self) -> Iterator[ChainCosts]:
        """All chains."""
        yield from self.stems
        for cell in self.cells:
            yield from cell.chains
        yield self.classifier


def planned_costs(
    genotype: Genotype | None,
    config: BaseConfig | None = None,
    *,
    dead_branches: bool = False,
    cache: dict | None = None,
    **settings: Any,
) -> Costs:
    """Count what the network of `build_network` costs for one image, without building it.

    Args:
        genotype, config, settings: as for `build_network`.
        dead_branches: also count what reaches no output, such as the preprocessing of inputs that
            a cell never reads. The BNAS authors' code builds it, `build_network` leaves it out.
        cache: a dictionary that keeps the costs of chains, to count many genotypes or sizes.

    Raises:
        BnasLarqError, GenotypeError: as for `build_network`.

    Example:
        >>> from bnas_larq import Genotype, planned_costs
        >>> costs = planned_costs(Genotype.published("bnas_cifar"), cells=3, channels=4)
        >>> costs.binary_macs, costs.full_precision_macs, costs.bytes
        (1081344, 1380992, 47396)
    """
    check_genotype(genotype, config)
    if isinstance(config, ResidualConfig):
        config = config.replace(**settings)
        return _residual_costs(config)
    config = config.replace(**settings) if config else NetworkConfig.from_dict(settings)
    network = walk_network(genotype.cells, config, dead_branches=dead_branches, cache=cache)
    alive = _alive_cells(genotype, config, [cell.plan for cell in network.cells])
    layers = list(network.stems[0].layers)
    for stem in network.stems[1:]:
        layers += stem.layers if dead_branches or -1 in alive else ()
    for cell in network.cells:
        if dead_branches or cell.plan.index in alive:
            layers += [layer for chain in cell.chains for layer in chain.layers]
    layers += network.classifier.layers
    peak = _peak(genotype, network, config.input_shape)
    return Costs(f"bnas_{genotype.id.replace('-', '_')}", tuple(layers), peak_activation_bytes=peak)


def _peak(genotype: Genotype, network: NetworkCosts, input_shape: tuple[int, int, int]) -> int:
    """Peak activation memory in bytes."""
    calls = PlannedCalls()
    older = newer = calls.add_chain(network.stems[0].forms, calls.IMAGE)
    for stem in network.stems[1:]:
        newer = calls.add_chain(stem.forms, newer)
    for costs in network.cells:
        output = calls.add_cell(
            genotype.cells[costs.plan.reduction],
            (older, newer),
            inputs=[chain and chain.forms for chain in costs.inputs],
            edges={key: chain.forms for key, chain in costs.edges.items()},
            shortcut=costs.shortcut and costs.shortcut.forms,
            node_shape=(*costs.output.shape[:2], costs.plan.filters),
        )
        older, newer = newer, output
    return calls.peak(input_shape, calls.add_chain(network.classifier.forms, newer))


def _residual_costs(config: ResidualConfig) -> Costs:
    calls, state, layers = PlannedCalls(), State(config.input_shape), []
    output = calls.IMAGE

    def walk(name: str, chain: Chain, state: State, source: int) -> tuple[State, int]:
        costs = _walk_chain(name, chain, state)
        layers.extend(costs.layers)
        return costs.output, calls.add_chain(costs.forms, source)

    for part in config.parts():
        state_before, source = state, output
        state, output = walk(part.name, part.layers, state, source)
        if part.shortcut is not None:
            _, skip = walk(part.name, part.shortcut, state_before, source)
            output = calls.add_sum([output, skip], state.shape)
        # Sums are in full precision.
        state, output = walk(part.name, part.behind, State(state.shape), output)
    top = template.classifier(config.num_classes, config.classifier_activation)
    _, output = walk(template.CLASSIFIER, top, state, output)
    peak = calls.peak(config.input_shape, output)
    return Costs(config.model_name, tuple(layers), peak_activation_bytes=peak)


def candidate_cells(space: SearchSpace) -> tuple[Cell, Cell]:
    """The normal and the reduction cell of a supernet: each edge with all its candidates."""
    normal, reduce = (
        tuple(
            tuple(Edge(name, state) for state in range(2 + node) for name in names)
            for node in range(space.nodes)
        )
        for names in space.candidates
    )
    return normal, reduce


def walk_network(
    cells: tuple[Cell, Cell],
    config: NetworkConfig,
    *,
    supernet: bool = False,
    dead_branches: bool = False,
    cache: dict | None = None,
) -> NetworkCosts:
    """Costs of all chains of layers in a network; raises as `build_network` does.

    Args:
        cells: the normal and the reduction cell, of a genotype or from `candidate_cells`.
        supernet: count the layers of a supernet, not those of a final network.
        dead_branches, cache: as for `planned_costs`; dead are inputs that a cell never reads.
    """
    context = dataclasses.replace(config.context(), supernet=supernet)
    image, cache = State(config.input_shape), {} if cache is None else cache
    operations = {edge.op for cell in cells for node in cell for edge in node}
    preprocessing = config.preprocessing(operations)
    key = ("stem", image, config.channels, context, config.stem, config.stem_groups, preprocessing)
    if key not in cache:
        cache[key] = _walk_stems(config, context, preprocessing, image)
    stems = cache[key]
    older, newer = stems[0].output, stems[-1].output
    walked = []
    for plan in config.plan_cells():
        cell = cells[plan.reduction]
        template_of_cell = (config, context, preprocessing)
        costs = _walk_cell(cell, plan, (older, newer), *template_of_cell, dead_branches, cache)
        walked.append(costs)
        older, newer = newer, costs.output
    key = (template.CLASSIFIER, newer, config.num_classes, config.classifier_activation)
    if key not in cache:
        top = template.classifier(config.num_classes, config.classifier_activation)
        cache[key] = _walk_chain(template.CLASSIFIER, top, newer)
    return NetworkCosts(stems, tuple(walked), cache[key])


def _walk_stems(
    config: NetworkConfig, context: Context, preprocessing: str, image: State
) -> tuple[ChainCosts, ...]:
    if config.stem == "imagenet":
        first, second = template.imagenet_stem(config.channels, context, config.stem_groups)
        stem = _walk_chain("stem", first, image)
        return stem, _walk_chain("stem", second, stem.output)
    cifar_stem = template.cifar_stem(config.channels, context, preprocessing)
    return (_walk_chain("stem", cifar_stem, image),)


def _alive_cells(
    genotype: Genotype, config: NetworkConfig, plans: Sequence[template.CellPlan]
) -> set[int]:
    """Cells whose output reaches the classifier; −1 and −2 are the newer and the older stem."""
    alive = {len(plans) - 1}
    for plan in reversed(plans):
        if plan.index not in alive:
            continue
        cell = genotype.cells[plan.reduction]
        inputs = used_states(cell) & {0, 1}
        # A first node of zeros takes its shape from the newer input if it has no other source.
        if (config.shortcut != NO_SHORTCUT and plan.index > 0) or (
            not inputs and not live_edges(cell[0])
        ):
            inputs |= {1}
        alive |= {plan.index - 2 + state for state in inputs}
    return alive


def _walk_cell(
    cell: Cell,
    plan: template.CellPlan,
    states: tuple[State, State],
    config: NetworkConfig,
    context: Context,
    preprocessing: str,
    dead_branches: bool,
    cache: dict,
) -> CellCosts:
    def walk(name: str, state: State, layers: Callable[[], Chain], *kind: Any) -> ChainCosts:
        """The chain `name`; chains of one kind differ in their names only, and are walked once."""
        # The patterns of `full_precision` tell layers apart by name.
        key = (state, context.at("", plan.filters), config.full_precision and name, *kind)
        if key not in cache:
            cache[key] = _walk_chain(name, layers(), state)
        return cache[key].renamed(name)

    inputs: list[ChainCosts | None] = [None, None]
    for index, state in enumerate(states):
        if dead_branches or index in used_states(cell):
            place = (index, config.stem)
            settings = (preprocessing, state.shape[-1])
            layers = partial(template.preprocess, plan, *place, context, *settings)
            kind = ("preprocess", *place, plan.after_reduction, preprocessing)
            inputs[index] = walk(f"{plan.name}_preprocess{index}", state, layers, *kind)
    # All nodes have the shape that edges from the inputs lead to, behind their strides.
    strides = 2 if plan.reduction else 1
    rows, columns = (-(-side // strides) for side in states[1].shape[:2])
    node_state = State((rows, columns, plan.filters))
    edges = {}
    for node, node_edges in enumerate(cell):
        for edge in live_edges(node_edges):
            place = edge_context(plan, node, edge, context)
            state = inputs[edge.state].output if edge.state < 2 else node_state
            layers = partial(build_operation, edge.op, place)
            edges[node, edge] = walk(place.name, state, layers, "operation", edge.op, place.strides)
    shortcut = None
    if config.shortcut != NO_SHORTCUT and plan.index > 0:
        layers = partial(template.shortcut, plan, len(cell), context, config.shortcut)
        kind = ("shortcut", len(cell), plan.reduction, config.shortcut)
        shortcut = walk(f"{plan.name}_shortcut", states[1], layers, *kind)
    output = State((rows, columns, len(cell) * plan.filters))
    return CellCosts(plan, tuple(inputs), edges, shortcut, output)


def _walk_chain(name: str, chain: Chain, state: State) -> ChainCosts:
    source, layers, forms = state, [], []
    #: State in front of a layer, and its form's number.
    read = {None: (state, 0)}
    for layer in chain:
        if isinstance(layer, PlusInput):
            earlier, start = read[layer.of]
            skip = _walk_chain(name, layer.layers, earlier)
            layers += skip.layers
            merged = layer_form(layer.merge, state.shape, state.bits)
            forms.append(PlusForm(skip.forms, start, merged))
            state = State(state.shape)
            continue
        read[layer] = state, len(forms)
        shape = (None, *state.shape)
        if not layer.built:
            build_layer(layer, shape)
        output = tuple(layer.compute_output_shape(shape))[1:]
        calls = Multiplications()
        calls.add(layer.name, layer, state.shape, output, state.bits)
        if layer.weights or layer.name in calls.macs:
            layers.append(layer_cost(layer, layer.name, calls, layer.weights))
        forms.append(layer_form(layer, output, state.bits))
        state = State(output, bits_behind(layer, [state.bits]))
    return ChainCosts(name, tuple(layers), source, state, tuple(forms))
