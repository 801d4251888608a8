"""Teachers: the loss against NumPy, and logits kept on disk against computed ones."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.data import Augmentation, Normalization, load_dataset
from bnas_larq.determinism import make_deterministic
from bnas_larq.errors import RecipeError
from bnas_larq.genotype import Genotype
from bnas_larq.layers.batch_norm import batch_norm
from bnas_larq.networks.network import NetworkConfig, build_network
from bnas_larq.networks.network_files import WEIGHTS, StoredNetwork
from bnas_larq.networks.weight_files import load_weights
from bnas_larq.plan_checks import check_plan
from bnas_larq.recipe import parse_recipe
from bnas_larq.teacher_settings import TeacherSettings
from bnas_larq.train_settings import TrainSettings
from bnas_larq.training.recipe_training import train_stored
from bnas_larq.training.teacher_outputs import TeacherOutputs
from bnas_larq.training.teachers import (
    Distilled,
    Teacher,
    attention_distance,
    paired_layers,
    soft_divergence,
)
from bnas_larq.training.trainer import make_loss

CELL = [[("bin_conv_3x3", 0), ("max_pool_3x3", 1)]]
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1])


def network(filters, activation=None, seed=0):
    """Two convolutions, the second at half the resolution, for 8×8 images of three classes."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((8, 8, 3))
    outputs = keras.layers.Conv2D(filters, 3, padding="same", name="whole")(images)
    outputs = keras.layers.Conv2D(filters, 3, 2, padding="same", name="half")(outputs)
    outputs = keras.layers.GlobalAveragePooling2D()(batch_norm("norm")(outputs))
    outputs = keras.layers.Dense(3, activation, name="classifier")(outputs)
    return keras.Model(images, outputs)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(teacher, student, temperature):
    """T²·Σ p·(log p − log q), the mean over images."""
    p, q = (log_softmax(logits / temperature) for logits in (teacher, student))
    return temperature**2 * (np.exp(p) * (p - q)).sum(-1).mean()


def maps(features):
    """Squares summed over channels, normalised per image."""
    energy = np.square(features).sum(-1).reshape(len(features), -1)
    return energy / np.linalg.norm(energy, axis=1, keepdims=True)


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_of_soft_outputs(temperature):
    teacher, student = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    found = float(soft_divergence(tf.constant(teacher), tf.constant(student), temperature))
    assert found == pytest.approx(kl(teacher, student, temperature), rel=1e-4)
    assert float(soft_divergence(teacher, teacher, temperature)) == 0.0


def test_distance_of_attention():
    own, other = (np.random.default_rng(n).normal(size=(2, 3, 3, n)) for n in (2, 5))
    expected = np.linalg.norm(maps(own) - maps(other), axis=1).mean()
    found = float(attention_distance(tf.constant(own), tf.constant(other)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_equal_attention_has_a_gradient():
    features = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(features)
        distance = attention_distance(features, tf.constant(IMAGES))
    assert np.isfinite(tape.gradient(distance, features)).all()


def distilled(settings):
    """A compiled student and its teacher."""
    teacher = Teacher(network(4, seed=1), settings)
    loss = make_loss(TrainSettings(), 3)
    model = Distilled(network(2), teacher, loss)
    model.compile(
        optimizer=keras.optimizers.SGD(0.0),
        loss=loss,
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    return model, teacher.model


def test_the_loss_of_a_step():
    """The student in training mode, the teacher in inference mode."""
    weights = {"temperature": 2.0, "weight": 0.7, "cross_entropy": 0.2, "attention": 0.5}
    model, teacher = distilled(TeacherSettings(model="x", **weights))
    own = keras.Model(model.inputs, [layer.output for layer in model.layers])
    other = keras.Model(teacher.inputs, [layer.output for layer in teacher.layers])
    names = [layer.name for layer in model.layers]
    student = dict(zip(names, own(IMAGES, training=True), strict=True))
    known = dict(zip([x.name for x in teacher.layers], other(IMAGES), strict=True))
    logits = student["classifier"].numpy()
    cross_entropy = -log_softmax(logits)[np.arange(4), LABELS].mean()
    # At each resolution the last layer: BatchNorm at the second.
    distances = [
        np.linalg.norm(maps(student[name].numpy()) - maps(known[name].numpy()), axis=1).mean()
        for name in ("whole", "norm")
    ]
    expected = (
        0.7 * kl(known["classifier"].numpy(), logits, 2.0)
        + 0.2 * cross_entropy
        + 0.5 * sum(distances)
    )
    logs = model.fit(IMAGES, LABELS, batch_size=4, verbose=0, shuffle=False).history
    assert logs["loss"] == [pytest.approx(expected, rel=1e-4)]
    assert logs["accuracy"] == [(logits.argmax(1) == LABELS).mean()]


def test_validation_measures_the_labels():
    model, _ = distilled(TeacherSettings(model="x"))
    data = tf.data.Dataset.from_tensors((IMAGES, LABELS))
    logs = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    cross_entropy = -log_softmax(model.predict_on_batch(IMAGES))[np.arange(4), LABELS].mean()
    assert logs["val_loss"][1] == pytest.approx(cross_entropy, rel=1e-4)
    # Also behind a validation, which has a loss of the same name: the student does not learn.
    assert logs["loss"][1] == pytest.approx(logs["loss"][0], rel=1e-4) and logs["loss"][0] > 0
    assert set(logs) == {"loss", "accuracy", "val_loss", "val_accuracy"}


def test_the_teacher_is_no_part_of_the_student():
    model, teacher = distilled(TeacherSettings(model="x", attention=1.0))
    assert len(model.weights) == len(network(2).weights)
    assert not {id(weight) for weight in teacher.weights} & {id(w) for w in model.weights}
    tracked = tf.train.Checkpoint(model=model)
    saved = {id(weight) for weight in tf.train.TrackableView(tracked).descendants()}
    assert not saved & {id(weight) for weight in teacher.weights}


def test_a_teacher_gets_images_as_it_was_trained():
    own = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    shared = Normalization((0.1, 0.2, 0.3), (0.6, 0.5, 0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    teacher = Teacher(network(2), TeacherSettings(model="x"), own, shared)
    images = teacher.images(shared.apply(tf.constant(pixels)))
    np.testing.assert_allclose(images, own.apply(tf.constant(pixels)), atol=1e-5)


def test_a_softmax_is_undone():
    """Logits are known up to a constant."""
    teacher = Teacher(network(2, "softmax"), TeacherSettings(model="x"))
    logits = teacher.predict(IMAGES), network(2).predict_on_batch(IMAGES)
    centred = [part - part.mean(1, keepdims=True) for part in logits]
    np.testing.assert_allclose(*centred, atol=1e-5)


def test_layers_that_do_not_fit_are_refused():
    student, teacher = network(2).layers, network(4).layers
    assert paired_layers(student, teacher, {"whole": "whole"}) == {"whole": "whole"}
    for names, received in (
        ({"whole": "half"}, "'whole', 8×8 and the teacher's 'half', 4×4"),
        ({"gone": "half"}, "'gone', which is no layer of images and"),
        ({"whole": "classifier"}, "the teacher's 'classifier', which is no layer of images"),
    ):
        with pytest.raises(RecipeError, match=f"layers of images of one size.*{received}"):
            paired_layers(student, teacher, names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "needs a weight or attention"),
        ({"weight": 0.0, "attention": 1.0, "temperature": 2.0}, "temperature needs a weight"),
        ({"layers": {"a": "b"}}, "layers need attention"),
        ({"cache": "folder"}, "cache needs views"),
        ({"cache": "folder", "views": 2, "attention": 1.0}, "attention needs layers"),
        ({"mean": [0, 0, 0]}, "mean and std go together"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"train": {"teacher": {"model": "x", **settings}}})


def test_mixed_images_have_no_views():
    teacher = {"model": "x", "views": 2, "cache": "folder"}
    with pytest.raises(RecipeError, match="kept for views of single images"):
        check_plan(parse_recipe({"train": {"teacher": teacher, "mixup": 0.2}}))
    with pytest.raises(RecipeError, match="train.teacher and search.searcher tuner"):
        tuner = {"searcher": "tuner"}
        check_plan(parse_recipe({"train": {"teacher": {"model": "x"}}, "search": tuner}))


# -- logits on disk --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", limit=60, validation_fraction=0.0)


@pytest.fixture(scope="module")
def expert(digits):
    """An untrained network: its logits are as good as any."""
    keras.utils.set_random_seed(3)
    images = keras.Input(digits.image_shape)
    outputs = keras.layers.Conv2D(4, 3, activation="relu")(images)
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    return keras.Model(images, keras.layers.Dense(10)(outputs))


def outputs_of(folder, digits, expert, **changes):
    facts = {"augmentation": Augmentation(flip=True), "seed": 5, "geometry": {}, **changes}
    teacher = Teacher(expert, TeacherSettings(model="x"))
    return TeacherOutputs(folder, teacher, digits.train, **facts)


def test_logits_are_those_of_the_augmented_images(tmp_path, digits, expert):
    outputs = outputs_of(tmp_path, digits, expert)
    outputs.fill([1])
    indices = digits.train.indices[[7, 3]]
    found = outputs.lookup(tf.constant(1, tf.int64), tf.constant(indices))
    images = Normalization().apply(tf.constant(digits.train.images_at([7, 3])))
    images = Augmentation(flip=True).apply(images, tf.constant(indices), seed=5, epoch=1)
    np.testing.assert_allclose(found, expert(images), atol=1e-6)


def test_views_are_computed_once_and_kept_apart(tmp_path, digits, expert, caplog):
    caplog.set_level("INFO", logger="bnas_larq")
    outputs_of(tmp_path, digits, expert).fill([0, 1])
    assert "view 2 of 60 images" in caplog.text
    caplog.clear()
    outputs_of(tmp_path, digits, expert).fill([0, 1])
    assert "view" not in caplog.text
    outputs_of(tmp_path, digits, expert, seed=6).fill([0])
    assert "view 1 of 60 images" in caplog.text
    assert len(list(tmp_path.glob("*/view-*.npy"))) == 3


def test_a_damaged_view_is_computed_again(tmp_path, digits, expert):
    outputs = outputs_of(tmp_path, digits, expert)
    outputs.fill([0])
    path = next(tmp_path.glob("*/view-00000.npy"))
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    (path.parent / ".view-00000.npy.12345.tmp").write_bytes(b"of a killed process")
    with pytest.warns(UserWarning, match="was changed since it was written"):
        outputs_of(tmp_path, digits, expert).fill([0])
    assert path.read_bytes() == intact
    assert not list(path.parent.glob(".*.tmp"))


def test_a_training_with_kept_logits_is_the_same(tmp_path, digits, expert):
    """To rounding: kept logits were computed in batches of another size."""
    config = NetworkConfig(input_shape=digits.image_shape, channels=2, cells=1)
    weights = []
    for name, cache in (("computed", None), ("kept", str(tmp_path / "cache"))):
        teacher = {"model": "x", "views": 2, "cache": cache}
        train = {"batch_size": 20, "drop_path": 0.0, "epochs": 3, "teacher": teacher}
        recipe = parse_recipe({"train": train, "data": {"augmentation": {"flip": True}}})
        make_deterministic(0)
        stored = StoredNetwork(
            tmp_path / name,
            Genotype(CELL, CELL),
            config,
            digits.class_names,
            Normalization().to_dict(),
            {},
        )
        train_stored(
            stored,
            recipe,
            digits,
            load_teacher=lambda settings, shared: Teacher(expert, settings, shared, shared),
        )
        stored.save()
        weights.append(stored.load_model().get_weights())
    for own, other in zip(*weights, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)
    # The epochs have the views 0, 1 and 0.
    assert len(list((tmp_path / "cache").glob("*/view-*.npy"))) == 2


def test_the_previous_stage_can_teach(tmp_path, digits):
    """As another network with its weights would."""
    config = NetworkConfig(input_shape=digits.image_shape, channels=2, cells=1)
    taught = tmp_path / "previous" / "train" / "checkpoints" / "real" / WEIGHTS

    def load_teacher(settings, shared):
        expert = build_network(Genotype(CELL, CELL), config.replace(kernels="real"))
        return Teacher(load_weights(expert, taught), settings, shared, shared)

    weights = []
    for name in ("previous", "elsewhere"):
        stages = [
            {"name": "real", "kernels": "real"},
            {"name": "binary", "teacher": {"model": name, "temperature": 1.0, "attention": 1.0}},
        ]
        train = {"batch_size": 20, "drop_path": 0.0, "epochs": 1, "stages": stages}
        make_deterministic(0)
        facts = digits.class_names, Normalization().to_dict(), {}
        stored = StoredNetwork(tmp_path / name, Genotype(CELL, CELL), config, *facts)
        train_stored(stored, parse_recipe({"train": train}), digits, load_teacher=load_teacher)
        stored.save()
        weights.append(stored.load_model().get_weights())
    for own, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(own, other)


def test_layers_of_a_previous_stage_are_checked_before_anything_is_trained(tmp_path, digits):
    config = NetworkConfig(input_shape=digits.image_shape, channels=2, cells=1)
    teacher = {"model": "previous", "attention": 1.0, "layers": {"cell0_concat": "cell7_concat"}}
    train = {"batch_size": 20, "drop_path": 0.0, "epochs": 1, "stages": [{}, {"teacher": teacher}]}
    facts = digits.class_names, Normalization().to_dict(), {}
    stored = StoredNetwork(tmp_path, Genotype(CELL, CELL), config, *facts)
    with pytest.raises(RecipeError, match="cell7_concat"):
        train_stored(stored, parse_recipe({"train": train}), digits)
    assert not (tmp_path / "train" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"teacher": {"model": "previous"}}, "none before it that could teach"),
        (
            {"stages": [{"teacher": {"model": "previous"}}, {}]},
            "none before it that could teach",
        ),
        (
            {"stages": [{}, {"teacher": {"model": "previous", "views": 2, "cache": "x"}}]},
            "has no sha256, mean or cache",
        ),
    ],
)
def test_a_previous_stage_that_cannot_teach(train, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"train": train})
