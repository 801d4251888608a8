"""From a Keras model to the bytes of a `.tflite` file, with Larq Compute Engine's converter (LCE).

What LCE 0.16 makes 1-bit, found by experiment:

- A convolution between a sign and a kernel of ±scale, one scale per output channel, whether the
  scale is computed by the kernel quantizer from a latent kernel or not; 1×1, 3×3, 5×5, dilated,
  strided, any number of channels.
- SAME padding with zeros or ones, and VALID. Zeros padded behind the sign (symmetric padding),
  groups, a kernel of three values and a missing input or kernel quantizer all leave a float
  convolution.
- BatchNorm in front of a sign stays a multiplication and an addition: it cannot be folded through
  the sign. BatchNorm behind a binary convolution is folded into its scales. ReLU is fused with
  `pad_values=1` only.
- Zeros (Zeroise) become constants of the output's size. Addition and concatenation are plain TFLite
  operations.
- Zero padding needs the care of `bnas_larq.export.padding` on small feature maps.
"""

from __future__ import annotations

import tempfile

from bnas_larq.backend import keras, tf
from bnas_larq.console import hush
from bnas_larq.errors import ExportError, one_line
from bnas_larq.export.engine import compute_engine
from bnas_larq.export.flat import flattened
from bnas_larq.export.inspect import custom_operations
from bnas_larq.export.padding import with_exact_padding, with_trimmed_margins

_WAY_OUT = "Build the layer that needs it from TensorFlow Lite's built-in operations."


def convert(model: keras.Model) -> bytes:
    """Convert a trained model for images into a flatbuffer for Larq Compute Engine.

    The file takes one float32 image [1, height, width, channels] and gives what the model gives in
    inference mode. Small feature maps are treated by `bnas_larq.export.padding`, so that every LCE
    kernel computes the same function.

    Args:
        model: one input, one output, a static input shape; models may be nested in it. Layers
            that act in training only (drop-path) are absent.

    Raises:
        ExportError: LCE is not installed or has no wheel for this platform; the model has several
            inputs, an open input shape, no graph, no float32 precision, or a layer that has no
            counterpart in LCE.
    """
    engine = compute_engine()
    shape = image_shape(model)
    model = flattened(model)
    if mixed := other_precisions(model):
        raise ExportError(
            "Larq Compute Engine converts float32 models. "
            f"Received: another precision in {', '.join(mixed[:3])}. "
            "Build the network in float32 and load the weights into it."
        )
    with hush():
        model, _ = with_exact_padding(with_trimmed_margins(model))
    # A SavedModel of one function only, instead of LCE's convert_keras_model: the same converter,
    # but without tracing every layer and its gradients (10 times faster), and for one image.
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
    except Exception as error:  # what the converter raises when an operation has no counterpart
        raise ExportError(
            "A model can be exported when all its layers have counterparts in Larq Compute Engine. "
            f"Received: {model.name!r}, which the converter refused: {one_line(error)[:300]}. "
            f"{_WAY_OUT}"
        ) from error
    foreign = [name for name in custom_operations(content) if not name.startswith("Lce")]
    if foreign:
        raise ExportError(
            "A model can be exported when all its layers have counterparts in Larq Compute Engine. "
            f"Received: {model.name!r}, which uses {', '.join(foreign)}. {_WAY_OUT}"
        )
    return content


def other_precisions(model: keras.Model) -> list[str]:
    """Names of the layers that do not compute in float32."""
    return [
        layer.name
        for layer in model.layers
        if layer.compute_dtype in ("float16", "bfloat16", "float64")
    ]


def image_shape(model: keras.Model) -> tuple[int, int, int]:
    """(height, width, channels) of the model's only input, or ExportError."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    shapes = [tuple(tensor.shape) for tensor in inputs or ()]
    if len(shapes) != 1 or len(outputs) != 1 or len(shapes[0]) != 4 or None in shapes[0][1:]:
        raise ExportError(
            "An exported model takes one image of fixed height, width and channels; one output. "
            f"Received: {len(shapes)} inputs {shapes}, {len(outputs or ())} outputs. "
            "Build the network with the input_shape that the device will use."
        )
    return shapes[0][1:]
