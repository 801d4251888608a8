"""A small network whose costs are counted by hand."""

from __future__ import annotations

from bnas_larq.backend import keras, lq

BINARY = {
    "input_quantizer": "ste_sign",
    "kernel_quantizer": "ste_sign",
    "kernel_constraint": "weight_clip",
}


def small_network():
    return keras.Sequential(
        [
            keras.layers.Conv2D(16, 3, padding="same", use_bias=False, input_shape=(32, 32, 3)),
            keras.layers.BatchNormalization(),
            lq.layers.QuantConv2D(32, 3, strides=2, padding="same", use_bias=False, **BINARY),
            keras.layers.BatchNormalization(scale=False, center=False),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
