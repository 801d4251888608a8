import pytest

from bnas_larq import precision
from bnas_larq.backend import keras, tf
from bnas_larq.errors import BnasLarqError
from bnas_larq.precision import PRECISIONS, check_precision, choose_precision, matmul_rate


@pytest.mark.parametrize("name", PRECISIONS)
def test_known_precisions_pass(name):
    check_precision(name)


@pytest.mark.parametrize("name", ["bfloat", "float16", "", None, 16])
def test_an_unknown_precision_is_refused(name):
    with pytest.raises(BnasLarqError, match="'float32', 'bfloat16' or 'auto'. Received: "):
        choose_precision(name)


def test_a_near_name_is_proposed():
    with pytest.raises(BnasLarqError, match="did you mean 'bfloat16'"):
        check_precision("bfloat")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_precision_that_is_asked_for_is_taken(name):
    assert choose_precision(name).name == name


def test_auto_measures_and_says_what():
    choice = choose_precision("auto")
    assert choice.name in ("float32", "bfloat16")
    assert "on this machine: convolutions " in choice.reason
    assert "GFLOP/s" in choice.reason


@pytest.mark.parametrize(
    ("low", "taken"), [(1e9, "float32"), (1.1e9, "float32"), (2e9, "bfloat16")]
)
def test_auto_takes_bfloat16_where_it_clearly_pays(low, taken):
    rates = {"float32": 1e9, "bfloat16": low}
    choice = precision._choice(rates, rates)
    assert choice.name == taken
    assert ("does not pay" in choice.reason) == (taken == "float32")


def test_without_kernels_for_bfloat16_auto_takes_float32(monkeypatch):
    def missing(dtype, *args):
        raise tf.errors.InvalidArgumentError(None, None, f"no kernel\nfor {dtype}")

    monkeypatch.setattr(precision, "matmul_rate", missing)
    choice = choose_precision("auto")
    assert choice.name == "float32"
    assert "cannot be measured here (no kernel for float32)" in choice.reason


def test_measuring_leaves_random_streams_alone():
    keras.utils.set_random_seed(3)
    expected = tf.random.uniform([4]).numpy()
    keras.utils.set_random_seed(3)
    choose_precision("auto")
    assert (tf.random.uniform([4]).numpy() == expected).all()


@pytest.mark.parametrize("dtype", ["float32", tf.bfloat16])
def test_a_matrix_product_has_a_rate(dtype):
    assert matmul_rate(dtype, size=64, repeats=1) > 0
