"""What a network would cost: counted from its genotype and size, layer by layer, without building
the Keras graph, which takes ten times as long.

Equal to `count_costs(build_network(genotype, config))`, layer for layer; tests hold them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from bnas_larq.backend import keras
from bnas_larq.genotype import Cell, Genotype
from bnas_larq.layers import template
from bnas_larq.layers.cells import edge_context, live_edges, used_states
from bnas_larq.layers.operations import Context, build_operation
from bnas_larq.models.costs import Costs, LayerCost, layer_cost
from bnas_larq.models.multiplications import FULL_PRECISION, Multiplications, bits_behind
from bnas_larq.models.network import NetworkConfig


class _State(NamedTuple):
    """A tensor that is not there: its shape without batch, its precision."""

    shape: tuple[int | None, ...]
    bits: int = FULL_PRECISION


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
        memory: costs of cells by their kind, kept as long as the caller holds the dictionary;
            for counting many sizes of one genotype. Of no use to another genotype.

    Raises:
        BnasLarqError, GenotypeError: as of `build_network`.
    """
    config = config.replace(**settings) if config else NetworkConfig.from_dict(settings)
    context = config.context()
    plans = template.plan_cells(config.cells, config.channels, config.stem)
    alive = set(range(-2, len(plans))) if dead_branches else _alive(genotype, config, plans)
    layers: list[LayerCost] = []
    image = _State(config.input_shape)
    if config.stem == "imagenet":
        first, second = template.imagenet_stem(config.channels, context, config.stem_groups)
        older = _walk(first, image, layers)
        newer = _walk(second, older, layers if -1 in alive else [])
    else:
        older = newer = _walk(template.cifar_stem(config.channels, context), image, layers)
    memory = {} if memory is None else memory
    for plan in plans:
        cell = genotype.reduce if plan.reduction else genotype.normal
        # Patterns tell cells apart by name, so that equal cells are equal only without them.
        place = plan.index if config.full_precision else plan.index > 0
        key = (
            place,
            dataclasses.replace(plan, index=0),
            older,
            newer,
            dataclasses.replace(config, channels=2, cells=1, stem_groups=1, num_classes=2),
            dead_branches,
        )
        if key not in memory:
            memory[key] = _cell(cell, plan, (older, newer), config, context, dead_branches)
        name, costs, output = memory[key]
        if plan.index in alive:
            layers += [
                dataclasses.replace(cost, name=plan.name + cost.name.removeprefix(name))
                for cost in costs
            ]
        older, newer = newer, output
    _walk(template.classifier(config.num_classes, config.classifier_activation), newer, layers)
    return Costs(f"bnas_{genotype.id.replace('-', '_')}", tuple(layers))


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
    context: Context,
    dead_branches: bool,
) -> tuple[str, list[LayerCost], _State]:
    """(name of the cell, its layers' costs, its output): the counterpart of `final_cell`."""
    layers: list[LayerCost] = []
    used = {0, 1} if dead_branches else used_states(cell)
    inputs = [
        (
            _walk(template.preprocess(plan, which, config.stem, context), state, layers)
            if which in used
            else None
        )
        for which, state in enumerate(states)
    ]
    # What an edge from an input makes of it, all nodes have: the shape behind the strides.
    rows, columns, _ = states[1].shape
    strides = 2 if plan.reduction else 1
    node_state = _State((-(-rows // strides), -(-columns // strides), plan.filters))
    for index, node in enumerate(cell):
        for edge in live_edges(node):
            source = inputs[edge.state] if edge.state < 2 else node_state
            operation = build_operation(edge.op, edge_context(plan, index, edge, context))
            _walk(operation, source, layers)
    if config.shortcut and plan.index > 0:
        _walk(template.shortcut(plan, len(cell), context), states[1], layers)
    output = _State((*node_state.shape[:2], len(cell) * plan.filters))
    return plan.name, layers, output


def _walk(chain: Sequence[keras.layers.Layer], state: _State, layers: list[LayerCost]) -> _State:
    """The counterpart of `chain`: the state behind the layers; their costs go into `layers`."""
    for layer in chain:
        shape = (None, *state.shape)
        if not layer.built:
            layer.build(shape)
            layer.built = True
        result = tuple(layer.compute_output_shape(shape))[1:]
        calls = Multiplications()
        calls.add(layer.name, layer, state.shape, result, state.bits)
        if layer.weights or layer.name in calls.macs:
            layers.append(layer_cost(layer, layer.name, calls, layer.weights))
        state = _State(result, bits_behind(layer, [state.bits]))
    return state
