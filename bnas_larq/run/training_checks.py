"""Whether a recipe's training fits its data, and the networks it starts and learns from."""

from __future__ import annotations

from bnas_larq.backend import keras
from bnas_larq.data import Examples, Normalization
from bnas_larq.errors import RecipeError
from bnas_larq.genotype import Edge, Genotype
from bnas_larq.networks.network import build_network
from bnas_larq.run.creation import needs_search
from bnas_larq.run.inputs import RunInputs
from bnas_larq.run.targets import STAGE, WEIGHT_KINDS, Kind, find_target
from bnas_larq.search.one_shot_search import drawn_space
from bnas_larq.spaces import SearchSpace
from bnas_larq.train_settings import TrainStage
from bnas_larq.training import check_networks, check_stages, stage_config, stage_pipeline


def check_batches(inputs: RunInputs, stage: TrainStage, examples: Examples) -> None:
    """Raise DataError if a stage's batches do not fit the examples that it trains on."""
    # Only sizes matter here: a neutral normalisation saves a pass over all images.
    stage_pipeline(stage, inputs.recipe, examples, Normalization(), inputs.data.num_classes)


def check_training(inputs: RunInputs) -> None:
    """Build the network of each stage, and load what it starts and learns from.

    Before a search, layers that a random genotype lacks may be in the one that is found: a pattern
    is refused only if no genotype of the space has such layers.

    Raises:
        BnasLarqError: a batch, network, weights, teacher, or pattern of layers that does not fit.
    """
    recipe, plan = inputs.recipe, inputs.recipe.plan
    check_stages(plan, inputs.network_config)
    teachers = {}
    for stage in plan:
        check_batches(inputs, stage, inputs.data.training_examples(recipe.train.on))
        if stage.learns_elsewhere:
            teachers[stage.name] = inputs.load_teacher(stage.teacher, Normalization())

    def check(*genotypes: Genotype | None) -> None:
        def layers(stage: TrainStage) -> list[keras.layers.Layer]:
            networks = [_network(inputs, stage, genotype) for genotype in genotypes]
            return [layer for network in networks for layer in network.layers]

        check_networks(plan, plan, layers, lambda stage: teachers[stage.name])

    if not needs_search(recipe):
        check(inputs.given_genotype)
        return
    space = drawn_space(recipe.search)
    try:
        check(Genotype.random(space, recipe.seed))
    except RecipeError:
        check(*_all_layers(space))


def _network(inputs: RunInputs, stage: TrainStage, genotype: Genotype | None) -> keras.Model:
    """A stage's network, once it is known that the weights fit that it starts from."""
    config = stage_config(stage, inputs.network_config)
    network = start = build_network(genotype, config, drop_path=stage.drop_path > 0)
    if not stage.starts_elsewhere:
        return network
    if needs_search(inputs.recipe):
        source = find_target(stage.start, WEIGHT_KINDS, STAGE)
        if source.kind is Kind.SAVED_MODEL:
            return network  # of whichever genotype
        # Weights that do not fit their own genotype in this size fit no other.
        start = build_network(source.network().genotype or genotype, config)
    inputs.load_start(stage, start)
    return network


def _all_layers(space: SearchSpace) -> list[Genotype]:
    """Genotypes whose networks together have every layer that a network of the space can have."""
    genotypes = []
    for operation in dict.fromkeys((*space.normal, *space.reduce)):
        edges = ([Edge(operation, state) for state in range(2 + n)] for n in range(space.nodes))
        cell = tuple(map(tuple, edges))
        genotypes.append(Genotype(cell, cell))
    return genotypes
