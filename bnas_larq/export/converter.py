"""From a Keras model to the bytes of a `.tflite` file, with Larq Compute Engine's converter (LCE).

What LCE 0.16 makes of a network, found by experiment (`bnas_larq.export.layer_precision` has the
rules for 1-bit convolutions, of any kernel size, dilation, stride and number of channels):

- BatchNorm in front of a sign remains a multiplication and an addition, since it cannot be folded
  through the sign. BatchNorm behind a binary convolution is folded into its scales.
- ReLU is fused into a convolution of ±1 that pads no zeros (`bnas_larq.export.fused_relu`).
- Zeros (Zeroise) become constants of the output's size. Addition and concatenation are plain TFLite
  operations.
- Some paddings are converted wrongly, see `bnas_larq.export.padding`.
"""

from __future__ import annotations

import tempfile

from bnas_larq.backend import keras, tf
from bnas_larq.console import hush
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.compute_engine import compute_engine
from bnas_larq.export.fused_relu import with_fused_relus
from bnas_larq.export.nested_models import flattened
from bnas_larq.export.padding import with_exact_padding, with_trimmed_margins
from bnas_larq.export.tflite_file import custom_operations

_INCONVERTIBLE = (
    "Larq Compute Engine must be able to convert all layers of a model. Received: {!r}, {}. "
    "Build the layer in question from TensorFlow Lite's built-in operations."
)


def convert(model: keras.Model) -> bytes:
    """Convert a trained model for images into a flatbuffer for Larq Compute Engine.

    The file takes one float32 image [1, height, width, channels] and returns the model's output in
    inference mode. Paddings are rewritten by `bnas_larq.export.padding`, so that every LCE kernel
    computes the same function, and scales in front of ReLUs by `bnas_larq.export.fused_relu`.

    Args:
        model: one input, one output, a static input shape; models may be nested in it. Layers that
            act in training only (drop-path) are dropped.

    Raises:
        ExportError: LCE is not installed; the model has several inputs, an open input shape, no
            graph, a precision other than float32, or a layer that LCE cannot convert.
    """
    engine = compute_engine()
    shape = image_shape(model)
    model = flattened(model)
    check_float32(model)
    with hush():
        model, _ = with_exact_padding(with_trimmed_margins(model))
        model = with_fused_relus(model)
    # A SavedModel of one function: unlike LCE's convert_keras_model, it does not trace every layer
    # and its gradients, so the same converter is 10 times faster.
    call = tf.function(
        lambda image: model(image, training=False),
        input_signature=[tf.TensorSpec((1, *shape), tf.float32, "image")],
    )
    try:
        with hush(), tempfile.TemporaryDirectory() as folder:
            module = tf.Module()
            module.held = model.variables
            tf.saved_model.save(
                module,
                folder,
                signatures=call.get_concrete_function(),
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            )
            content = engine.convert_saved_model(folder)
    except OSError as error:
        raise ExportError(
            f"Conversion needs a writable temporary folder. Received: {one_line(error)}. "
            "Free space or set TMPDIR."
        ) from error
    except Exception as error:  # the converter's own, when it knows no such operation
        refusal = f"which the converter refused: {one_line(error)[:300]}"
        raise ExportError(_INCONVERTIBLE.format(model.name, refusal)) from error
    foreign = [name for name in custom_operations(content) if not name.startswith("Lce")]
    if foreign:
        raise ExportError(_INCONVERTIBLE.format(model.name, f"which uses {', '.join(foreign)}"))
    return content


def check_float32(model: keras.Model) -> None:
    """Raise ExportError unless all layers compute in float32."""
    others = ("float16", "bfloat16", "float64")
    if names := [layer.name for layer in model.layers if layer.compute_dtype in others]:
        more = f" and {len(names) - 3} more layers" if len(names) > 3 else ""
        raise ExportError(
            "Larq Compute Engine converts float32 models. "
            f"Received: another precision in {', '.join(names[:3])}{more}. "
            "Build the network in float32 and load the weights into it."
        )


def image_shape(model: keras.Model) -> tuple[int, int, int]:
    """(height, width, channels) of the model's only input, or ExportError."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    shapes = [tuple(tensor.shape) for tensor in inputs or ()]
    if len(shapes) != 1 or len(outputs) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        raise ExportError(
            "An exported model has one output and one input, an image of fixed height, width and "
            f"channels. Received: {len(shapes)} inputs {shapes}, {len(outputs or ())} outputs. "
            "Build the network with the input_shape that the device will use."
        )
    return shapes[0][1:]
