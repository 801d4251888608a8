"""The supernet: a Keras model that holds every candidate network."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.layers import template
from bnas_larq.layers.activations import SchemeOptions
from bnas_larq.layers.convolutions import check_padding
from bnas_larq.layers.operations import Context, build_chain, chain
from bnas_larq.layers.quantizers import check_searchable
from bnas_larq.networks.network import check_operations
from bnas_larq.spaces import SearchSpace, preprocessing_of
from bnas_larq.supernet.bilevel_training import BilevelModel
from bnas_larq.supernet.compute_cache import ComputeCache
from bnas_larq.supernet.relaxations import Relaxation, Softmax
from bnas_larq.supernet.search_cell import PartialChannels, SearchCell, check_alive


@register
class SuperNet(BilevelModel):
    """Supernet of a cell search: a Keras model that trains as `BilevelModel` says.

    Args:
        space: candidates on the edges and the cell template.
        num_classes: outputs of the classifier (logits).
        cells: number of cells; cells//3 and 2·cells//3 are reduction cells.
        channels: channels of the first cell's nodes.
        stem: `"cifar"`, `"imagenet"`, or `"auto"`: by the size of `input_shape`, or CIFAR's.
        padding: `"same"`, or `"symmetric"` for weights of the authors' program.
        scheme: binarisation scheme of the candidate convolutions.
        kernels: `"binary"`, or `"real"`: candidates convolve signs with real kernels (BATS).
        groups: of BATS' candidates; they divide the channels that pass through the candidates.
        relaxation: what cells evaluate, given α; default the softmax of DARTS.
        full_precision: patterns of names of candidate convolutions whose kernel stays full
            precision.
        channel_sampling: which channels pass through the candidates; None for all of them.
        edge_normalization: learn weights β of whole edges, too (PC-DARTS, arXiv 1907.05737).
        mixed_precision: `"float32"`, or `"bfloat16"` for the candidates' convolutions and their
            sums; all else stays float32.
        alive: booleans [edges, operations] of normal and reduction cells, see `prune`; None for all
            candidates.
        seed: of the relaxation's draws. They depend on it and on the optimizer's step count alone,
            so that a resumed search draws the same as an uninterrupted one.
        input_shape: (height, width, channels); when given, the weights exist after construction.

    Input shape: [batch, height, width, 3], normalised float32. Output shape: [batch, num_classes],
    logits.

    Raises:
        BnasLarqError: impossible sizes, unknown stem, padding or scheme, or a Keras policy other
            than float32.

    Example:
        >>> from bnas_larq import SearchSpace
        >>> net = SuperNet(SearchSpace.bnas(), 10, cells=1, channels=2, input_shape=(8, 8, 3))
        >>> net.alphas_normal.shape, net(tf.zeros([1, 8, 8, 3])).shape
        (TensorShape([14, 7]), TensorShape([1, 10]))
        >>> net.genotype().normal[0][0].op in SearchSpace.bnas().normal
        True
    """

    def __init__(
        self,
        space: SearchSpace,
        num_classes: int,
        cells: int = 8,
        channels: int = 16,
        *,
        stem: str = "auto",
        padding: str = "same",
        scheme: str = "sign-scale",
        kernels: str = "binary",
        groups: int = 1,
        relaxation: Relaxation | None = None,
        full_precision: Sequence[str] = (),
        channel_sampling: PartialChannels | None = None,
        edge_normalization: bool = False,
        mixed_precision: str = "float32",
        alive: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int = 0,
        input_shape: tuple[int, int, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(space, relaxation or Softmax(), seed, **kwargs)
        stem = template.resolve_stem(stem, input_shape)
        check_padding(padding)
        options = SchemeOptions(kernels=kernels)
        check_searchable(scheme, options)
        operations = {*space.normal, *space.reduce}
        check_operations(groups, operations)
        if num_classes < 2:
            raise BnasLarqError(
                f"A classifier needs at least two classes. Received: num_classes={num_classes}."
            )
        plans = template.plan_cells(cells, channels, stem)
        # All candidates of all edges, in full width.
        template.check_weights(plans, num_classes, each=1000)
        # As text: Keras would wrap the lists of a dictionary, and JSON cannot write those.
        self._config = json.dumps(
            {
                "space": space.to_dict(),
                "num_classes": num_classes,
                "cells": cells,
                "channels": channels,
                "stem": stem,
                "padding": padding,
                "scheme": scheme,
                "kernels": kernels,
                "groups": groups,
                "full_precision": list(full_precision),
                "channel_sampling": channel_sampling and channel_sampling.proportion,
                "edge_normalization": edge_normalization,
                "mixed_precision": mixed_precision,
                "seed": seed,
                "input_shape": None if input_shape is None else list(input_shape),
            }
        )
        quantisation = {"scheme": scheme, "full_precision": tuple(full_precision)}
        quantisation |= {"options": options, "groups": groups}
        context = Context("", channels, padding=padding, supernet=True, **quantisation)
        if stem == "imagenet":
            self.stem, self.second_stem = template.imagenet_stem(channels, context)
        else:
            preprocessing = preprocessing_of(operations)
            self.stem = template.cifar_stem(channels, context, preprocessing)
            self.second_stem = []
        if mixed_precision not in ("float32", "bfloat16"):
            raise BnasLarqError(
                "A supernet computes in 'float32' or 'bfloat16'. "
                f"Received: {mixed_precision!r}. bnas_larq.precision resolves 'auto'."
            )
        for policy in (self.dtype_policy, keras.mixed_precision.global_policy()):
            if policy.compute_dtype != "float32":
                raise BnasLarqError(
                    "A supernet has its own mixed_precision='bfloat16'; Keras' policies round what "
                    f"must stay exact. Received: policy {policy.name!r}. Set it to 'float32'."
                )
        self._cache = ComputeCache(mixed_precision)
        self.cells = []
        older = newer = template.stem_channels(channels, stem)
        for plan in plans:
            shared = (stem, context, self._cache, channel_sampling, (older, newer))
            self.cells.append(SearchCell(space, plan, *shared))
            older, newer = newer, space.nodes * plan.filters
        self.classifier = template.classifier(num_classes)

        self.add_architecture(edge_normalization)
        if alive is not None:
            self.prune(*alive)
        if input_shape is not None:
            self.build((None, *input_shape))

    # -- the network -------------------------------------------------------------------------------

    def build(self, input_shape) -> None:
        """Make all weights, layer by layer: Keras would trace the whole network to do so."""
        older = build_chain(self.stem, input_shape)
        newer = build_chain(self.second_stem, older)
        for cell in self.cells:
            with keras.backend.name_scope(cell.name):
                cell.build((older, newer))
            older, newer = newer, cell.compute_output_shape((older, newer))
        build_chain(self.classifier, newer)
        self._build_input_shape = input_shape
        self.built = True

    # Nothing in here needs AutoGraph, whose conversion takes most of the time to trace a step.
    @tf.autograph.experimental.do_not_convert
    def call(
        self, inputs: tf.Tensor, training: bool | None = None, forward_pass: str = "weights"
    ) -> tf.Tensor:
        """Logits; `forward_pass` says whose draws are used, see `ArchitectureModel.choices`."""
        normal, reduce = self.choices(bool(training), forward_pass)
        older = chain(self.stem, inputs, training)
        newer = chain(self.second_stem, older, training)
        for cell in self.cells:
            choice = reduce if cell.plan.reduction else normal
            older, newer = newer, cell((older, newer), choice, training=training)
        return chain(self.classifier, newer, training)

    # -- candidates and their kernels --------------------------------------------------------------

    def prune(self, normal: np.ndarray, reduce: np.ndarray) -> None:
        """From now on compute only some candidates, and let only them compete. The others' weights
        remain, so that checkpoints fit before and after. The next step is traced anew.

        Args:
            normal, reduce: booleans [edges, operations]: the candidates to keep.

        Raises:
            BnasLarqError: another shape, or an edge without any candidate.
        """
        kept = [np.array(values, bool) for values in (normal, reduce)]
        # All checks come first, so that a refusal changes nothing.
        for alpha, values in zip(self.alphas, kept, strict=True):
            check_alive(values, tuple(alpha.shape))
        for cell in self.cells:
            cell.keep_alive(kept[cell.plan.reduction])
        self._untracked.alive = kept
        self.train_function = self.test_function = self.predict_function = None

    def constant_kernels(self) -> contextlib.AbstractContextManager[None]:
        return self._cache.shared_kernels(
            convolution
            for cell in self.cells
            for edges in cell.outgoing
            for convolution in edges.convolutions()
        )

    def changing_kernels(self) -> contextlib.AbstractContextManager[None]:
        return self._cache.shared_kernels(())

    # -- serialisation -----------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        relaxation = keras.utils.serialize_keras_object(self.relaxation)
        alive = [kept.tolist() for kept in self._untracked.alive]
        config = json.loads(self._config)
        return {**config, "relaxation": relaxation, "alive": alive, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> SuperNet:
        config = dict(config)
        config["space"] = SearchSpace.from_dict(config["space"])
        config["relaxation"] = keras.utils.deserialize_keras_object(
            config["relaxation"], custom_objects
        )
        if config["channel_sampling"] is not None:
            config["channel_sampling"] = PartialChannels(config["channel_sampling"])
        return cls(**config)
