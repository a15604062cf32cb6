"""Dense products in float32, bfloat16 and int8: makes what `linear_run.py` times, here or on another machine.

    python -m benchmarks.bench_linear FOLDER [--shape crime] [--shape enwik8]
    python FOLDER/linear_run.py

FOLDER gets the operator library, the graphs of single layers and of whole models without their weights, and
the script that draws weights and times them. bfloat16 is what a session of a bfloat16 artifact runs where the
processor is fast at it; elsewhere it is left out, unless REFORMER_CPU_PRODUCTS=avx512 shows why.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, Final

import click
import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from benchmarks import linear_run
from benchmarks.models import SHAPES, count_flops, prepare_model
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.contract import DOMAIN, LINEAR, VERSION
from reformer_export.libraries.operators import find_native_library
from reformer_export.runtimes.upcast import upcast_model

TYPES: Final = {TensorProto.FLOAT: "float32", TensorProto.BFLOAT16: "bfloat16", TensorProto.INT8: "int8"}
DRAWN_ABOVE: Final = 8192
"""Numbers: smaller tensors stay in the graph."""
ALIGNMENT: Final = 4096
"""Bytes, of weights in their file: ONNX Runtime maps it."""
LENGTHS: Final = {"crime": (1, 1024, 4096, 16384), "enwik8": (1, 1024, 4096)}
KERNEL_LENGTHS: Final = (1, 16, 1024, 16384)


def strip_weights(model: onnx.ModelProto, source: Path, folder: Path, name: str) -> dict[str, Any]:
    """Write the graph `name`.onnx without its large weights, and say which there are.

    `source`: where the model's external data is, of which the small tensors come into the graph.
    """
    tensors, offset, end = [], 0, 0
    for tensor in model.graph.initializer:
        count = math.prod(tensor.dims)
        if count <= DRAWN_ABOVE or tensor.data_type not in TYPES:
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(source))
                tensor.ClearField("data_location")
                tensor.ClearField("external_data")
            continue
        size = count * {"float32": 4, "bfloat16": 2, "int8": 1}[TYPES[tensor.data_type]]
        tensors.append({"offset": offset, "count": count, "type": TYPES[tensor.data_type]})
        for field in ("raw_data", "float_data", "int32_data", "external_data"):
            tensor.ClearField(field)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": f"{name}.bin", "offset": str(offset), "length": str(size)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        end = offset + size
        offset = -(-end // ALIGNMENT) * ALIGNMENT
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return {"file": f"{name}.onnx", "weights": f"{name}.bin", "bytes": end, "tensors": tensors}


def make_layer(kind: str, size: int, outputs: int) -> onnx.ModelProto:
    """One dense layer with relu."""
    data_type = next(number for number, name in TYPES.items() if name == kind)
    dims = [size, outputs] if kind == "float32" else [outputs, size]
    weight = TensorProto(name="w", data_type=data_type, dims=dims)
    constants = [helper.make_tensor(name, 1, [outputs], [0.01] * outputs) for name in ("scales", "bias")]
    if kind == "float32":
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["y"]),
        ]
    else:
        operands = ["x", "w", "scales" if kind == "int8" else "", "bias"]
        nodes = [helper.make_node(LINEAR.name, operands, ["y"], domain=DOMAIN, activation=1)]
    values = [
        helper.make_tensor_value_info(name, 1, ["batch", "length", width])
        for name, width in (("x", size), ("y", outputs))
    ]
    graph = helper.make_graph(nodes, kind, values[:1], values[1:], [weight, *constants])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def add_layers(shape: str, folder: Path) -> dict[str, Any]:
    """The shape's dense layers by their sizes: attention, and the two of the feed-forward."""
    config = SHAPES[shape]
    hidden, inner = config["hidden_size"], config["feed_forward_size"]
    groups = {}
    for size, outputs in ((hidden, hidden), (hidden, inner), (inner, hidden)):
        graphs = {}
        for kind in TYPES.values():
            graph = strip_weights(make_layer(kind, size, outputs), folder, folder, f"{size}-{outputs}-{kind}")
            extra = {"kind": "kernel", "size": size, "flops_per_token": 2 * size * outputs}
            graphs[kind] = {**graph, **extra, "lengths": KERNEL_LENGTHS}
        groups[f"layer {size} -> {outputs}"] = graphs
    return groups


def add_model(shape: str, folder: Path) -> dict[str, Any]:
    graphs = {}
    for kind in TYPES.values():
        if kind == "int8":
            artifact = prepare_model(shape, weights="int8").artifact
        else:
            artifact = prepare_model(shape, dtype=kind).artifact
        path = artifact / MODEL_NAME
        if kind == "bfloat16":
            path = upcast_model(path, folder, keep_products=True)
        model = onnx.load(path, load_external_data=False)
        graph = strip_weights(model, path.parent, folder, f"{shape}-{kind}")
        spec = read_manifest(artifact).spec
        lengths = LENGTHS[shape]
        extra = {"kind": "model", "vocabulary": spec.vocab_size, "lengths": lengths}
        graphs[kind] = {**graph, **extra, "flops_per_token": count_flops(spec, lengths[-1]) / lengths[-1]}
    for leftover in folder.glob("upcast.onnx*"):
        leftover.unlink()
    return {f"model {shape}": graphs}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, default=list(SHAPES))
def main(folder: Path, shapes: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    library = find_native_library("on")
    assert library is not None
    shutil.copy(library.path, folder / linear_run.LIBRARY.name)
    shutil.copy(str(linear_run.__file__), folder)
    groups: dict[str, Any] = {}
    for shape in shapes:
        groups |= add_layers(shape, folder)
        groups |= add_model(shape, folder)
    (folder / "graphs.json").write_text(json.dumps(groups, indent=1))


if __name__ == "__main__":
    main()
