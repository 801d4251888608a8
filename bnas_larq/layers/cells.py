"""The cell of final networks, as a piece of a functional Keras model, and drop-path."""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, register, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Cell, Edge
from bnas_larq.layers.convolutions import Zeroise
from bnas_larq.layers.operations import Context, build_operation, chain
from bnas_larq.layers.template import CellPlan, preprocess, shortcut
from bnas_larq.spaces import ZEROISE


class DropPathControl:
    """Rate and step that all drop-path layers of one model read; a training callback moves them.

    A plain object, not a layer, so that its variables are no weights of the model: networks with
    and without drop-path exchange weight files. The step makes each mask a pure function of
    (layer's seed, step), which a resumed run repeats exactly.
    """

    def __init__(self) -> None:
        self.rate = tf.Variable(0.0, trainable=False, dtype=tf.float32, name="drop_path_rate")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="drop_path_step")


@register
class DropPath(keras.layers.Layer):
    """Drops an edge's whole output for some examples while training, and scales the rest up
    (FractalNet, arXiv 1605.07648). The rate starts at 0; `bnas_larq.training` raises it linearly.

    Args:
        seed: distinguishes the masks of different edges.
        control: shared rate and step; None makes one of its own.

    Input and output shape: [batch, height, width, channels].
    """

    def __init__(self, seed: int = 0, control: DropPathControl | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        # Keras tracks the variables of layers, lists and tuples, but not those of a plain object.
        self._control = control or DropPathControl()

    @property
    def control(self) -> DropPathControl:
        """The shared rate and step."""
        return self._control

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return inputs
        keep = 1.0 - self._control.rate
        seed = tf.stack([tf.constant(self.seed, tf.int64), self._control.step])
        draw = tf.random.stateless_uniform([tf.shape(inputs)[0], 1, 1, 1], seed)
        return inputs * tf.cast(tf.cast(draw < keep, tf.float32) / keep, inputs.dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


# As in `bnas_larq.layers.convolutions`: .h5 files of nested models leave the namespace out.
keras.utils.get_custom_objects().update(DropPath=DropPath)


def final_cell(
    cell: Cell,
    plan: CellPlan,
    states: tuple[tf.Tensor, tf.Tensor],
    *,
    stem: str,
    context: Context,
    with_shortcut: bool,
    drop_path: DropPathControl | None,
) -> tf.Tensor:
    """Apply one cell of a genotype to symbolic tensors.

    Zeroise adds nothing to a sum and gets no layer, so what only it would read is no part of the
    model; a node of nothing but Zeroise outputs zeros.

    Args:
        states: outputs of the two cells before, [batch, height, width, channels] each.

    Returns:
        [batch, height, width, nodes·filters].
    """
    used = used_states(cell)
    nodes: list[tf.Tensor | None] = [
        chain(preprocess(plan, which, stem, context), x) if which in used else None
        for which, x in enumerate(states)
    ]
    for index, node in enumerate(cell):
        terms = []
        for edge in live_edges(node):
            place = edge_context(plan, index, edge, context)
            term = chain(build_operation(edge.op, place), nodes[edge.state])
            if drop_path is not None:
                seed = (plan.index * len(cell) + index) * 16 + edge.state
                term = DropPath(seed, drop_path, name=f"{place.name}_drop")(term)
            terms.append(term)
        if not terms:
            terms = [_zeros(plan, index, nodes, states)]
        total = (
            keras.layers.Add(name=f"{plan.name}_node{index}")(terms) if len(terms) > 1 else terms[0]
        )
        nodes.append(total)
    output = (
        keras.layers.Concatenate(name=f"{plan.name}_concat")(nodes[2:])
        if len(cell) > 1
        else nodes[2]
    )
    if with_shortcut and plan.index > 0:
        way = chain(shortcut(plan, len(cell), context), states[1])
        if way.shape[1:] != output.shape[1:]:
            raise BnasLarqError(
                "A shortcut must have the shape of the cell's output. "
                f"Received: {tuple(way.shape[1:])} and {tuple(output.shape[1:])} in {plan.name}. "
                "Use an input size that halves without remainder."
            )
        output = keras.layers.Add(name=f"{plan.name}_shortcut")([output, way])
    return output


def live_edges(node: Sequence[Edge]) -> list[Edge]:
    """A node's edges that add something."""
    return [edge for edge in node if edge.op != ZEROISE]


def used_states(cell: Cell) -> set[int]:
    """States that some edge reads which adds something; 0 and 1 are the cell's inputs."""
    return {edge.state for node in cell for edge in live_edges(node)}


def edge_context(plan: CellPlan, index: int, edge: Edge, context: Context) -> Context:
    """Name, channels and strides of the operation on an edge into the node `index`."""
    strides = 2 if plan.reduction and edge.state < 2 else 1
    name = f"{plan.name}_node{index}_from{edge.state}_{edge.op}"
    return context.at(name, plan.filters, strides)


def _zeros(
    plan: CellPlan,
    index: int,
    nodes: Sequence[tf.Tensor | None],
    states: tuple[tf.Tensor, tf.Tensor],
) -> tf.Tensor:
    """A node of nothing but Zeroise.

    It takes its shape from a tensor that lives anyway, so that no unused input comes back to life.
    """
    living = [tensor for tensor in nodes if tensor is not None]
    source = living[-1] if living else states[1]
    strides = 2 if plan.reduction and index == 0 else 1
    return Zeroise(strides, plan.filters, name=f"{plan.name}_node{index}_zeros")(source)
