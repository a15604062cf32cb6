"""An exported graph with its points exposed: as outputs, and as inputs that what follows reads instead.

With every point cut, each part of the graph between two points runs on given values, not on what the parts
before it computed: one run then tells which part is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.contract import NUM_HASHES_INPUT
from reformer_export.errors import MissingDependencyError
from reformer_export.libraries.operators import NativeMode
from reformer_export.parity.cases import Case
from reformer_export.parity.points import Point
from reformer_export.parity.rounding import emulate_bfloat16
from reformer_export.runtimes import load
from reformer_export.runtimes.ort import CPU, Placement, open_session

GIVEN: Final = "eager."
"""Before a point's name: the graph input that stands for it."""

_PLUMBING: Final = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Identity", "Range", "Reshape", "Shape"}
) | {"Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that move or describe values: a part is named after another of its nodes, if it has any."""


def choose_placement(
    folder: Path, manifest: Manifest, provider: str, threads: int | None, native: NativeMode
) -> Placement:
    """What `reformer_export.load` would run the artifact on, given the same options; the CPU for bfloat16,
    whose values numpy does not have."""
    on = "cpu" if manifest.dtype == "bfloat16" else provider
    with load(folder, provider=on, threads=threads, native=native) as opened:
        return Placement(opened.providers[0], threads, opened.native)


class SubgraphRunner:
    """A session of a graph with points exposed."""

    def __init__(self, session: Any, points: Sequence[Point], rounds_inputs: bool) -> None:
        self._session = session
        self._points = points
        self._rounds_inputs = rounds_inputs

    def feeds(self, inputs: dict[str, NDArray[np.int64]], given: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """The session's inputs: the graph's own, and eager's values in the type and shape wanted there."""
        wanted = {value.name for value in self._session.get_inputs()}
        feeds: dict[str, Any] = {name: value for name, value in inputs.items() if name in wanted}
        for point in self._points:
            if GIVEN + point.name in wanted:
                feeds[GIVEN + point.name] = _fit(point, given[point.name], self._rounds_inputs)
        return feeds

    def run(self, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """The points' values by name: float32, buckets int32, in the graph's own shapes."""
        outputs = {value.name for value in self._session.get_outputs()}
        shown = [point for point in self._points if point.value in outputs]
        values = self._session.run([point.value for point in shown], feeds)
        return {
            point.name: value if point.role == "buckets" else value.astype(np.float32)
            for point, value in zip(shown, values, strict=True)
        }


def _fit(point: Point, value: NDArray[Any], rounds: bool) -> NDArray[Any]:
    if point.role == "buckets":
        return value
    if point.rank == 2 and value.ndim == 3:
        value = value.reshape(-1, value.shape[-1])
    if point.elem_type == onnx.TensorProto.FLOAT16:
        return value.astype(np.float16)
    if point.elem_type == onnx.TensorProto.BFLOAT16 and rounds:
        rounded: NDArray[np.float32] = torch.from_numpy(value).bfloat16().float().numpy()
        return rounded
    return value


def expose(
    model: onnx.ModelProto, points: Sequence[Point], cut: Collection[str], shown: Sequence[Point]
) -> onnx.ModelProto:
    """A graph that gives the values of `shown`, and no more nodes than these need.

    Args:
        model: the exported graph, with its weights; on the CPU, where ONNX Runtime has no bfloat16, made
            float32 with bfloat16's roundings before.
        points: all points of the graph.
        cut: names of those that become inputs: their consumers read the input and not the graph's value.
        shown: the points that become outputs, in place of the graph's own.

    Raises:
        MissingDependencyError: onnx-graphsurgeon is not installed.
    """
    surgeon = _import_graphsurgeon()
    functions = list(model.functions)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]  # the surgeon would write them anew
    _require_num_hashes(bare.graph)
    graph = surgeon.import_onnx(bare)
    tensors = graph.tensors()
    for point in points:
        if point.name not in cut:
            continue
        value = tensors[point.value]
        given = surgeon.Variable(GIVEN + point.name, dtype=value.dtype, shape=value.shape)
        for consumer in list(value.outputs):
            consumer.inputs = [given if x is value else x for x in consumer.inputs]
        graph.inputs.append(given)
    graph.outputs = [tensors[point.value] for point in shown]
    graph.cleanup(remove_unused_graph_inputs=True)
    opened: onnx.ModelProto = surgeon.export_onnx(graph, do_type_check=False)
    used = {(node.domain, node.op_type) for node in opened.graph.node}
    opened.functions.extend(f for f in functions if (f.domain, f.name) in used)
    opened.ir_version = model.ir_version
    opened.producer_name = "reformer-export"
    return opened


def _require_num_hashes(graph: onnx.GraphProto) -> None:
    """Make the number of hashes, where it is an input with a default, an input like others."""
    kept = [tensor for tensor in graph.initializer if tensor.name != NUM_HASHES_INPUT]
    if len(kept) < len(graph.initializer) and any(value.name == NUM_HASHES_INPUT for value in graph.input):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _import_graphsurgeon() -> Any:
    try:
        import onnx_graphsurgeon
    except ImportError as error:
        raise MissingDependencyError(
            f"onnx-graphsurgeon: got '{error}', expected the package; pip install 'reformer-export[export]'"
        ) from error
    return onnx_graphsurgeon


@contextmanager
def open_subgraph(
    opened: onnx.ModelProto, points: Sequence[Point], placement: Placement
) -> Iterator[SubgraphRunner]:
    """Open what `expose` made; its weights go to a file of their own and out of it."""
    with TemporaryDirectory(prefix="reformer-export-") as scratch:
        path = Path(scratch) / MODEL_NAME
        onnx.save(opened, str(path), save_as_external_data=True, location="weights", size_threshold=1024)
        session = open_session(path, placement)
        yield SubgraphRunner(session, points, placement.provider == CPU)


def read_model(path: Path, provider: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(the graph as it is in the file `path`, the graph that can run on `provider`), weights in both."""
    model = onnx.load(str(path))
    runnable = onnx.ModelProto()
    runnable.CopyFrom(model)
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    if provider == CPU and onnx.TensorProto.BFLOAT16 in types:
        emulate_bfloat16(runnable)
    return model, runnable


def graph_inputs(
    manifest: Manifest, case: Case, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
) -> dict[str, NDArray[np.int64]]:
    """What the exported graph takes for a case whose ids and mask, int64 [B, L] each, are given."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if manifest.runtime_num_hashes is not None:
        inputs[NUM_HASHES_INPUT] = np.array(
            [case.num_hashes or manifest.runtime_num_hashes.max_hashes], np.int64
        )
    return inputs


def nodes_of_subgraph(model: onnx.ModelProto, points: Sequence[Point], point: Point) -> list[onnx.NodeProto]:
    """The nodes between `point` and the points before it, in the graph's order: what computes it, last."""
    nodes = list(model.graph.node)
    producers = {name: i for i, node in enumerate(nodes) for name in node.output}
    stops = {other.value for other in points} - {point.value}
    found: set[int] = set()
    wanted = [point.value]
    while wanted:
        index = producers.get(wanted.pop())
        if index is None or index in found:
            continue
        found.add(index)
        wanted += [name for name in nodes[index].input if name not in stops]
    return [nodes[i] for i in sorted(found)]


def name_node(part: Sequence[onnx.NodeProto]) -> onnx.NodeProto:
    """The node that a part is named after: the last that computes anything."""
    computing = [node for node in part if node.op_type not in _PLUMBING]
    return (computing or list(part))[-1]
