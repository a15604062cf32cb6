"""Reading .onnx files with external data, whatever links lead to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reformer_export.errors import ArtifactError
from reformer_export.runtimes.onnx_file import read_onnx, write_onnx

WEIGHTS = np.arange(600, dtype=np.float32).reshape(20, 30)


def write_model(folder: Path) -> Path:
    """A product with weights that lie behind a bias in a file of their own."""
    folder.mkdir()
    values = {"bias": np.ones(30, np.float32), "weight": WEIGHTS}
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("Add", ["y", "bias"], ["z"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", 20), ("z", 30))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    path = folder / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def test_a_file_of_several_names_is_read(tmp_path: Path) -> None:
    """As a Triton repository's are."""
    path = write_model(tmp_path / "a")
    other = tmp_path / "b"
    other.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (other / name).hardlink_to(path.with_name(name))
    model = read_onnx(other / "model.onnx", external_data=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[1]), WEIGHTS)


def test_written_weights_lie_at_multiples_of_their_numbers_size(tmp_path: Path) -> None:
    arrays = [np.ones(1025, dtype) for dtype in (np.int8, np.float32, np.bool_, np.float16, np.int64)]
    tensors = [numpy_helper.from_array(array, str(array.dtype)) for array in arrays]
    value = helper.make_tensor_value_info("float32", TensorProto.FLOAT, [1025])
    model = helper.make_model(helper.make_graph([], "g", [], [value], tensors))
    write_onnx(model, tmp_path / "model.onnx", "weights")
    for tensor in onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert int(place.get("offset", 0)) % np.dtype(tensor.name).itemsize == 0
        np.testing.assert_array_equal(numpy_helper.to_array(tensor, str(tmp_path)), 1)


@pytest.mark.parametrize(
    ("key", "value"), [("length", 2**62), ("length", -1), ("offset", 2**40), ("offset", -8)]
)
def test_data_that_lies_outside_the_file_is_refused(tmp_path: Path, key: str, value: int) -> None:
    path = write_model(tmp_path / "a")
    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[1].external_data}
    entries[key].value = str(value)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="weight"):
        read_onnx(path, external_data=True)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a")
    path.with_name("model.onnx.data").unlink()
    with pytest.raises(ArtifactError, match=r"bias: 120 bytes at 0 of 0 in model\.onnx\.data"):
        read_onnx(path, external_data=True)
