"""Verification against numbers worked out by hand, a slow reference, and ORL's raw pixels."""

from __future__ import annotations

import numpy as np
import pytest

from bnas_larq.backend import keras, tf
from bnas_larq.data import Normalization
from bnas_larq.data.examples import InMemoryExamples
from bnas_larq.data.face_pairs import FacePairs, generate_pairs
from bnas_larq.data.people import split_people
from bnas_larq.errors import BnasLarqError
from bnas_larq.training.verification import (
    Verification,
    embed_images,
    squared_distances,
    unit_length,
    verify_pairs,
)


def verification(*folds: tuple[list[float], list[float]]) -> Verification:
    """Each fold: distances of pairs of one person, and of two."""
    distances = [[*same, *different] for same, different in folds]
    kinds = [[True] * len(same) + [False] * len(different) for same, different in folds]
    numbers = [[fold] * len(kind) for fold, kind in enumerate(kinds)]
    return Verification(*(np.concatenate(part) for part in (distances, kinds, numbers)))


def test_distances_of_embeddings_of_length_1():
    # (3, 4)/5 = (0.6, 0.8); (0, 2)/2 = (0, 1); (−1, 0).
    embeddings = unit_length(np.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]]))
    pairs = FacePairs(("a", "b", "c"), np.array([0, 0, 1]), np.array([1, 2, 2]), None, None)
    expected = [0.6**2 + 0.2**2, 1.6**2 + 0.8**2, 1 + 1]
    np.testing.assert_allclose(squared_distances(embeddings, pairs), expected)


def test_each_fold_is_judged_by_the_others_threshold():
    # Fold 0 alone is right from t > 0.3 to t ≤ 1: the first such threshold is 0.31.
    # By it fold 1 accepts 0.2 (right) and 0.305 (wrong), and not 0.5 (wrong), but not 2 (right).
    # Fold 1 is best, 3 of 4, first from t > 0.2: 0.21. By it fold 0 accepts 0.1, not 0.3 (wrong).
    judged = verification(([0.1, 0.3], [1.0, 1.2]), ([0.2, 0.5], [0.305, 2.0]))
    np.testing.assert_allclose(judged.fold_accuracies(), [3 / 4, 2 / 4])
    metrics = judged.metrics()
    assert metrics["accuracy"] == (3 / 4 + 2 / 4) / 2
    assert metrics["accuracy_std"] == (3 / 4 - 2 / 4) / 2  # of two values: half their difference
    assert metrics["pairs"] == 8
    # Of all pairs most, 7 of 8, are right first from t > 0.5 on: all but 0.305.
    assert metrics["threshold"] == 0.51


def test_a_distance_at_the_threshold_is_not_below_it():
    # Fold 1 is right from t = 0.11 on, by which fold 0's pairs are both refused. Fold 0 is right
    # from t > 0.25 on, so 0.26, by which fold 1's 0.26 is refused, too: a right verdict.
    judged = verification(([0.25], [3.0]), ([0.1], [0.26]))
    np.testing.assert_allclose(judged.fold_accuracies(), [1 / 2, 2 / 2])


def test_rates_at_a_threshold_between_two_of_the_grid():
    # The FAR of fold 0 is 0 up to t = 0.5 and 1/2 from 0.501 on: 0.25 at t = 0.5005.
    # By it fold 1 accepts 0.4, and 0.5004, but not 0.5006, nor 2.
    judged = verification(([0.1, 0.2], [0.5, 3.0]), ([0.4, 0.5006], [0.5004, 2.0]))
    tar, far = judged.fold_rates(0.25)
    assert (tar[1], far[1]) == (1 / 2, 1 / 2)
    # FAR of fold 1: 0 up to 0.5 and 1/2 from 0.501 on, too. Fold 0 accepts 0.1, 0.2 and 0.5.
    assert (tar[0], far[0]) == (2 / 2, 1 / 2)
    assert judged.metrics(0.25)["tar"] == (2 / 2 + 1 / 2) / 2
    assert judged.metrics(0.25)["tar_std"] == (2 / 2 - 1 / 2) / 2
    assert judged.metrics(0.25)["far"] == 1 / 2


def test_curve():
    # In order: 0.1 same, 0.2 different and same together, 0.3 same, 0.4 different.
    judged = verification(([0.1], [0.2]), ([0.2, 0.3], [0.4]))
    far, tar = judged.roc()
    np.testing.assert_allclose(far, [0, 0, 1 / 2, 1 / 2, 2 / 2])
    np.testing.assert_allclose(tar, [0, 1 / 3, 2 / 3, 3 / 3, 3 / 3])


def slowly(judged: Verification, target: float):
    """The protocol, one threshold and pair after the other."""
    accuracies, tars, fars = [], [], []
    cases = list(zip(judged.distances, judged.same, judged.folds, strict=True))
    for fold in sorted(set(judged.folds)):
        own = [case for case in cases if case[2] == fold]
        others = [case for case in cases if case[2] != fold]
        best = (-1.0, 0.0)
        for threshold in (step / 100 for step in range(400)):
            share = sum((d < threshold) == s for d, s, _ in others) / len(others)
            best = max(best, (share, -threshold))
        accuracies.append(sum((d < -best[1]) == s for d, s, _ in own) / len(own))
        impostors = [d for d, s, _ in others if not s]
        last = 0.0, 0.0
        for threshold in (step / 1000 for step in range(4000)):
            rate = sum(d < threshold for d in impostors) / len(impostors)
            if rate > target:
                slope = (threshold - last[0]) / (rate - last[1])
                chosen = last[0] + (target - last[1]) * slope
                break
            last = threshold, rate
        for rates, kind in ((tars, True), (fars, False)):
            mine = [d for d, s, _ in own if s == kind]
            rates.append(sum(d < chosen for d in mine) / len(mine))
    return accuracies, tars, fars


def test_folds_of_random_distances_equal_the_slow_protocol():
    random = np.random.default_rng(3)
    same = np.arange(150) % 2 == 0
    distances = np.clip(random.normal(np.where(same, 0.8, 1.4), 0.4), 0, 3.99)
    judged = Verification(distances, same, np.arange(150) // 30)
    for target in (0.013, 0.2):
        accuracies, tars, fars = slowly(judged, target)
        np.testing.assert_allclose(judged.fold_accuracies(), accuracies)
        np.testing.assert_allclose(judged.fold_rates(target), [tars, fars])


def test_what_verification_needs():
    with pytest.raises(BnasLarqError, match=r"two folds.* Received: \[1\] of one and \[1\] of two"):
        verification(([0.1], [0.2]))
    with pytest.raises(BnasLarqError, match=r"Received: \[1, 1\] of one and \[1, 0\] of two"):
        verification(([0.1], [0.2]), ([0.1], []))
    judged = verification(([0.1], [0.2]), ([0.1], [0.3]))
    for far in (0.0, 1.0):
        with pytest.raises(BnasLarqError, match=f"between 0 and 1. Received: {far}"):
            judged.fold_rates(far)


def test_images_are_embedded_with_their_mirror_image():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    normalization = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    inputs = keras.Input((4, 6, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    examples = InMemoryExamples(images, np.zeros(5))

    def embedded(images):
        return model(tf.constant(images / 127.5 - 1, tf.float32)).numpy()

    plain = embed_images(model, examples, normalization)
    np.testing.assert_allclose(plain, unit_length(embedded(images)), rtol=1e-4, atol=1e-6)
    both = embed_images(model, examples, normalization, flip=True)
    expected = unit_length(embedded(images) + embedded(images[:, :, ::-1]))
    np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), np.ones(5), rtol=1e-5)


def test_raw_pixels_of_orl(shared):
    """The cosine of raw pixels tells 82 ± 10 % of ORL's pairs rightly: what a network must beat."""
    folder = shared / "data" / "faces" / "orl"
    if not folder.is_dir():
        pytest.skip(f"the faces {folder} are absent")
    _, test = split_people(folder, 20)
    images = test.examples.images_at(range(len(test.files)))[..., 0]
    pixels = unit_length(images.reshape(len(images), -1).astype(np.float32))
    accuracies = []
    for seed in range(4):
        pairs = generate_pairs(test.files, test.examples.labels, seed=seed)
        accuracies.append(verify_pairs(pixels, pairs).fold_accuracies())
    assert np.mean(accuracies) == pytest.approx(0.82, abs=0.02)
    assert np.std(accuracies, axis=1).mean() == pytest.approx(0.10, abs=0.02)
