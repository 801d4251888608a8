"""Imported checkpoints predict as the authors' program does; unfitting ones are refused."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras
from bnas_larq.errors import BnasLarqError, GenotypeError, WeightsError
from bnas_larq.genotype import Genotype
from bnas_larq.networks.network import NetworkConfig
from bnas_larq.zoo import import_checkpoint
from bnas_larq.zoo.authors_layout import layout
from bnas_larq.zoo.checkpoint_import import read_import

FIXTURES = [
    ("open_cifar_zeroise", "bnas_cifar"),
    ("open_cifar_cell", "bnas_imagenet"),
    ("open_imagenet", "bnas_imagenet"),
]


def opened(shared, name: str):
    path = shared / "fixtures" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the fixture {path} is absent")
    return np.load(path)


def small_checkpoint(genotype: str = "bnas_cifar", **settings) -> dict[str, np.ndarray]:
    """Tensors of a small network, all different from each other."""
    config = NetworkConfig(**{"cells": 3, "channels": 2, "num_classes": 4, **settings})
    draw = np.random.default_rng(0)
    return {
        name: draw.uniform(0.1, 1.0, shape).astype(np.float32)
        for module in layout(Genotype.published(genotype), config)
        for name, shape in module.tensors.items()
    }


# -- the authors' program --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "genotype"), FIXTURES)
@pytest.mark.parametrize("option", ["all-binary", "head"])
def test_logits_equal_the_authors_program(shared, name, genotype, option):
    fixture = opened(shared, name)
    path = shared / "fixtures" / f"{name}.npz"
    key, other, binarized = {
        "all-binary": ("logits", "logits_head", "binarized"),
        "head": ("logits_head", "logits", "binarized_head"),
    }[option]
    model = import_checkpoint(path, genotype, option)
    logits = model(fixture["input_nchw"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, fixture[key], atol=1e-4)
    assert np.abs(fixture[key] - fixture[other]).max() > 1e-2  # the option is told apart
    # What was binary there is binary here, but for branches that reach no output.
    imported = read_import(path, genotype, option)
    modules = layout(imported.genotype, imported.config)
    binary = {layer.name for layer in model.layers if getattr(layer, "kernel_quantizer", None)}
    assert {f"{module.key}.weight" for module in modules if module.layer in binary} == {
        *fixture[binarized]
    } - {f"{module.key}.weight" for module in modules if not module.live}


@pytest.mark.parametrize(("name", "genotype"), FIXTURES)
def test_logits_from_a_pytorch_checkpoint(shared, name, genotype):
    pytest.importorskip("torch")
    fixture = opened(shared, name)
    model = import_checkpoint(shared / "fixtures" / f"{name}.pth.tar", genotype)
    logits = model(fixture["input_nchw"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(logits, fixture["logits"], atol=1e-4)


@pytest.mark.parametrize(("name", "genotype"), FIXTURES)
def test_safetensors_hold_the_same(shared, name, genotype, tmp_path):
    from safetensors.numpy import save_file

    fixture = opened(shared, name)
    path = tmp_path / "weights.safetensors"
    save_file({k[2:]: fixture[k] for k in fixture.files if k.startswith("w/")}, path)
    ours = read_import(path, genotype)
    theirs = read_import(shared / "fixtures" / f"{name}.npz", genotype)
    assert (ours.config, list(ours.weights)) == (theirs.config, list(theirs.weights))
    for layer, arrays in ours.weights.items():
        for array, expected in zip(arrays, theirs.weights[layer], strict=True):
            np.testing.assert_array_equal(array, expected)


# -- the model -------------------------------------------------------------------------------------


def test_latent_kernels_stay_as_in_the_file(tmp_path):
    tensors = small_checkpoint()
    np.savez(tmp_path / "a.npz", **tensors)
    model = import_checkpoint(tmp_path / "a.npz", "bnas_cifar")
    kernel = tensors["cells.0._ops.1.op.0.weight"].transpose(2, 3, 1, 0)
    layer = model.get_layer("cell0_node0_from0_bin_dil_conv_3x3_conv")
    np.testing.assert_array_equal(layer.get_weights()[0], kernel)
    # Positive throughout: its sign would be +1 everywhere, if it were not centred before.
    assert np.unique(np.sign(layer.kernel_quantizer(kernel))).tolist() == [-1, 1]


def test_keras_settings(tmp_path):
    np.savez(tmp_path / "a.npz", **small_checkpoint("bnas_imagenet", cells=1, num_classes=7))
    model = import_checkpoint(
        tmp_path / "a.npz",
        Genotype.published("bnas_imagenet"),
        input_shape=(16, 24, 3),
        classifier_activation="softmax",
        name="mine",
    )
    assert (model.name, model.input_shape, model.output_shape) == (
        "mine",
        (None, 16, 24, 3),
        (None, 7),
    )
    probabilities = model(np.ones((2, 16, 24, 3), np.float32)).numpy()
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(np.ones((2, 16, 24, 3))), probabilities, atol=1e-6)


def test_grouped_stem_follows_from_the_shapes(tmp_path):
    tensors = small_checkpoint("bnas_imagenet", channels=8, input_shape=(96, 96, 3), stem_groups=4)
    assert tensors["stem0.3.weight"].shape == (8, (8 // 2) // 4, 3, 3)
    np.savez(tmp_path / "a.npz", **tensors)
    imported = read_import(tmp_path / "a.npz", "bnas_imagenet", input_shape=(96, 96, 3))
    assert imported.config.stem_groups == 4
    model = imported.load_model()
    for module, layer in (("stem0.3", "stem1_conv"), ("stem1.1", "stem2_conv")):
        np.testing.assert_array_equal(
            model.get_layer(layer).get_weights()[0],
            tensors[f"{module}.weight"].transpose(2, 3, 1, 0),
        )


def test_what_is_left_out_is_said(tmp_path):
    tensors = small_checkpoint()
    tensors["auxiliary_head.classifier.weight"] = np.ones((4, 5), np.float32)
    np.savez(tmp_path / "a.npz", **tensors)
    assert read_import(tmp_path / "a.npz", "bnas_cifar").notes == (
        "The auxiliary head (1 tensors) serves training only: left out.",
        # Both reduction cells never read their newer input: BatchNorm (4) and kernel.
        f"{2 * 5} tensors are in branches that reach no output: left out.",
    )


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classifier.bias", None, "1 tensors missing, such as 'classifier.bias'"),
        ("cells.1.preprocess1.op.0.weight", None, "1 tensors missing"),  # a dead one, too
        ("cells.0._ops.1.op.1.weight", np.ones(1), "1 tensors that the network lacks, such as"),
        ("fc.weight", np.ones(1), "lacks, such as 'fc.weight'"),
        ("cells.0._ops.1.op.0.weight", np.ones((2, 2, 5, 5)), r"\(2, 2, 5, 5\) in place of \(2, 2"),
        ("classifier.bias", np.ones(()), r"of shape \(\) in place of \(4,\)"),
        ("stem.bn.running_var", -np.ones(3), "variance must not be negative.* with -1 in stem.bn"),
        ("classifier.weight", np.ones((1, 16)), "at least two classes"),
    ],
)
def test_tensors_that_do_not_fit(name, change, message, tmp_path):
    tensors = small_checkpoint()
    tensors.pop(name, None)
    if change is not None:
        tensors[name] = change.astype(np.float32)
    np.savez(tmp_path / "a.npz", **tensors)
    with pytest.raises(BnasLarqError, match=message) as caught:
        import_checkpoint(tmp_path / "a.npz", "bnas_cifar")
    assert "\n" not in str(caught.value)


def test_another_genotype_is_recognised(tmp_path):
    np.savez(tmp_path / "a.npz", **small_checkpoint("bnas_imagenet"))
    message = "fit its genotype, here bnas_cifar in 3 cells.*lacks.*It fits bnas_imagenet"
    with pytest.raises(WeightsError, match=message):
        import_checkpoint(tmp_path / "a.npz", "bnas_cifar")


@pytest.mark.parametrize(
    ("claimed", "error", "message"),
    [
        (500, WeightsError, "with 500 channels. Received: .* in place of"),
        (10**6, BnasLarqError, "10,000 channels. Received: .* channels=1000000"),
    ],
)
def test_a_claim_of_great_size_costs_no_memory(tmp_path, claimed, error, message):
    """Sizes have limits, and shapes are compared, before anything is built."""
    tensors = small_checkpoint(channels=2)
    tensors["stem.op.0.weight"] = np.ones((3 * claimed, 1, 1, 1), np.float32)
    np.savez_compressed(tmp_path / "a.npz", **tensors)
    with pytest.raises(error, match=message):
        import_checkpoint(tmp_path / "a.npz", "bnas_cifar")


def test_arguments(tmp_path):
    with pytest.raises(WeightsError, match="all-binary, head.*'haed'; did you mean 'head'"):
        import_checkpoint(tmp_path / "a.npz", "bnas_cifar", "haed")
    with pytest.raises(GenotypeError, match="did you mean 'bnas_cifar'"):
        import_checkpoint(tmp_path / "a.npz", "bnas_cifra")
    with pytest.raises(WeightsError, match="must be a file"):
        import_checkpoint(tmp_path / "a.npz")
