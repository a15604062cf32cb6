from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reformer_export.errors import ExportError
from reformer_export.export.model_file import save_model, weights_nbytes

DTYPES = (np.float32, np.float16, np.int64)
SIZES = st.sampled_from((0, 1, 127, 128, 1024, 1025, 16_383, 16_384, 300_000))


def make_model(sizes: list[int], operator: str = "Identity") -> ir.Model:
    """A graph of an `operator` on each of its initialisers, vectors of those sizes, in elements."""
    values, nodes = [], []
    for i, size in enumerate(sizes):
        array = (np.arange(size) % 1000).astype(DTYPES[i % len(DTYPES)])
        value = ir.Value(
            name=f"weight {i}", shape=ir.Shape([size]), type=ir.TensorType(ir.tensor(array).dtype)
        )
        value.const_value = ir.tensor(array, name=value.name)
        values.append(value)
        nodes.append(ir.node(operator, [value]))
        nodes[-1].outputs[0].name = f"output {i}"
        nodes[-1].outputs[0].type, nodes[-1].outputs[0].shape = value.type, value.shape
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([], outputs, nodes=nodes, initializers=values, opset_imports={"": 18}, name="main")
    return ir.Model(graph, ir_version=10, producer_name="test", metadata_props={"after": "the graph"})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(SIZES, max_size=5))
def test_the_bytes_are_those_of_the_whole_message(sizes: list[int], tmp_path: Path) -> None:
    model = make_model(sizes)
    save_model(model, tmp_path / "streamed.onnx")
    ir.save(model, tmp_path / "whole.onnx")  # the weights are in the model again
    assert (tmp_path / "streamed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "streamed.onnx"), full_check=True)
    assert weights_nbytes(model) == sum(size * DTYPES[i % 3]().nbytes for i, size in enumerate(sizes))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(SIZES, max_size=5))
def test_external_weights_lie_where_kernels_may_read_them(sizes: list[int], tmp_path: Path) -> None:
    model = make_model(sizes)
    save_model(model, tmp_path / "model.onnx", "weights")
    saved = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    for tensor in saved.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        assert int(place.get("offset", 0)) % 64 == 0
        size = len(tensor.raw_data) or int(place.get("length", 0))
        assert ("location" in place) == (size > 1024)
        expected = model.graph.initializers[tensor.name].const_value.numpy()
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor, str(tmp_path)), expected)


@pytest.mark.parametrize("external_data", [None, "weights"])
def test_no_second_copy_of_the_weights_is_made(external_data: str | None, tmp_path: Path) -> None:
    model = make_model([2**17] * 12)
    tracemalloc.start()
    try:
        save_model(model, tmp_path / "model.onnx", external_data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**17 * 8 < weights_nbytes(model) / 3


def test_a_graph_that_the_checker_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m\.onnx: got a graph that the ONNX checker refuses .*Nonsense"):
        save_model(make_model([3000], "Nonsense"), tmp_path / "m.onnx")


def test_the_checker_infers_with_the_types_and_shapes_of_the_weights(tmp_path: Path) -> None:
    model = make_model([3000, 3000])
    weight = model.graph.initializers["weight 0"]
    model.graph.node(1).replace_input_with(0, weight)
    with pytest.raises(ExportError, match="Inferred elem type differs"):  # float16 promised, of float32
        save_model(model, tmp_path / "m.onnx")
    model.graph.node(1).outputs[0].type = weight.type
    model.graph.node(1).outputs[0].shape = ir.Shape([2999])
    with pytest.raises(ExportError, match="2999"):
        save_model(model, tmp_path / "m.onnx")
