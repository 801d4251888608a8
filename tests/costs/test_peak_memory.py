"""Peak activation memory as visible arithmetic; against files in tests/export."""

from __future__ import annotations

import pytest

from bnas_larq.backend import keras, lq
from bnas_larq.costs.accounting import count_costs
from bnas_larq.costs.peak_memory import peak_bytes
from bnas_larq.layers.abc_convolution import INITIAL_SHIFTS, ABCConv2D
from bnas_larq.layers.activations import RealActivation
from bnas_larq.layers.convolutions import Zeroise
from bnas_larq.layers.operations import Context, build_operation, chain

BINARY = {"padding": "same", "input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign"}
#: An 8×8 image of 4 channels, and an activation of 40, in bytes; the signs of the latter fill two
#: words of each pixel.
IMAGE, WIDE, SIGNS = 8 * 8 * 4 * 4, 8 * 8 * 40 * 4, 8 * 8 * 2 * 4


def peak(layers, shape=(8, 8, 4)):
    image = keras.Input(shape)
    return count_costs(keras.Model(image, chain(layers, image))).peak_activation_bytes


def wide(size=1, **options):
    return keras.layers.Conv2D(40, size, padding="same", **options)


def binary(**options):
    return lq.layers.QuantConv2D(40, 3, **{**BINARY, **options})


def abc(bases, **options):
    return ABCConv2D(40, 3, *INITIAL_SHIFTS[bases], **options)


def test_tensors_live_from_the_writer_to_the_last_reader():
    sizes = {"image": 1, "a": 10, "b": 100, "c": 1000}
    steps = [(["image"], ["a"]), (["a"], ["b"]), (["b"], ["c"])]
    ends = {"inputs": ["image"], "outputs": ["c"]}
    assert peak_bytes(steps, sizes, **ends) == 1 + 100 + 1000
    assert peak_bytes([*steps, (["a", "c"], ["d"])], {**sizes, "d": 0}, **ends) == 1111
    assert peak_bytes([], sizes, **ends) == 1


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([wide()], IMAGE + WIDE),
        ([wide(), keras.layers.BatchNormalization(), keras.layers.ReLU()], IMAGE + WIDE),
        ([keras.layers.BatchNormalization()], 3 * IMAGE),  # multiplied, then added
        ([wide(), keras.layers.MaxPooling2D(2)], IMAGE + WIDE + WIDE // 4),
        ([wide(), keras.layers.PReLU(shared_axes=[1, 2])], IMAGE + 2 * WIDE),
        ([wide(), keras.layers.Dropout(0.5)], IMAGE + WIDE),
        # What the signs were taken of is dead when the convolution runs.
        ([wide(), binary()], IMAGE + WIDE + SIGNS),
        # Zero padding does not fuse a ReLU, ones do.
        ([wide(), binary(), keras.layers.ReLU()], IMAGE + 2 * WIDE),
        ([wide(), binary(pad_values=1.0), keras.layers.ReLU()], IMAGE + WIDE + SIGNS),
        # A depthwise convolution reads the signs as float32.
        (
            [wide(), lq.layers.QuantDepthwiseConv2D(3, padding="same", input_quantizer="ste_sign")],
            IMAGE + 2 * WIDE,
        ),
        # Of several bases, one more product and the sum so far, while the input waits.
        ([wide(), abc((3, 3))], IMAGE + 4 * WIDE + SIGNS),
        ([wide(), abc((3, 3)), keras.layers.ReLU()], IMAGE + 4 * WIDE + SIGNS),
        ([wide(), abc((3, 1), real_input=RealActivation("clip"))], IMAGE + 4 * WIDE),
        ([wide(), abc((3, 3), real_kernel=True)], IMAGE + 4 * WIDE),
        ([wide(), abc((1, 1))], IMAGE + 2 * WIDE),
        ([wide(), lq.quantizers.SteSign(), binary(input_quantizer=None)], IMAGE + WIDE + SIGNS),
        (
            [
                wide(),
                keras.layers.Activation(lq.quantizers.SteSign()),
                binary(input_quantizer=None),
            ],
            IMAGE + WIDE + SIGNS,
        ),
    ],
)
def test_one_chain(layers, expected):
    assert peak(layers) == expected


def test_a_state_lives_while_branches_read_it():
    image = keras.Input((8, 8, 4))
    state = wide()(image)
    left, right = binary(name="left")(state), binary(name="right")(state)
    total = keras.layers.Add()([left, right])
    # The signs, computed once for both: state, left and right; then left, right and their sum.
    first = count_costs(keras.Model(image, total)).peak_activation_bytes
    assert first == IMAGE + 3 * WIDE
    # A third branch: a sum of two and the third, one after the other.
    third = binary(name="third")(state)
    more = count_costs(keras.Model(image, keras.layers.Add()([left, right, third])))
    assert more.peak_activation_bytes == IMAGE + 4 * WIDE


def test_zeros_are_no_activation():
    image = keras.Input((8, 8, 4))
    state = wide()(image)
    zeros = Zeroise(1, 40)(state)
    both = keras.layers.Concatenate()([state, zeros])
    assert count_costs(keras.Model(image, both)).peak_activation_bytes == IMAGE + 3 * WIDE


def test_a_factorised_reduction_shifts_its_input():
    operation = build_operation("identity", Context("place", 40, strides=2))
    # The state, its copy padded to even sides, and that without its first row and column.
    assert peak([wide(), *operation]) == IMAGE + 2 * WIDE + 7 * 7 * 40 * 4


def test_nested_models_and_open_sizes():
    inner_image = keras.Input((8, 8, 4))
    inner = keras.Model(inner_image, chain([wide(), binary()], inner_image))
    image = keras.Input((8, 8, 4))
    twice = keras.Model(image, keras.layers.Add()([inner(image), inner(image)]))
    assert count_costs(twice).peak_activation_bytes == IMAGE + 3 * WIDE
    sequence = keras.Input((None, 4))
    open_size = keras.Model(sequence, keras.layers.ReLU()(sequence))
    assert count_costs(open_size).peak_activation_bytes is None
