from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from reformer_export.checkpoints import weights
from reformer_export.checkpoints.weights import open_weights
from reformer_export.errors import ReformerExportError


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(3, 5, generator=generator) for name in ("a", "b", "c")}


def read_all(folder: Path, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    files = open_weights(folder, allow_pickle)
    return files.read(files.headers)


def assert_equal(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == torch.float32
        assert got[name].is_contiguous()
        assert torch.equal(got[name], tensor.to(torch.float32))


def save_shards(folder: Path, **shards: list[str]) -> Path:
    """Two or more safetensors shards and their index, named after the keyword arguments."""
    folder.mkdir(exist_ok=True)
    everything, weight_map = tensors(), {}
    for shard, names in shards.items():
        save_file({name: everything[name] for name in names}, folder / f"{shard}.safetensors")
        weight_map |= dict.fromkeys(names, f"{shard}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_safetensors(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")

    files = open_weights(tmp_path, allow_pickle=False)

    assert files.files == (tmp_path / "model.safetensors",)
    assert {header.shape for header in files.headers.values()} == {(3, 5)}
    assert_equal(files.read(files.headers), tensors())


@pytest.mark.parametrize("elements", [1, 30, 10**9])
def test_a_file_is_open_for_a_portion_of_its_tensors_only(tmp_path, monkeypatch, elements):
    monkeypatch.setattr(weights, "MAPPED_ELEMENTS", elements)
    opened = []
    monkeypatch.setattr(
        weights, "safe_open", lambda file, **how: opened.append(file) or safe_open(file, **how)
    )
    files = open_weights(save_shards(tmp_path, first=["c", "a"], second=["b"]), allow_pickle=False)
    opened.clear()

    assert_equal(files.read(["b", "c", "a"]), tensors())

    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert opened == ([first] * 2 if elements == 1 else [first]) + [second]
    assert files.read([]) == {}


def test_tensors_outlive_their_file(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    got = read_all(tmp_path)

    (tmp_path / "model.safetensors").write_bytes(b"\xff" * (tmp_path / "model.safetensors").stat().st_size)

    assert_equal(got, tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_other_floating_types_become_float32(tmp_path, dtype, as_pickle):
    stored = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    if as_pickle:
        torch.save(stored, tmp_path / "pytorch_model.bin")
    else:
        save_file(stored, tmp_path / "model.safetensors")

    files = open_weights(tmp_path, allow_pickle=as_pickle)

    assert {header.dtype for header in files.headers.values()} == {str(dtype).removeprefix("torch.")}
    assert_equal(files.read(files.headers), stored)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("as_pickle", [False, True])
def test_values_that_are_not_finite_are_refused(refused, tmp_path, value, as_pickle):
    stored = tensors()
    stored["b"][1, 2] = value
    if as_pickle:
        torch.save(stored, tmp_path / "pytorch_model.bin")
    else:
        save_file(stored, tmp_path / "model.safetensors")

    with refused("got 1 of 15 values of the tensor b", "finite"):
        read_all(tmp_path, as_pickle)


def test_a_double_beyond_float32_is_refused(refused, tmp_path):
    save_file({"a": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "model.safetensors")

    with refused("got 1 of 1 values of the tensor a"):
        read_all(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, -1])
def test_truncated_safetensors_are_refused(refused, tmp_path, kept):
    file = tmp_path / "model.safetensors"
    save_file(tensors(), file)
    file.write_bytes(file.read_bytes()[:kept])

    with refused("model.safetensors", "no whole safetensors file", "download it again"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8 + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (8).to_bytes(8, "little") + b"not json",
        b"<!DOCTYPE html><html></html>",
        b"\0" * 4096,
    ],
)
def test_what_is_no_safetensors_is_refused(refused, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)

    with refused("model.safetensors", "safetensors file"):
        read_all(tmp_path)


def test_a_git_lfs_pointer_is_named(refused, tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.example/spec/v1\noid sha256:00\n")

    with refused("Git LFS pointer", "git lfs pull"):
        read_all(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_tampered_safetensors_never_end_in_a_traceback(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("tampered") / "model.safetensors"
    save_file(tensors(), file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)

    message = ""
    try:
        got = read_all(file.parent)
        assert all(torch.isfinite(tensor).all() for tensor in got.values())
    except ReformerExportError as error:
        message = str(error)
    shutil.rmtree(file.parent)
    assert "\n" not in message


def test_shards(tmp_path):
    folder = save_shards(tmp_path, one=["a", "c"], two=["b"])

    files = open_weights(folder, allow_pickle=False)

    assert [file.name for file in files.files] == [
        "model.safetensors.index.json",
        "one.safetensors",
        "two.safetensors",
    ]
    assert_equal(files.read(files.headers), tensors())


def test_shards_may_be_links_as_in_the_cache_of_the_hub(tmp_path):
    blobs = save_shards(tmp_path / "blobs", one=["a", "c"], two=["b"])
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)

    assert_equal(read_all(snapshot), tensors())


@pytest.mark.parametrize(
    "name", ["../one.safetensors", "/one.safetensors", "..", ".", "", "a\\b", "x/y", 3, None, "a\0b"]
)
def test_shards_outside_the_folder_are_refused(refused, tmp_path, name):
    folder = save_shards(tmp_path / "checkpoint", one=["a", "b"])
    shutil.copy(folder / "one.safetensors", tmp_path / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))

    with refused("got the file name", "tampered"):
        read_all(folder)


@pytest.mark.parametrize(
    ("index", "part"),
    [
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ("{", "not JSON"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors"),
        ('{"weight_map": {"a": "two.safetensors", "b": "two.safetensors"}}', "expected that file to have it"),
        ('{"weight_map": {"z": "one.safetensors"}}', "'z'"),
    ],
)
def test_broken_indices_are_refused(refused, tmp_path, index, part):
    folder = save_shards(tmp_path, one=["a", "c"], two=["b"])
    (folder / "model.safetensors.index.json").write_text(index)

    with refused("model.safetensors.index.json", part):
        read_all(folder)


def test_a_tensor_in_two_shards_is_refused(refused, tmp_path):
    with refused("'b'", "one.safetensors", "two.safetensors"):
        read_all(save_shards(tmp_path, one=["a", "b"], two=["b", "c"]))


def test_no_weights(refused, tmp_path):
    (tmp_path / "tf_model.h5").touch()

    with refused("no weights", "model.safetensors"):
        read_all(tmp_path)


def test_safetensors_are_preferred_to_a_pickle(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")

    assert_equal(read_all(tmp_path, allow_pickle=True), tensors())


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_need_the_flag(refused, tmp_path, zipped):
    torch.save(tensors(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    with refused("only pytorch_model.bin", "`allow_pickle=True`", "convert"):
        read_all(tmp_path)
    assert_equal(read_all(tmp_path, allow_pickle=True), tensors())


def test_sharded_pickles(tmp_path):
    everything = tensors()
    torch.save({"a": everything["a"]}, tmp_path / "one.bin")
    torch.save({"b": everything["b"], "c": everything["c"]}, tmp_path / "two.bin")
    weight_map = {"a": "one.bin", "b": "two.bin", "c": "two.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert_equal(read_all(tmp_path, allow_pickle=True), everything)


class Attack:
    """Writes a file when it is unpickled by a loader that trusts it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_cannot_run_code(refused, tmp_path):
    trace = tmp_path / "trace"
    torch.save({"a": Attack(trace)}, tmp_path / "pytorch_model.bin")

    with refused("does not load as tensors only"):
        read_all(tmp_path, allow_pickle=True)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04" + b"\0" * 100, pickle.dumps({"a": 1})])
def test_broken_pickles_are_refused(refused, tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)

    with refused("pytorch_model.bin"):
        read_all(tmp_path, allow_pickle=True)


@pytest.mark.parametrize(
    "value",
    [[torch.ones(1)], {"a": 1}, {3: torch.ones(1)}, {"a": torch.ones(2, 2).to_sparse()}, torch.ones(1)],
)
def test_pickles_of_something_else_are_refused(refused, tmp_path, value):
    torch.save(value, tmp_path / "pytorch_model.bin")

    with refused("no state dict"):
        read_all(tmp_path, allow_pickle=True)


def test_strided_pickled_tensors_become_contiguous(tmp_path):
    stored = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(1).expand(4)}
    torch.save(stored, tmp_path / "pytorch_model.bin")

    assert_equal(read_all(tmp_path, allow_pickle=True), stored)
