"""The cell of final networks, as a part of a functional Keras model, and its drop-path."""

from __future__ import annotations

from collections.abc import Sequence

from bnas_larq.backend import keras, register, tf, with_gradient
from bnas_larq.errors import BnasLarqError
from bnas_larq.genotype import Cell, Edge
from bnas_larq.layers.convolutions import Zeroise
from bnas_larq.layers.merging import MixedPrecisionAdd, MixedPrecisionConcatenate
from bnas_larq.layers.normalisation import times
from bnas_larq.layers.operations import Context, build_operation, chain
from bnas_larq.layers.template import CellPlan, preprocess, shortcut
from bnas_larq.layers.traced import traced_by_shape
from bnas_larq.spaces import NO_SHORTCUT, ZEROISE
from bnas_larq.strategies import own_rows


class DropPathControl:
    """Rate, step and seed that all drop-path layers of one model read; a training callback sets
    them.

    Not a layer, so that its variables are not weights of the model: networks with and without
    drop-path exchange weight files. Each mask is a pure function of (run's seed, layer's seed,
    step), which a resumed run repeats exactly.
    """

    def __init__(self) -> None:
        self.rate = tf.Variable(0.0, trainable=False, dtype=tf.float32, name="drop_path_rate")
        self.step = tf.Variable(0, trainable=False, dtype=tf.int64, name="drop_path_step")
        self.seed = tf.Variable(0, trainable=False, dtype=tf.int64, name="drop_path_seed")


@traced_by_shape
def _kept(examples, rate, run_seed, step, layer_seed):
    """0 for the examples whose edge is dropped, else 1/(1 − rate): float32 [examples, 1, 1, 1]."""
    keep = 1.0 - rate
    seed = tf.stack([run_seed * 2**31 + tf.cast(layer_seed, tf.int64), step])
    draw = tf.random.stateless_uniform([examples, 1, 1, 1], seed)
    return tf.cast(draw < keep, tf.float32) / keep


@register
class DropPath(keras.layers.Layer):
    """Drops an edge's whole output for some examples while training, and scales up the others'
    (FractalNet, arXiv 1605.07648). The rate starts at 0; `bnas_larq.training` raises it linearly.
    Under a strategy, each replica has its rows of the mask of the global batch.

    Args:
        seed: distinguishes the masks of different edges; below 2³¹.
        control: shared rate, step and run's seed; None makes one for this layer.

    Input and output shape: [batch, height, width, channels].

    Example:
        >>> layer = DropPath(seed=1)
        >>> _ = layer.control.rate.assign(0.5)
        >>> sorted(set(layer(tf.ones([64, 2, 2, 1]), training=True).numpy().ravel().tolist()))
        [0.0, 2.0]
    """

    def __init__(self, seed: int = 0, control: DropPathControl | None = None, **kwargs) -> None:
        super().__init__(**kwargs, autocast=False)
        self.seed = seed
        # A plain object, whose variables Keras does not track.
        self._control = control or DropPathControl()

    @property
    def control(self) -> DropPathControl:
        """The shared rate, step and run's seed."""
        return self._control

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return inputs
        own, seed = self._control, tf.constant(self.seed)
        # Values: a traced function would keep the first model's variables under a strategy.
        rate, run_seed, step = map(tf.convert_to_tensor, (own.rate, own.seed, own.step))

        def kept(examples: tf.Tensor) -> tf.Tensor:
            return _kept(examples, rate, run_seed, step, seed)

        factor = own_rows(kept, tf.shape(inputs)[0])

        def evaluate():
            return times(inputs, factor), lambda upstream: [times(upstream, factor)]

        return with_gradient("DropPath", evaluate, [inputs])

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


def drop_path_controls(model: keras.Model) -> list[DropPathControl]:
    """The controls of the model's drop-path layers, each once."""
    layers = [layer for layer in model.layers if isinstance(layer, DropPath)]
    return list({id(layer.control): layer.control for layer in layers}.values())


def final_cell(
    cell: Cell,
    plan: CellPlan,
    states: tuple[tf.Tensor, tf.Tensor],
    *,
    stem: str,
    context: Context,
    shortcut_kind: str,
    preprocessing: str,
    drop_path: DropPathControl | None,
) -> tf.Tensor:
    """Apply one cell of a genotype to symbolic tensors.

    Zeroise adds nothing to a sum and gets no layer, so a state that only it reads is not computed.
    A node with Zeroise alone outputs zeros. `states` are the outputs of the two cells before,
    [batch, height, width, channels] each; this cell's is [batch, height, width, nodes·filters].
    """
    used = used_states(cell)
    nodes: list[tf.Tensor | None] = [
        (
            chain(preprocess(plan, source, stem, context, preprocessing, x.shape[-1]), x)
            if source in used
            else None
        )
        for source, x in enumerate(states)
    ]
    for index, node in enumerate(cell):
        terms = []
        for edge in live_edges(node):
            edge_settings = edge_context(plan, index, edge, context)
            term = chain(build_operation(edge.op, edge_settings), nodes[edge.state])
            # DARTS' program: `if not isinstance(op1, Identity): h1 = drop_path(h1, drop_prob)`; the
            # factorised reduction is no Identity.
            if drop_path is not None and (edge.op, edge_settings.strides) != ("identity", 1):
                # A node of a cell of n reads states up to n.
                count = max(16, len(cell) + 1)
                seed = (plan.index * len(cell) + index) * count + edge.state
                term = DropPath(seed, drop_path, name=f"{edge_settings.name}_drop")(term)
            terms.append(term)
        if not terms:
            # The shape comes from a tensor that is computed anyway, so that no unused input is.
            computed = [tensor for tensor in nodes if tensor is not None]
            source = computed[-1] if computed else states[1]
            strides = 2 if plan.reduction and index == 0 else 1
            zeros = Zeroise(strides, plan.filters, name=f"{plan.name}_node{index}_zeros")
            terms = [zeros(source)]
        name = f"{plan.name}_node{index}"
        nodes.append(MixedPrecisionAdd(name=name)(terms) if len(terms) > 1 else terms[0])
    name = f"{plan.name}_concat"
    output = MixedPrecisionConcatenate(name=name)(nodes[2:]) if len(cell) > 1 else nodes[2]
    if shortcut_kind != NO_SHORTCUT and plan.index > 0:
        skip = chain(shortcut(plan, len(cell), context, shortcut_kind), states[1])
        if skip.shape[1:] != output.shape[1:]:
            raise BnasLarqError(
                "A shortcut must have the shape of the cell's output. "
                f"Received: {tuple(skip.shape[1:])} and {tuple(output.shape[1:])} in {plan.name}. "
                "Use an input size that halves without remainder."
            )
        output = MixedPrecisionAdd(name=f"{plan.name}_shortcut")([output, skip])
    return output


def live_edges(node: Sequence[Edge]) -> list[Edge]:
    """A node's edges other than Zeroise."""
    return [edge for edge in node if edge.op != ZEROISE]


def used_states(cell: Cell) -> set[int]:
    """States that live edges read; 0 and 1 are the cell's inputs."""
    return {edge.state for node in cell for edge in live_edges(node)}


def edge_context(plan: CellPlan, index: int, edge: Edge, context: Context) -> Context:
    """Name, channels and strides of the operation on an edge into the node `index`."""
    strides = 2 if plan.reduction and edge.state < 2 else 1
    name = f"{plan.name}_node{index}_from{edge.state}_{edge.op}"
    return context.at(name, plan.filters, strides)
