"""Checkpoint files of every format, sound ones and hostile ones."""

from __future__ import annotations

import io
import json
import pathlib
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from bnas_larq.errors import WeightsError
from bnas_larq.zoo import checkpoint_readers
from bnas_larq.zoo.checkpoint_readers import read_checkpoint

VALUES = {
    "stem.bn.weight": np.arange(3, dtype=np.float32),
    "classifier.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
}


class Touch:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def refused(path, message: str) -> None:
    """One sentence that names the file."""
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def npy(header: dict | None = None, data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": (2,), **(header or {})}
    )
    return stream.getvalue() + data


def npz(path, members) -> pathlib.Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def safetensors(path, header: bytes, data: bytes = b"\0" * 8) -> pathlib.Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


# -- sound files -----------------------------------------------------------------------------------


def assert_values(path) -> None:
    tensors = read_checkpoint(path).tensors
    assert list(tensors) == list(VALUES)
    for name, value in VALUES.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], value)


def test_npz_with_and_without_the_fixtures_prefix(tmp_path):
    np.savez(tmp_path / "a.npz", **VALUES)
    assert_values(tmp_path / "a.npz")
    named = {f"w/{name}": value for name, value in VALUES.items()}
    np.savez_compressed(tmp_path / "b.npz", logits=np.ones(2), names=np.array(["x"]), **named)
    assert_values(tmp_path / "b.npz")


def test_npz_of_other_floats_and_orders(tmp_path):
    turned = {name: np.asfortranarray(value.astype(">f8")) for name, value in VALUES.items()}
    np.savez(tmp_path / "a.npz", **turned)
    assert_values(tmp_path / "a.npz")


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    save_file(dict(sorted(VALUES.items())), tmp_path / "a.safetensors")
    tensors = read_checkpoint(tmp_path / "a.safetensors").tensors
    assert {name: value.tolist() for name, value in tensors.items()} == {
        name: value.tolist() for name, value in VALUES.items()
    }


@pytest.mark.parametrize("suffix", [".pth.tar", ".pth", ".pt", ".PT"])
def test_torch_state_dict_with_what_training_adds(torch, tmp_path, suffix):
    state = {f"module.{name}": torch.tensor(value) for name, value in VALUES.items()}
    state["module.stem.bn.num_batches_tracked"] = torch.tensor(7)
    state["module.auxiliary_head.classifier.weight"] = torch.ones(2)
    content = {"epoch": 3, "state_dict": state, "optimizer": {"state": {}, "lr": 0.1}}
    path = tmp_path / f"a{suffix}"
    torch.save(content, path)
    assert_values(path)
    assert read_checkpoint(path).notes == (
        "The auxiliary head (1 tensors) serves training only: left out.",
    )


def test_torch_bare_parameters_of_the_old_format(torch, tmp_path):
    state = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in VALUES.items()}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert_values(tmp_path / "a.pth")


def test_bfloat16(torch, tmp_path):
    from safetensors.torch import save_file

    half = {"a.b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}
    torch.save(half, tmp_path / "a.pth")
    save_file(half, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        assert read_checkpoint(path).tensors["a.b"].tolist() == [1.5, -2.0]


# -- code ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
def test_torch_file_with_code(torch, tmp_path, protocol):
    marker = tmp_path / "ran"
    torch.save({"state_dict": Touch(marker)}, tmp_path / "zip.pth.tar")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Touch(marker), protocol=protocol))
    refused(
        tmp_path / "zip.pth.tar", r"tensors only. Received: .* holds code or objects \(\w+.open\)"
    )
    refused(tmp_path / "plain.pth", "tensors only. Received: .*Nothing of it was run")
    assert not marker.exists()


def test_whole_torch_module(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"\(torch.nn.modules.linear.Linear\).*save the state_dict alone")


def test_npz_with_code(tmp_path):
    marker = tmp_path / "ran"
    np.savez(tmp_path / "a.npz", a=np.array([Touch(marker)], dtype=object))
    refused(tmp_path / "a.npz", "numbers only.*objects in 'a.npy'.*Nothing of it was run")
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Touch(marker)))
    refused(tmp_path / "b.npz", "BadZipFile")
    assert not marker.exists()


# -- damage and lies -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"these are no weights", b"PK\x03\x04" + b"\0" * 40])
def test_no_such_format_inside(suffix, content, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    refused(path, "intact file of named tensors")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_cut_off(torch, share, tmp_path):
    from safetensors.numpy import save_file

    many = {f"layer{n}.weight": np.random.default_rng(n).normal(size=999) for n in range(5)}
    np.savez(tmp_path / "a.npz", **many)
    save_file(many, tmp_path / "a.safetensors")
    torch.save({name: torch.tensor(value) for name, value in many.items()}, tmp_path / "a.pth")
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "intact file of named tensors")


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_a_flipped_byte(suffix, tmp_path):
    path, values = tmp_path / f"a{suffix}", np.arange(999, dtype=np.float32)
    if suffix == ".npz":
        np.savez(path, a=values)
    else:
        torch = pytest.importorskip("torch")
        torch.save({"a": torch.tensor(values)}, path)
    content = bytearray(path.read_bytes())
    content[content.find(values[500:].tobytes())] ^= 0x01
    path.write_bytes(content)
    refused(path, "BadZipFile: Bad CRC-32")


def test_torch_file_that_was_written_without_checksums(torch, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({name: torch.tensor(value) for name, value in VALUES.items()}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_values(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy({"shape": (10**12,)}, b"\0" * 8), "bytes for a shape of 4000000000128"),
        (npy({"shape": (-1, -2)}, b"\0" * 8), "intact file"),
        (npy(data=b"\0" * 4), "bytes for a shape of"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{" * 99, "reading array header"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**7) + b"[" * 10**7, "Header info length"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 99, r"version \(9, 0\)"),
        (npy({"descr": "<i8"}, b"\0" * 16), "int64 in place of floating-point"),
        (npy({"descr": "<c8"}, b"\0" * 16), "complex64 in place of floating-point"),
    ],
)
def test_npz_whose_header_lies(content, message, tmp_path):
    refused(npz(tmp_path / "a.npz", [("a.npy", content)]), message)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_npz_members(tmp_path):
    array = npy(data=b"\0" * 8)
    refused(npz(tmp_path / "a.npz", [("a.npy", array), ("a.npy", array)]), "the same name")
    refused(npz(tmp_path / "b.npz", [("a.npy", array), ("run.py", b"1")]), "'run.py' that is no")
    refused(npz(tmp_path / "c.npz", []), "no tensors")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}}, "SafetensorError"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}, "SafetensorError"),
        ({"a": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}, "int32 in place of"),
    ],
)
def test_safetensors_whose_header_lies(header, message, tmp_path):
    path = safetensors(tmp_path / "a.safetensors", json.dumps(header).encode())
    refused(path, message)


def test_safetensors_with_a_huge_header_or_one_name_twice(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(tmp_path / "a.safetensors", "header too large")
    one = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    path = safetensors(tmp_path / "b.safetensors", b"{" + one + b"," + one + b"}")
    refused(path, "two tensors of the same name")


def test_names_that_collide(torch, tmp_path):
    both = {"module.a.b": np.ones(2, np.float32), "a.b": np.ones(2, np.float32)}
    np.savez(tmp_path / "a.npz", **both)
    torch.save({name: torch.tensor(value) for name, value in both.items()}, tmp_path / "a.pth")
    for path in tmp_path.iterdir():
        refused(path, "two tensors named 'a.b'")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(value, tmp_path):
    np.savez(tmp_path / "a.npz", **{"a.b": np.array([1.0, value])})
    refused(tmp_path / "a.npz", "finite numbers.*others in 'a.b'")


def test_torch_values_that_are_no_plain_tensors(torch, tmp_path):
    cases = {
        "expanded": (torch.zeros(1).expand(10**6, 10**6), "at most .* with 4,000,000,000,000"),
        "sparse": (torch.eye(2).to_sparse(), "no plain tensor"),
        "meta": (torch.ones(2, device="meta"), "no plain tensor"),
        "number": (3.0, "which is a float, among its tensors"),
    }
    for name, (value, message) in cases.items():
        torch.save({"a.b": value}, tmp_path / f"{name}.pth")
        refused(tmp_path / f"{name}.pth", message)
    torch.save(torch.ones(2), tmp_path / "bare.pth")
    refused(tmp_path / "bare.pth", "a Tensor in place of a state_dict")
    torch.save({7: torch.ones(2)}, tmp_path / "key.pth")
    refused(tmp_path / "key.pth", "7, which is a Tensor, among its tensors")


@pytest.mark.parametrize("suffix", [".npz", ".pth"])
def test_what_unpacks_to_too_much(suffix, tmp_path, monkeypatch):
    """The zip's directory is judged before anything is unpacked."""
    zeros = np.zeros(10**5, np.float32)
    if suffix == ".npz":
        np.savez_compressed(tmp_path / "a.npz", a=zeros)
    else:
        torch = pytest.importorskip("torch")
        torch.save({"a": torch.tensor(zeros)}, tmp_path / "a.pth")
    monkeypatch.setattr(checkpoint_readers, "MAX_BYTES", 10**5)
    refused(tmp_path / f"a{suffix}", "at most 100,000 bytes")


def test_a_small_archive_of_very_much(tmp_path):
    """Zeros pack a thousand to one; signs, 32 to one, do not come near the limit."""
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(10**7, np.float32))
    refused(tmp_path / "zeros.npz", "40,000,[0-9]+ bytes packed into")
    signs = np.random.default_rng(0).choice(np.float32([-1, 1]), 10**6)
    np.savez_compressed(tmp_path / "signs.npz", a=signs)
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "signs.npz").tensors["a"], signs)


# -- what is no checkpoint -------------------------------------------------------------------------


def test_paths(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    refused(tmp_path / "weights.h5", "read as .npz, .safetensors, .pth.tar, .pth, .pt")
    refused(tmp_path / "folder.npz", "must be a file")
    refused(tmp_path / "absent.npz", "must be a file")


def test_without_torch_or_with_an_old_one(tmp_path, monkeypatch):
    (tmp_path / "a.pth.tar").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    refused(tmp_path / "a.pth.tar", r"needs PyTorch.*pip install 'bnas-larq\[torch\]'")
    monkeypatch.undo()
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    refused(tmp_path / "a.pth.tar", "from 2.6 on .* Received: .*PyTorch 2.5.1")
