"""BNAS-A … H and BNAS-D v2, and the networks that they are measured against, as functions that
return Keras models, as in `keras.applications`.

All of a kind take the same arguments: one function makes them, their docstrings hold each one's
numbers.
"""

from __future__ import annotations

import inspect
import operator
import os
import textwrap
from typing import Any

from bnas_larq.backend import keras, tf
from bnas_larq.costs.accounting import check_convention
from bnas_larq.errors import ZooError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.template import is_activation
from bnas_larq.networks.network import build_network
from bnas_larq.networks.network_files import layers_behind
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.zoo import pretrained
from bnas_larq.zoo.literature import LITERATURE, LiteratureNetwork
from bnas_larq.zoo.variants import VARIANTS, Variant

_ARGUMENTS = """
    No weights of this size ship with the package, so `weights` is None by default.

    Args:{convention}
        input_shape: (height, width, 3) of the images; default the weights' own, else {shape}.
            Images of 96 pixels and more get the ImageNet stem, smaller ones the CIFAR stem.
        input_tensor: a Keras tensor of normalised images to build upon, instead of a new input.
        weights: None (random), a data set's name ("cifar10", "digits", "imagenet": its entry of the
            size above, else the most accurate), an entry's name (`bnas-larq zoo list`), the folder
            of an entry or run, or the path of a weight file of this very network; a path in the
            working directory begins with "./". Except for the last, the network is the one that the
            weights belong to: its genotype, cells, channels, padding and images. If a data set's
            name leads to another network than the paper's, a UserWarning says so.
        include_top: whether the classifier is part of the model. Without it height and width may
            differ from the weights' own, as long as they call for the same stem.
        pooling: without top: None (the last cell's output, [batch, height, width, 4·filters]),
            "avg" or "max" (pooled over height and width: [batch, 4·filters]).
        num_classes: outputs of the classifier; default the weights' own, else {classes}. Ignored
            without top.
        classifier_activation: "softmax", None for logits, or another Keras activation; with weights
            the first two only.
        genotype: other cells: a `Genotype`, a published name, or a file. Like the next three, it
            must agree with the weights if they bring a network.
        cells, channels: another size than {cells}, {channels}.
        padding: "same" (default) or "symmetric".
        name: the Keras model's name.

    Returns:
        Keras model, images → [batch, num_classes], float32. Normalise the images with
        `preprocess_input`.

    Raises:
        ZooError: no such weights are published, or arguments contradict them.
        WeightsError: the weights are damaged or do not fit.
        BnasLarqError: impossible sizes.

    Example:
        >>> from bnas_larq.zoo import {factory}
        >>> model = {factory}(input_shape=(32, 32, 3), num_classes=10, cells=1, channels=8)
        >>> model.output_shape
        (None, 10)
"""


_CONVENTION = """
        convention: how its 1.48e8 operations at 224 are counted: "honest", or "paper" for the
            network of earlier releases, {cells} cells of {channels} channels with BNAS'
            full-precision shortcuts, which the papers divide by 64."""


def _factory(variant: Variant, depth: int = 2):  # no annotation: editors show the signature below
    """The function that builds a variant; `depth`: how many calls below a user's line it warns."""

    def build(
        *,
        input_shape: tuple[int, int, int] | None = None,
        input_tensor: tf.Tensor | None = None,
        weights: str | os.PathLike | None = None,
        include_top: bool = True,
        pooling: str | None = None,
        num_classes: int | None = None,
        classifier_activation: str | None = "softmax",
        genotype: Genotype | str | os.PathLike | None = None,
        cells: int | None = None,
        channels: int | None = None,
        padding: str | None = None,
        name: str | None = None,
    ) -> keras.Model:
        shape = _image_shape(input_shape, input_tensor)
        _check_activation(classifier_activation, include_top and weights is not None)
        if genotype is not None and not isinstance(genotype, Genotype):
            genotype = Genotype.load(genotype)
        sizes = {"cells": cells, "channels": channels, "padding": padding}
        settings = {
            "input_tensor": input_tensor,
            "include_top": include_top,
            "pooling": pooling,
            "classifier_activation": classifier_activation,
            "name": name or variant.name.replace("-", "_"),
        }
        file = pretrained.weight_file(weights)
        if weights is None or file is not None:  # the variant's own network, at the sizes given
            given = {"input_shape": shape, "num_classes": num_classes, **sizes}
            config = variant.config(**{k: v for k, v in given.items() if v is not None})
            model = build_network(genotype or variant.load_genotype(), config, **settings)
            if file is None:
                return model
            foreign = [] if input_tensor is None else layers_behind(input_tensor)
            return load_weights(model, file, without_top=not include_top, foreign=foreign)
        source = pretrained.find(weights, variant.name)
        given = {"genotype": genotype and genotype.id, **sizes}
        pretrained.check_arguments(source, given, shape, num_classes, include_top)
        pretrained.warn_of_difference(source, variant, given, depth)
        if shape is not None:
            settings["input_shape"] = shape
        return source.load_model(**settings)

    build.__name__ = build.__qualname__ = variant.factory
    build.__doc__ = _docstring(variant)
    return build


def _image_shape(
    input_shape: tuple[int, int, int] | None, input_tensor: tf.Tensor | None
) -> tuple[int, ...] | None:
    """The shape of the images that the user gave in one way or the other."""
    given = None if input_shape is None else _known(input_shape)
    if input_tensor is None:
        return given
    shape = _known(getattr(input_tensor, "shape", (None,))[1:])
    if given not in (None, shape):
        raise ZooError(
            "The input tensor has the images' shape already. Received: "
            f"input_shape={given} and an input_tensor of {shape}. Omit one of them."
        )
    return shape


def _known(shape: Any) -> tuple[int, ...]:
    """(height, width, channels) as numbers."""
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ZooError(
            "Images have a height, a width and channels, all known. "
            f"Received: {shape!r}. Give a shape such as (32, 32, 3)."
        )
    return sizes


def _check_activation(activation: str | None, trained: bool) -> None:
    """As in keras.applications: trained weights give logits, or probabilities made from them."""
    if not is_activation(activation) or (trained and activation not in ("softmax", "linear", None)):
        raise ZooError(
            f"A {'trained ' if trained else ''}classifier ends in 'softmax', or in None for its "
            f"logits{'' if trained else ', or another activation of Keras'}. "
            f"Received: classifier_activation={activation!r}. Give one of them."
        )


def _docstring(variant: Variant) -> str:
    """The variant's numbers, then the arguments that all factories share."""
    results = [
        f"{result.top1:.2f} % on {result.dataset}"
        + (f", top-5 {result.top5:.2f} %" if result.top5 else "")
        + (f" ({result.training})" if result.training else "")
        for result in variant.reported
    ]
    title = variant.name.upper().replace("-V2", " v2")
    stem = convention = ""
    paper = "BNAS, arXiv 2002.06963"
    if variant.stem_groups > 1:
        stem = f", its stem in {variant.stem_groups} groups, its shortcuts `{variant.shortcut}`"
        paper = "BNAS v2, arXiv 2110.08562"
        papers = VARIANTS["bnas-d-v2-paper"]
        convention = _CONVENTION.format(cells=papers.cells, channels=papers.channels)
    reported = f"Its authors report {'; '.join(results)}.\n    " if results else ""
    arguments = _ARGUMENTS.format(
        convention=convention,
        factory=variant.factory,
        shape=variant.input_shape,
        classes=variant.num_classes,
        cells=variant.cells,
        channels=variant.channels,
    )
    return (
        f"{title}: {variant.cells} cells of {variant.channels} channels, genotype "
        f"`{variant.genotype}`{stem} ({paper}).\n\n"
        f"    {reported}{variant.ours}".rstrip()
        + "\n"
        f"    `bnas-larq cost {variant.name}` counts its operations and bytes.\n{arguments}"
    )


BNASA = _factory(VARIANTS["bnas-a"])
BNASB = _factory(VARIANTS["bnas-b"])
BNASC = _factory(VARIANTS["bnas-c"])
BNASD = _factory(VARIANTS["bnas-d"])
BNASE = _factory(VARIANTS["bnas-e"])
BNASF = _factory(VARIANTS["bnas-f"])
BNASG = _factory(VARIANTS["bnas-g"])
BNASH = _factory(VARIANTS["bnas-h"])


_V2 = {
    variant.convention: _factory(variant, depth=3)
    for variant in VARIANTS.values()
    if variant.factory == "BNASDv2"
}


def BNASDv2(*, convention: str = "honest", **arguments: Any) -> keras.Model:
    check_convention(convention)
    return _V2[convention](**arguments)


BNASDv2.__doc__ = _docstring(VARIANTS["bnas-d-v2"])
_common, _own = map(inspect.signature, (_V2["honest"], BNASDv2))
BNASDv2.__signature__ = _common.replace(
    parameters=[_own.parameters["convention"], *_common.parameters.values()]
)


_LITERATURE = """{factory}: {size}, binarised by the scheme `{scheme}`, for ImageNet ({source}).

    {reporter} report {accuracy}; nobody measured it with this package, and no weights are
    published. `bnas-larq cost {name}` counts its operations and bytes.{count}

    Args:
        input_shape: (height, width, 3) of the images. Images of 96 pixels and more get the ImageNet
            stem, smaller ones the CIFAR stem.
        input_tensor: a Keras tensor of normalised images to build upon, instead of a new input.
        weights: None (random), or the path of a weight file of this very network.
        include_top, pooling, num_classes, classifier_activation, name: as of `BNASD`.

    Returns:
        Keras model, images → [batch, num_classes], float32.

    Raises:
        ZooError: weights that nobody published.
        WeightsError: the weights are damaged or do not fit.
        BnasLarqError: impossible sizes.

    Example:
        >>> from bnas_larq.zoo import {factory}
        >>> {factory}(input_shape=(32, 32, 3), num_classes=10).output_shape
        (None, 10)
"""


def _literature_factory(network: LiteratureNetwork):
    """The function that builds a network of the literature."""

    def build(
        *,
        input_shape: tuple[int, int, int] | None = None,
        input_tensor: tf.Tensor | None = None,
        weights: str | os.PathLike | None = None,
        include_top: bool = True,
        pooling: str | None = None,
        num_classes: int | None = None,
        classifier_activation: str | None = "softmax",
        name: str | None = None,
    ) -> keras.Model:
        file = pretrained.weight_file(weights)
        if weights is not None and file is None:
            raise ZooError(
                f"Nobody published weights of {network.factory}. Received: weights={weights!r}. "
                "Give None, or the path of a weight file."
            )
        _check_activation(classifier_activation, include_top and file is not None)
        shape = _image_shape(input_shape, input_tensor)
        given = {"input_shape": shape, "num_classes": num_classes}
        config = network.config(**{key: value for key, value in given.items() if value is not None})
        model = build_network(
            network.load_genotype(),
            config.replace(classifier_activation=classifier_activation),
            input_tensor=input_tensor,
            include_top=include_top,
            pooling=pooling,
            name=name or network.name.replace("-", "_"),
        )
        if file is None:
            return model
        foreign = [] if input_tensor is None else layers_behind(input_tensor)
        return load_weights(model, file, without_top=not include_top, foreign=foreign)

    size = network.backbone
    if network.load_genotype():
        size = "{cells} cells of {channels} channels in {groups} groups".format(**network.network)
        size += f", genotype `{network.backbone}`"
    accuracy = [f"{network.reported.top1} %"]
    accuracy += [f"top-5 {network.reported.top5} %"] if network.reported.top5 else []
    count = textwrap.indent(textwrap.fill(network.count, 96), "    ")
    build.__name__ = build.__qualname__ = network.factory
    build.__doc__ = _LITERATURE.format(
        factory=network.factory,
        size=size,
        scheme=network.scheme,
        source=network.source,
        reporter=network.reporter,
        accuracy=", ".join(accuracy),
        name=network.name,
        count=count and f"\n\n{count}",
    )
    return build


ABCNet5x5ResNet18 = _literature_factory(LITERATURE["abcnet-resnet18-5x5"])
ABCNet5x5ResNet34 = _literature_factory(LITERATURE["abcnet-resnet34-5x5"])
ABCNetResNet18 = _literature_factory(LITERATURE["abcnet-resnet18"])
ABCNetResNet34 = _literature_factory(LITERATURE["abcnet-resnet34"])
BATS = _literature_factory(LITERATURE["bats-base"])
BATS2xWider = _literature_factory(LITERATURE["bats-2x-wider"])
BONNBiReal18 = _literature_factory(LITERATURE["bonn-bireal18"])
BiRealNet18 = _literature_factory(LITERATURE["bireal18"])
BiRealNet34 = _literature_factory(LITERATURE["bireal34"])
BinaryDuoResNet18 = _literature_factory(LITERATURE["binary-duo18"])
BinaryNetResNet18 = _literature_factory(LITERATURE["binarynet-resnet18"])
CBCNBiReal18 = _literature_factory(LITERATURE["cbcn-bireal18"])
PCNNResNet18 = _literature_factory(LITERATURE["pcnn-resnet18"])
ReActNet18 = _literature_factory(LITERATURE["reactnet18"])
RealToBinResNet18 = _literature_factory(LITERATURE["real-to-bin18"])
XNORNetPlusPlusResNet18 = _literature_factory(LITERATURE["xnornet-plus-plus-resnet18"])
XNORNetResNet18 = _literature_factory(LITERATURE["xnornet-resnet18"])
