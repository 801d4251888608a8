"""Search cells, and what they compute against the reference form."""

from __future__ import annotations

import functools

import numpy as np

from bnas_larq.backend import keras, lq, tf
from bnas_larq.layers.constraints import CenterClip
from bnas_larq.layers.operations import Context
from bnas_larq.layers.quantizers import Scheme, SignScale
from bnas_larq.layers.template import CellPlan
from bnas_larq.spaces import SearchSpace
from bnas_larq.supernet.compute_cache import ComputeCache
from bnas_larq.supernet.relaxations import Mixture
from bnas_larq.supernet.search_cell import SearchCell

SPACE = SearchSpace.bnas()
EDGES, OPERATIONS = len(SPACE.edges), len(SPACE.normal)
PLANS = {
    "normal": CellPlan(index=1, filters=3, reduction=False, after_reduction=False),
    "reduce": CellPlan(index=1, filters=4, reduction=True, after_reduction=False),
    "after reduce": CellPlan(index=2, filters=3, reduction=False, after_reduction=True),
}


class ExactScale(SignScale):
    """`SignScale` whose scale is rounded to a power of two; the gradient is `SignScale`'s."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        product = super().call

        @tf.custom_gradient
        def quantize(latent):
            with tf.GradientTape() as tape:
                tape.watch(latent)
                outputs = product(latent)
            exact = tf.sign(outputs) * tf.pow(
                2.0, tf.round(tf.math.log(abs(outputs)) / np.log(2.0))
            )
            return exact, lambda upstream: tape.gradient(outputs, latent, upstream)

        return quantize(inputs)


#: Registered as `test-exact` by the fixture `exact_scheme`.
EXACT = Scheme(
    lq.quantizers.SteSign,
    ExactScale,
    CenterClip,
    depthwise_quantizer=lambda: ExactScale(centre=False),
)


@functools.cache
def cache_of(dtype: str) -> ComputeCache:
    """What all cells here share, as those of a supernet do: each function is traced once."""
    return ComputeCache(dtype)


def inputs_of(plan: CellPlan) -> tuple[tf.Tensor, tf.Tensor]:
    """The outputs of the two cells before; the newer one has the cell's own 4·filters channels."""
    side = 16 if plan.after_reduction else 8
    older = tf.random.stateless_normal([3, side, side, 6], [0, 1])
    return older, tf.random.stateless_normal([3, 8, 8, 4 * plan.filters], [0, 2])


def mixture_of(seed: int, space: SearchSpace = SPACE) -> tf.Tensor:
    shape = [len(space.edges), len(space.normal)]
    return tf.nn.softmax(tf.random.stateless_normal(shape, [seed, 3]))


def make(plan: CellPlan, scheme: str = "test-exact", space=SPACE, dtype="float32", **settings):
    sampling = settings.pop("channel_sampling", None)
    keras.utils.set_random_seed(0)
    context = Context("", plan.filters, supernet=True, scheme=scheme, **settings)
    cell = SearchCell(space, plan, "cifar", context, cache_of(dtype), sampling)
    cell(inputs_of(plan), mixture_of(0, space))
    return cell


def run(compute, plan: CellPlan, alphas: tf.Tensor, variables=(), order: int = 1):
    """Outputs of `compute(states, mixture weights)`, gradients of α and of the kernels; with order
    −1 the images come the other way round."""
    with tf.GradientTape() as tape:
        tape.watch(alphas)
        states = tuple(state[::order] for state in inputs_of(plan))
        outputs = compute(states, tf.nn.softmax(alphas))[::order]
        # Any uneven weighting, so that every output counts differently.
        loss = tf.reduce_sum(outputs * tf.random.stateless_normal(tf.shape(outputs), [5, 6]))
    gradient, received = tape.gradient(loss, (alphas, list(variables)))
    return outputs.numpy(), gradient.numpy(), [np.asarray(g) for g in received]


def alphas_of(space: SearchSpace, seed: int = 7) -> tf.Tensor:
    return tf.random.stateless_normal([len(space.edges), len(space.normal)], [seed, 8])


def compare(
    cell: SearchCell,
    plan: CellPlan,
    reference,
    mixture=Mixture,
    reordered: bool = False,
    **settings,
) -> None:
    """Outputs and all gradients of the cell against the reference form's.

    With `reordered`, a kernel's gradient may be as far from the reference's as the reference's is
    from itself, twice, when it reads the images in another order.
    """
    alphas, variables = alphas_of(cell.space), cell.trainable_variables
    ours = run(lambda x, w: cell(x, mixture(w), training=True), plan, alphas, variables)
    theirs = run(lambda x, w: reference(cell, x, w, **settings), plan, alphas, variables)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])
    bounds = [1e-5] * len(variables)
    if reordered:
        again = run(lambda x, w: reference(cell, x, w, **settings), plan, alphas, variables, -1)
        bounds = [max(1e-5, 2 * far(*pair)) for pair in zip(again[2], theirs[2], strict=True)]
        # It is about single kernels.
        assert sum(bound > 1e-5 for bound in bounds) <= 2
    for variable, one, other, bound in zip(variables, ours[2], theirs[2], bounds, strict=True):
        assert np.any(other), variable.name
        assert_close(one, other, bound)


def far(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, as a share of the largest entry."""
    return np.abs(one - other).max() / np.abs(other).max()


def assert_close(one: np.ndarray, other: np.ndarray, bound: float = 1e-5) -> None:
    """Equal to 1e-5 of the largest entry."""
    assert np.abs(one - other).max() <= bound * np.abs(other).max()


def positive(weights: tf.Tensor) -> Mixture:
    return Mixture(weights, positive=True)
