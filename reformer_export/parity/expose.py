"""An artifact's graph with its points exposed: as outputs, and as inputs that what follows reads instead.

All that looks into a graph does it in this way: the sweep gives eager's buckets, bisect gives every point, so
that each subgraph between two points runs on given values and not on what those before it computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import MissingDependencyError
from reformer_export.parity.points import CHOICES, Point
from reformer_export.parity.rounding import emulate_bfloat16
from reformer_export.runtimes.onnx_file import read_onnx, write_onnx
from reformer_export.runtimes.ort_binding import BoundSession
from reformer_export.runtimes.ort_session import CPU, Placement, fuses_dense_layers, open_session

GIVEN: Final = "eager."
"""Before a point's name: the graph input that stands for it."""

_GRAPH_NAME: Final = "exposed.onnx"
WEIGHTS_NAME: Final = f"{_GRAPH_NAME}.data"
"""A file that no working directory has: onnx refuses a name that is there, wherever it is to be written."""


class ExposedGraph:
    """A graph with points exposed, open in ONNX Runtime."""

    def __init__(self, session: BoundSession, given: Sequence[Point], shown: Sequence[Point]) -> None:
        self._session = session
        self._inputs = {value.name for value in session.session.get_inputs()}
        self._given, self._shown = given, shown

    def feeds(
        self, inputs: Mapping[str, NDArray[Any]], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """All that a run takes: the graph's own `inputs`, and the points' `values`, by name, in the types and
        ranks that they have in the graph."""
        feeds: dict[str, NDArray[Any]] = {name: x for name, x in inputs.items() if name in self._inputs}
        for point in self._given:
            if GIVEN + point.name in self._inputs:
                feeds[GIVEN + point.name] = _fit(point, values[point.name])
        return feeds

    def run(
        self, inputs: Mapping[str, NDArray[Any]], values: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """The shown points' values by name, in the graph's own shapes: float32, buckets int32."""
        results = self._session.run([point.value for point in self._shown], self.feeds(inputs, values))
        return {point.name: value for point, value in zip(self._shown, results, strict=True)}


def _fit(point: Point, value: NDArray[Any]) -> NDArray[Any]:
    if point.role in CHOICES:
        return value
    if point.rank == 2 and value.ndim == 3:
        value = value.reshape(-1, value.shape[-1])
    if point.elem_type == onnx.TensorProto.FLOAT16:
        return value.astype(np.float16)
    if point.elem_type == onnx.TensorProto.BFLOAT16:  # which numpy does not have
        rounded: NDArray[np.float32] = torch.from_numpy(value).bfloat16().float().numpy()
        return rounded
    return value


@dataclass(frozen=True)
class ModelGraph:
    """A graph to expose points of.

    `model`: as it was exported, without its weights: the nodes and values that a person sees; `placement`:
    where ONNX Runtime runs it; `runnable`: what runs there, float32 with bfloat16's roundings where there is
    no bfloat16; `folder`: has its weights in a file; `fuses_dense`: whether the runtime multiplies its small
    float32 weights by the operator library.
    """

    model: onnx.ModelProto
    placement: Placement
    folder: Path
    runnable: onnx.ModelProto
    fuses_dense: bool

    def expose(self, given: Sequence[Point], shown: Sequence[Point]) -> ExposedGraph:
        """Open it with points exposed, see `expose_points`."""
        path = self.folder / _GRAPH_NAME
        onnx.save(expose_points(self.runnable, given, shown), str(path))
        session = open_session(path, self.placement, fuses_dense=self.fuses_dense)
        return ExposedGraph(BoundSession(session, self.placement), given, shown)

    def extract(self, given: Sequence[Point], shown: Sequence[Point]) -> onnx.ModelProto:
        """What `expose` opens, with the weights that it needs in it."""
        subgraph = expose_points(self.runnable, given, shown)
        onnx.load_external_data_for_model(subgraph, str(self.folder))
        for tensor in subgraph.graph.initializer:
            tensor.ClearField("data_location")
        return subgraph


@contextmanager
def open_graph(path: Path, placement: Placement) -> Iterator[ModelGraph]:
    """Read the .onnx file `path`. Its weights go into a temporary file once, and out of memory."""
    with TemporaryDirectory(prefix="reformer-export-") as scratch:
        file = Path(scratch) / "model.onnx"
        model = _move_weights(path, placement, file)
        # Read again, as protobuf frees the weights with the message that they were in, and not before.
        runnable = onnx.load(str(file), load_external_data=False)
        yield ModelGraph(model, placement, Path(scratch), runnable, fuses_dense_layers(path.name))


def _move_weights(path: Path, placement: Placement, file: Path) -> onnx.ModelProto:
    """Write what of the model `path` runs into `file` and its weights beside it; give the rest as it was."""
    runnable = read_onnx(path, external_data=True)
    model = onnx.ModelProto()
    for field in ("node", "input", "output", "value_info"):
        getattr(model.graph, field).extend(getattr(runnable.graph, field))
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    if placement.provider == CPU and onnx.TensorProto.BFLOAT16 in types:
        emulate_bfloat16(runnable)
    write_onnx(runnable, file, WEIGHTS_NAME)
    return model


def expose_points(model: onnx.ModelProto, given: Sequence[Point], shown: Sequence[Point]) -> onnx.ModelProto:
    """A graph that gives the points `shown` in place of its own outputs, with no more nodes than they need.

    What consumes the points `given` reads an input in place of them; those that are shown too are computed
    nevertheless. MissingDependencyError when onnx-graphsurgeon is not installed.
    """
    surgeon = _import_graphsurgeon()
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]  # the surgeon would write them anew
    _require_num_hashes(bare.graph)
    empty = _take_empty_lists(bare.graph)
    graph = surgeon.import_onnx(bare)
    tensors = graph.tensors()
    for point in given:
        value = tensors[point.value]
        stand_in = surgeon.Variable(GIVEN + point.name, dtype=value.dtype, shape=value.shape)
        for consumer in list(value.outputs):
            consumer.inputs = [stand_in if x is value else x for x in consumer.inputs]
        graph.inputs.append(stand_in)
    graph.outputs = [tensors[point.value] for point in shown]
    graph.cleanup(remove_unused_graph_inputs=True)
    exposed: onnx.ModelProto = surgeon.export_onnx(graph, do_type_check=False)
    for node in exposed.graph.node:
        node.attribute.extend(empty.get(node.name, ()))
    exposed.functions.extend(_functions_of(exposed.graph, model.functions))
    exposed.ir_version = model.ir_version
    exposed.producer_name = "reformer-export"
    return exposed


def _take_empty_lists(graph: onnx.GraphProto) -> dict[str, list[onnx.AttributeProto]]:
    """Take the attributes that are lists without an element, which the surgeon cannot write, off the nodes:
    those by a node's name."""
    taken: dict[str, list[onnx.AttributeProto]] = {}
    for node in graph.node:
        for attribute in [x for x in node.attribute if x.type == onnx.AttributeProto.INTS and not x.ints]:
            taken.setdefault(node.name, []).append(attribute)
            node.attribute.remove(attribute)
    return taken


def _functions_of(
    graph: onnx.GraphProto, functions: Iterable[onnx.FunctionProto]
) -> list[onnx.FunctionProto]:
    """Those that the graph's nodes call, and those that these call, in their own order."""
    known = {(function.domain, function.name): function for function in functions}
    nodes, used = [*_nodes_of(graph.node)], set()
    while nodes:
        node = nodes.pop()
        name = (node.domain, node.op_type)
        if name in known and name not in used:
            used.add(name)
            nodes += _nodes_of(known[name].node)
    return [function for name, function in known.items() if name in used]


def _nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from _nodes_of(attribute.g.node)


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
