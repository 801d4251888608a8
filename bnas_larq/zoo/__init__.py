"""The model zoo: BNAS-A … H and BNAS-D v2 as Keras models, with published weights, and the binary
networks that they are measured against.

    from bnas_larq.zoo import BNASD

    model = BNASD(input_shape=(32, 32, 3), num_classes=10, weights="cifar10")

Names are imported when they are first used, so that listing entries needs no TensorFlow.
"""

from __future__ import annotations

from bnas_larq.lazy import lazy_names

_HOMES = {
    **dict.fromkeys(
        (
            *("BNASA", "BNASB", "BNASC", "BNASD", "BNASDv2", "BNASE", "BNASF", "BNASG", "BNASH"),
            *("ABCNet5x5ResNet18", "ABCNet5x5ResNet34", "ABCNetResNet18", "ABCNetResNet34", "BATS"),
            *("BATS2xWider", "BONNBiReal18", "BinaryDuoResNet18", "BiRealNet18", "BiRealNet34"),
            *("BinaryNetResNet18", "CBCNBiReal18", "PCNNResNet18", "ReActNet18"),
            *("RealToBinResNet18", "XNORNetPlusPlusResNet18", "XNORNetResNet18"),
        ),
        "bnas_larq.zoo.factories",
    ),
    "Entry": "bnas_larq.zoo.entries",
    "decode_predictions": "bnas_larq.zoo.preprocessing",
    "find_entry": "bnas_larq.zoo.registry",
    "finetune": "bnas_larq.run.finetuning",
    "import_checkpoint": "bnas_larq.zoo.checkpoint_import",
    "import_entry": "bnas_larq.zoo.imported_entry",
    "list_entries": "bnas_larq.zoo.registry",
    "load_image": "bnas_larq.zoo.preprocessing",
    "preprocess_input": "bnas_larq.zoo.preprocessing",
    "publish_run": "bnas_larq.zoo.publishing",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _HOMES)
