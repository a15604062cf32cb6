"""An artifact's graph with inner values exposed: as outputs, and as inputs that what follows reads instead.

All that looks inside of a graph does it in this way: the sweep gives eager's buckets, bisect gives every
point, so that each subgraph between two points runs on given values and not on what those before it computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import MissingDependencyError
from reformer_export.parity.rounding import emulate_bfloat16
from reformer_export.runtimes.onnx_file import read_onnx
from reformer_export.runtimes.ort import CPU, Placement, open_session


class ExposedGraph:
    """A graph whose inner values are exposed, open in ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(value.name for value in session.get_inputs())
        self.outputs = tuple(value.name for value in session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every value that is shown, by name, in the graph's own shape: integers, or float32.

        What `feeds` has beyond the inputs is left out.
        """
        values = self._session.run(self.outputs, {name: feeds[name] for name in self.inputs})
        return {
            name: value if np.issubdtype(value.dtype, np.integer) else value.astype(np.float32)
            for name, value in zip(self.outputs, values, strict=True)
        }


@dataclass(frozen=True)
class ModelGraph:
    """A graph to expose values of.

    Attributes:
        model: the graph as it was exported, without its weights: the nodes and values that a person sees.
        placement: where ONNX Runtime runs it.
        folder: has the weights of `runnable`, in a file.
        runnable: what runs there; float32 with bfloat16's roundings where `placement` has no bfloat16.
    """

    model: onnx.ModelProto
    placement: Placement
    folder: Path
    runnable: onnx.ModelProto

    def expose(self, given: Mapping[str, str], shown: Sequence[str]) -> ExposedGraph:
        """Open it with values exposed, see `expose_values`."""
        path = self.folder / "exposed.onnx"
        onnx.save(expose_values(self.runnable, given, shown), str(path))
        return ExposedGraph(open_session(path, self.placement))

    def extract(self, given: Mapping[str, str], shown: Sequence[str]) -> onnx.ModelProto:
        """What `expose` opens, with the weights that it needs in it."""
        subgraph = expose_values(self.runnable, given, shown)
        onnx.load_external_data_for_model(subgraph, str(self.folder))
        for tensor in subgraph.graph.initializer:
            tensor.ClearField("data_location")
        return subgraph


@contextmanager
def open_graph(path: Path, placement: Placement) -> Iterator[ModelGraph]:
    """Read the .onnx file `path`. Its weights go into a temporary file once, and out of memory."""
    runnable = read_onnx(path, external_data=True)
    model = _copy_without_weights(runnable)
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    if placement.provider == CPU and onnx.TensorProto.BFLOAT16 in types:
        emulate_bfloat16(runnable)
    with TemporaryDirectory(prefix="reformer-export-") as scratch:
        file = str(Path(scratch) / "model.onnx")
        onnx.save(runnable, file, save_as_external_data=True, location="weights", size_threshold=1024)
        yield ModelGraph(model, placement, Path(scratch), runnable)


def _copy_without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    for field in ("node", "input", "output", "value_info"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    return bare


def expose_values(model: onnx.ModelProto, given: Mapping[str, str], shown: Sequence[str]) -> onnx.ModelProto:
    """A graph that gives the values `shown` in place of its own outputs, with no more nodes than they need.

    Args:
        model: the graph; its weights, in it or in external data, stay where they are.
        given: by value, the name of an input that the value's consumers read in place of it.
        shown: values, in the outputs' order.

    Raises:
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    surgeon = _import_graphsurgeon()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]  # the surgeon would write them anew
    _require_num_hashes(bare.graph)
    graph = surgeon.import_onnx(bare)
    tensors = graph.tensors()
    for name, input_name in given.items():
        value = tensors[name]
        stand_in = surgeon.Variable(input_name, dtype=value.dtype, shape=value.shape)
        for consumer in list(value.outputs):
            consumer.inputs = [stand_in if x is value else x for x in consumer.inputs]
        graph.inputs.append(stand_in)
    graph.outputs = [tensors[name] for name in shown]
    graph.cleanup(remove_unused_graph_inputs=True)
    exposed: onnx.ModelProto = surgeon.export_onnx(graph, do_type_check=False)
    used = {(node.domain, node.op_type) for node in exposed.graph.node}
    exposed.functions.extend(f for f in model.functions if (f.domain, f.name) in used)
    exposed.ir_version = model.ir_version
    exposed.producer_name = "reformer-export"
    return exposed


def _require_num_hashes(graph: onnx.GraphProto) -> None:
    """Make the number of hashes, where it is an input with a default, an input like others."""
    for index, tensor in enumerate(graph.initializer):
        if tensor.name == NUM_HASHES_INPUT and any(x.name == NUM_HASHES_INPUT for x in graph.input):
            del graph.initializer[index]
            return


def _import_graphsurgeon() -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise MissingDependencyError(
            "onnx-graphsurgeon",
            got=f"'{error}'",
            expected="the package",
            fix="pip install 'reformer-export[export]'",
        ) from error
    return onnx_graphsurgeon
