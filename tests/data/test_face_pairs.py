"""Pairs of faces: LFW's file and every way to damage it, generated pairs, people to hold out."""

import itertools

import numpy as np
import pytest
from PIL import Image

from bnas_larq.data.face_pairs import generate_pairs, read_pairs
from bnas_larq.data.images import read_image_file
from bnas_larq.data.people import load_images, natural_key, split_people
from bnas_larq.errors import BnasLarqError

#: Two folds of two pairs of each kind.
LINES = (
    "2\t2",
    *("Ada_Byron\t1\t4", "Bo\t2\t1", "Ada_Byron\t1\tBo\t2", "Bo\t1\tAda_Byron\t4"),
    *("Cy\t1\t2", "Cy\t1\t3", "Cy\t12\tD’Arc\t1", "D’Arc\t1\tCy\t3"),
)


@pytest.fixture
def written(tmp_path):
    def write(lines, end="\n"):
        path = tmp_path / "pairs.txt"
        path.write_bytes((end.join(lines) + end).encode())
        return path

    return write


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_of_lfw(written, end):
    pairs = read_pairs(written(LINES, end))
    named = [
        (pairs.images[one], pairs.images[other])
        for one, other in zip(pairs.first, pairs.second, strict=True)
    ]
    ada, bo, cy = "Ada_Byron/Ada_Byron_{:04d}.jpg", "Bo/Bo_{:04d}.jpg", "Cy/Cy_{:04d}.jpg"
    assert named[:4] == [
        (ada.format(1), ada.format(4)),
        (bo.format(2), bo.format(1)),
        (ada.format(1), bo.format(2)),
        (bo.format(1), ada.format(4)),
    ]
    assert named[6] == (cy.format(12), "D’Arc/D’Arc_0001.jpg")
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4 and len(pairs) == 2 * 2 * 2
    assert len(set(pairs.images)) == len(pairs.images) == 2 + 2 + 4 + 1


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "10", "begins with FOLDS<TAB>PAIRS"),
        (1, "2 2", "begins with FOLDS<TAB>PAIRS"),
        (1, "0\t2", "begins with FOLDS<TAB>PAIRS"),
        (1, "2\t-2", "begins with FOLDS<TAB>PAIRS"),
        (1, "", "begins with FOLDS<TAB>PAIRS"),
        (2, "Ada 1 4", "of one person is NAME<TAB>1<TAB>2"),
        (3, "Bo\t2", "of one person is NAME<TAB>1<TAB>2"),
        (3, "Bo\t2\tCy\t1", "of one person is NAME<TAB>1<TAB>2"),
        (3, "Bo\t2\t2", "of one person or of two"),
        (3, "Bo\t0\t2", "of one person is"),
        (3, "Bo\t10000\t2", "of one person is"),
        (3, "Bo\t²\t2", "of one person is"),
        (4, "Bo\t1\t2", "of two people is NAME<TAB>1<TAB>OTHER<TAB>2"),
        (4, "Bo\t1\tBo\t2", "of one person or of two"),
        (9, "Bo\t1\t../etc/Cy\t2", "of two people is"),
        (9, "..\t1\tCy\t2", "of two people is"),
        (9, "a\\b\t1\tCy\t2", "of two people is"),
        (9, "", "of two people is"),
    ],
)
def test_a_damaged_line_is_named(written, number, line, message):
    lines = [*LINES[: number - 1], line, *LINES[number:]]
    with pytest.raises(BnasLarqError, match=f"{message}.* in line {number} of .*pairs.txt"):
        read_pairs(written(lines))


def test_lines_too_many_or_too_few(written, tmp_path):
    with pytest.raises(BnasLarqError, match=r"2 folds of 2 pairs.*'Cy\\t1\\t9' in line 10 "):
        read_pairs(written([*LINES, "Cy\t1\t9"]))
    with pytest.raises(BnasLarqError, match="Received: '' in line 9 "):
        read_pairs(written(LINES[:-1]))
    with pytest.raises(BnasLarqError, match="Received: '' in line 2 "):
        read_pairs(written(["9999\t9999"]))
    with pytest.raises(BnasLarqError, match="readable text. Received: .*absent.txt"):
        read_pairs(tmp_path / "absent.txt")
    (tmp_path / "latin").write_bytes("1\t1\nJosé\t1\t2\n".encode("latin-1"))
    with pytest.raises(BnasLarqError, match="readable text. Received: .*latin"):
        read_pairs(tmp_path / "latin")


def test_generated_pairs_are_all_of_one_person_and_as_many_of_two():
    people = np.repeat(np.arange(7), [3, 4, 5, 2, 3, 4, 3])
    pairs = generate_pairs([f"{n}.png" for n in range(len(people))], people, folds=3, seed=5)
    assert pairs.images[4] == "4.png" and len(pairs.images) == len(people)
    assert (pairs.same == (people[pairs.first] == people[pairs.second])).all()
    for fold in range(3):
        own = pairs.folds == fold
        found = list(zip(pairs.first[own], pairs.second[own], strict=True))
        members = set(people[pairs.first[own]]) | set(people[pairs.second[own]])
        images = [n for n, person in enumerate(people) if person in members]
        possible = [(a, b) for a, b in itertools.combinations(images, 2) if people[a] == people[b]]
        assert len(members) == (3 if fold == 0 else 2)  # 7 people in 3 folds
        assert sorted(pair for pair in found if people[pair[0]] == people[pair[1]]) == possible
        assert len(set(found)) == len(found) == 2 * len(possible)
    folds = [set(people[pairs.first[pairs.folds == fold]]) for fold in range(3)]
    assert not any(one & other for one, other in itertools.combinations(folds, 2))


def test_the_seed_alone_draws_the_pairs():
    people = np.repeat(np.arange(4), 5)
    files = [str(n) for n in range(20)]
    first, again, other = (generate_pairs(files, people, folds=2, seed=s) for s in (1, 1, 2))
    for attribute in ("first", "second", "same", "folds"):
        np.testing.assert_array_equal(getattr(first, attribute), getattr(again, attribute))
    assert not np.array_equal(first.second, other.second)


def test_fewer_pairs_of_two_people_than_of_one():
    # Images of two people, 4 + 1: 6 pairs of one person, 4 of two.
    pairs = generate_pairs(list("abcde"), np.array([0, 0, 0, 0, 1]), folds=1)
    assert (len(pairs), int(pairs.same.sum())) == (4 + 4, 4)


def test_what_generated_pairs_need():
    with pytest.raises(BnasLarqError, match="two people at least. Received: 3 people for 2 folds"):
        generate_pairs(list("abc"), np.arange(3), folds=2)
    with pytest.raises(BnasLarqError, match="two images. Received: 2 images of 2 people in one"):
        generate_pairs(list("ab"), np.arange(2), folds=1)


@pytest.fixture
def people(tmp_path):
    """s1, s2, s10 and s20 with two grey pictures each, 1.pgm and 10.pgm."""
    for number in (1, 2, 10, 20):
        for image in (1, 10):
            path = tmp_path / f"s{number}" / f"{image}.pgm"
            path.parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(100 * number + image).integers(0, 256, (8, 6), np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path


@pytest.mark.parametrize("memory", [0, 100])
def test_people_are_split_in_natural_order(people, memory):
    train, test = split_people(people, 3, memory_limit_mb=memory)
    assert (train.names, test.names) == (("s1", "s2", "s10"), ("s20",))
    assert train.files[2:] == ("s2/1.pgm", "s2/10.pgm", "s10/1.pgm", "s10/10.pgm")
    assert train.examples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.files == ("s20/1.pgm", "s20/10.pgm") and test.examples.labels.tolist() == [0, 0]
    for part in (train, test):
        assert part.examples.image_shape == (8, 6, 3) and part.examples.streamed == (memory == 0)
        images = part.examples.images_at(range(len(part.files)))
        for file, image in zip(part.files, images, strict=True):
            grey = np.asarray(Image.open(people / file))
            np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))


def test_people_in_another_size(people):
    train, _ = split_people(people, 1, image_size=(4, 4))
    assert train.examples.image_shape == (4, 4, 3)


def test_what_a_folder_of_people_needs(people):
    for train in (0, 4):
        with pytest.raises(BnasLarqError, match=f"held out. Received: train={train} of 4 people"):
            split_people(people, train)
    with pytest.raises(BnasLarqError, match="existing folder. Received: .*absent"):
        split_people(people / "absent", 1)
    inner = people / "parts" / "train"
    inner.mkdir(parents=True)
    for number in (1, 2):
        (people / f"s{number}").rename(inner / f"s{number}")
    with pytest.raises(
        BnasLarqError, match="by person, not by folders of parts. Received: .*train"
    ):
        split_people(people / "parts", 1)


def test_images_of_pairs(people):
    files = ["s20/1.pgm", "s1/10.pgm"]
    images = load_images(people, files, image_size=(8, 6)).images_at([0, 1])
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(image, read_image_file(people / file))
    with pytest.raises(BnasLarqError, match="readable. Received: .*s1/2.pgm"):
        load_images(people, ["s1/2.pgm"], image_size=(8, 6))
    (people / "s1" / "note").write_text("no image")
    with pytest.raises(BnasLarqError, match="readable. Received: .*s1/note"):
        load_images(people, ["s1/note"], image_size=(8, 6))


def test_natural_order():
    names = ["s10", "s1b", "2", "s2", "s1", "10", "s02", "a"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "s1", "s1b", "s02", "s2", "s10"]


def test_orl_in_ten_folds(shared):
    folder = shared / "data" / "faces" / "orl"
    if not folder.is_dir():
        pytest.skip(f"the faces {folder} are absent")
    train, test = split_people(folder, 20)
    assert train.names == tuple(f"s{n}" for n in range(1, 21)) and test.names[0] == "s21"
    assert len(test.files) == 20 * 10 and test.examples.image_shape == (112, 92, 3)
    pairs = generate_pairs(test.files, test.examples.labels, folds=10)
    assert np.bincount(pairs.folds).tolist() == [90 + 90] * 10  # 90 = 2 people · 10·9/2
    assert np.bincount(pairs.folds, pairs.same).tolist() == [90] * 10
