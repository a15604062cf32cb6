"""What is in an artifact, a lone .onnx file or an engine: nothing is run."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.engine_state import (
    EngineState,
    UnusableEngine,
    examine_engines,
    inspect_engine,
    is_engine_path,
)
from reformer_export.artifact.files import reading, resolve_inside, sha256_of_file
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.contract import DOMAIN, LINEAR, LSH_BUCKETS
from reformer_export.errors import ArtifactError, MissingDependencyError
from reformer_export.runtimes.foresee import foresee_runtime
from reformer_export.runtimes.onnx_file import import_onnx, read_onnx
from reformer_export.spec import DType

RUN_HERE: Final = "`run` here"
"""Of `runtimes`: what this machine uses."""

STANDARD_DOMAINS: Final = ("", "ai.onnx")


@dataclass(frozen=True)
class FileState:
    """A file the manifest names: `size` in bytes, None when missing; `state` ok, changed or missing."""

    name: str
    size: int | None
    state: str


@dataclass(frozen=True)
class CustomNodes:
    """The nodes of one operator of the domain `reformer`."""

    op_type: str
    count: int
    has_function_body: bool


@dataclass(frozen=True)
class OnnxSummary:
    """An .onnx file.

    `size` is in bytes; `operators` counts nodes by domain and operator, subgraphs and function bodies left
    out; `inputs` and `outputs` are texts such as "input_ids int64 [batch, sequence]"; `parameters` counts the
    elements of the weights, the LSH rotations left out.
    """

    path: str
    size: int
    producer: str
    opsets: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, dict[str, int]]
    custom_nodes: tuple[CustomNodes, ...]
    parameters: int
    external_files: tuple[str, ...]

    @property
    def refused_operators(self) -> tuple[str, ...]:
        """Operators of the domain `reformer` that ONNX Runtime refuses without our operator library."""
        return tuple(node.op_type for node in self.custom_nodes if not node.has_function_body)

    @property
    def runtimes(self) -> dict[str, str]:
        """What each runtime does with the file, a sentence each."""
        return _describe_runtimes(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"kind": "onnx", "graph": dataclasses.asdict(self), "runtimes": self.runtimes}


@dataclass(frozen=True)
class ArtifactSummary:
    """An artifact's manifest, the state of its files and engines, and its graph: None where model.onnx or the
    package `onnx` is missing. `here`: what `run` uses on this machine, or why it refuses. `decode`: the graph
    of its decode.onnx; None where that is not as it was written, or the package is missing."""

    folder: str
    manifest: Manifest
    files: tuple[FileState, ...]
    engines: tuple[EngineState | UnusableEngine, ...]
    graph: OnnxSummary | None
    here: str
    decode: OnnxSummary | None = None

    @property
    def runtimes(self) -> dict[str, str]:
        """What `run` uses here, and what each runtime does with model.onnx by itself, a sentence each; and
        with decode.onnx where there is one."""
        steps = {} if self.manifest.decode is None else {DECODE_NAME: _describe_steps(self.decode)}
        return {RUN_HERE: self.here, **_describe_runtimes(self.graph, self.manifest.dtype), **steps}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "kind": "artifact",
            "folder": self.folder,
            "manifest": self.manifest.to_dict(),
            "files": [dataclasses.asdict(file) for file in self.files],
            "engines": [engine.entry() for engine in self.engines],
            "graph": None if self.graph is None else dataclasses.asdict(self.graph),
            **({} if self.decode is None else {"decode_graph": dataclasses.asdict(self.decode)}),
            "runtimes": self.runtimes,
        }


Inspection = ArtifactSummary | OnnxSummary | EngineState


def inspect_onnx(path: Path) -> OnnxSummary:
    """Read an .onnx file without its external data; needs `onnx`."""
    model = read_onnx(path, external_data=False)
    nodes = list(_nodes_of_graph(model.graph))
    counts = Counter((_text(node.domain), _text(node.op_type)) for node in nodes)
    bodies = {(_text(function.domain), _text(function.name)) for function in model.functions}
    operators: dict[str, dict[str, int]] = {}
    for (domain, op_type), count in sorted(counts.items()):
        operators.setdefault("ai.onnx" if domain in STANDARD_DOMAINS else domain, {})[op_type] = count
    return OnnxSummary(
        path=str(path),
        size=path.stat().st_size,
        producer=f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        opsets={_text(opset.domain) or "ai.onnx": opset.version for opset in model.opset_import},
        inputs=tuple(_describe_value(value) for value in model.graph.input),
        outputs=tuple(_describe_value(value) for value in model.graph.output),
        operators=operators,
        custom_nodes=tuple(
            CustomNodes(op_type, count, (domain, op_type) in bodies)
            for (domain, op_type), count in sorted(counts.items())
            if domain == DOMAIN
        ),
        parameters=_count_parameters(model.graph, nodes),
        external_files=_external_files(model.graph),
    )


def _inspect_artifact(folder: Path) -> ArtifactSummary:
    manifest = read_manifest(folder)
    files = []
    for name, expected in manifest.files.items():
        path = resolve_inside(folder, name)
        with reading(path):
            if path.is_file():
                state = "ok" if sha256_of_file(path) == expected else "changed"
                files.append(FileState(name, path.stat().st_size, state))
            else:
                files.append(FileState(name, None, "missing"))
    graph = _inspect_graph(folder / MODEL_NAME)
    whole = {file.name for file in files if file.state == "ok"}
    decode = _inspect_graph(folder / DECODE_NAME) if manifest.decode and DECODE_NAME in whole else None
    wrong = ", ".join(f"{file.name} is {file.state}" for file in files if file.state != "ok")
    here = f"refuses the artifact: {wrong}" if wrong else foresee_runtime(manifest.spec)
    return ArtifactSummary(str(folder), manifest, tuple(files), examine_engines(folder), graph, here, decode)


def _inspect_graph(path: Path) -> OnnxSummary | None:
    """A graph of an artifact; None where it, or the package `onnx`, is missing."""
    if path.is_file():
        with suppress(MissingDependencyError):
            return inspect_onnx(path)
    return None


def inspect_path(path: str | os.PathLike[str]) -> Inspection:
    """What `path` is: an artifact's folder or hub id, an .onnx file, an engine or its record.

    Raises:
        ArtifactError: anything else, or a broken manifest, .onnx file or record.
        MissingDependencyError: an .onnx file, and the package onnx is not installed.
    """
    path = locate_artifact(path, with_engines=True)
    if is_engine_path(path):
        return inspect_engine(path)
    if path.is_dir():
        return _inspect_artifact(path)
    if path.suffix == ".onnx":
        return inspect_onnx(path)
    got = "a file of another kind" if path.exists() else "no such file or folder"
    raise ArtifactError(str(path), got, "an artifact's folder or an .onnx file", "check the path")


def describe_problem(found: Inspection) -> str:
    """The files and engines that are not as they were written, in one line; "" where all are."""
    if isinstance(found, OnnxSummary):
        return ""
    engines = (found,) if isinstance(found, EngineState) else found.engines
    files = () if isinstance(found, EngineState) else found.files
    wrong = [f"{file.name} {file.state}" for file in files if file.state != "ok"]
    stale = [f"the engine {engine.name} {engine.state}" for engine in engines if engine.state != "ok"]
    fixes = ["get the file again, or export again"] * bool(wrong) + ["build the engine again"] * bool(stale)
    if not fixes:
        return ""
    return f"got {', '.join(wrong + stale)}, expected each as it was written; {', '.join(fixes)}"


def _nodes_of_graph(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes_of_graph(subgraph)


def _text(value: str | bytes) -> str:
    """A string of the file; protobuf gives those that are no UTF-8 as bytes."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _describe_value(value: Any) -> str:
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in import_onnx().TensorProto.DataType.items()}
    elem_type = names[tensor.elem_type] if tensor.elem_type in names and tensor.elem_type else "?"
    if not tensor.HasField("shape"):
        return f"{_text(value.name)} {elem_type} [...]"
    dims = [
        _text(dim.dim_param) or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
        for dim in tensor.shape.dim
    ]
    return f"{_text(value.name)} {elem_type} [{', '.join(dims)}]"


def _count_parameters(graph: Any, nodes: list[Any]) -> int:
    """Elements of the weights, in floating point or in few bits, less what is no parameter of the model: the
    rotations (second input of LSHBuckets), the scales of weights in few bits, and scalars, which are
    constants of the graph."""
    types = import_onnx().TensorProto
    hashed = {node.input[1] for node in nodes if node.op_type == LSH_BUCKETS.name and len(node.input) > 1}
    slices = (node for node in nodes if node.op_type == "Slice" and node.input)
    cut = {node.input[0] for node in slices if hashed.intersection(node.output)}
    places = {LINEAR.name: 2, "DequantizeLinear": 1}
    scaled = [(node, places[node.op_type]) for node in nodes if node.op_type in places]
    scales = {node.input[place] for node, place in scaled if len(node.input) > place}
    left_out = hashed | cut | scales
    kinds = (types.FLOAT, types.FLOAT16, types.BFLOAT16, types.INT8, types.INT4)
    return sum(
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type in kinds and tensor.dims and tensor.name not in left_out
    )


def _external_files(graph: Any) -> tuple[str, ...]:
    names = {
        _text(entry.value)
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(sorted(names))


def _describe_steps(graph: OnnxSummary | None) -> str:
    refused = () if graph is None else graph.refused_operators
    if refused:
        return f"runs with an operator library only: {', '.join(refused)} have no function body in the file"
    return (
        "runs in ONNX Runtime: with the operator library a step writes its token into the caches where they "
        "lie; with the function bodies it costs a whole pass over them, and a copy. `engine --decode` makes "
        "it an engine of TensorRT"
    )


def _describe_runtimes(graph: OnnxSummary | None, dtype: DType | None = None) -> dict[str, str]:
    if graph is not None and graph.refused_operators:
        names = ", ".join(f"reformer:{name}" for name in graph.refused_operators)
        refusal = (
            f'refuses the file: "{names} is not a registered function/op". It has no function body in '
            "the file, and no operator library is registered; export the checkpoint with reformer-export"
        )
        return {"ONNX Runtime": refusal}
    runs = "by itself runs the function bodies in the file, which need no operator library"
    if graph is not None and not graph.custom_nodes:
        runs = "runs the standard operators; the file has no node of the domain reformer"
    on_cpu = {
        "float16": "; in float32 wherever the CPU has no float16 kernel",
        "bfloat16": "; the weights are upcast to float32 at load, which needs the package onnx, but dense "
        "products run in bfloat16 where the CPU has AMX",
    }.get(dtype or "", "")
    return {"ONNX Runtime, CPU": runs + on_cpu, "ONNX Runtime, CUDA": runs}
