"""`reformer-export inspect`: an artifact, an .onnx file or an engine, in words."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact.files import write_atomically
from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.cli.engine_table import (
    ENGINE_COLUMNS,
    describe_engine,
    engine_row,
    engine_values,
    inspect_engine,
    is_engine_path,
    list_engine_states,
    report_engine,
)
from reformer_export.cli.option_values import report_option
from reformer_export.cli.tables import print_table
from reformer_export.errors import InputError, MissingDependencyError
from reformer_export.runtimes.inspection import ArtifactSummary, OnnxSummary, inspect_onnx, inspect_path
from reformer_export.spec import AttentionSpec, AxialPositionsSpec, LSHAttentionSpec, ModelSpec

NO_COLUMNS = ("", "")


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_option
def command(path: Path, as_json: bool, report_file: Path | None) -> None:
    """Say what PATH is: an artifact's folder, an .onnx file or an engine. Nothing is run.

    \b
    Examples:
      reformer-export inspect OUT
      reformer-export inspect OUT/model.onnx --json
      reformer-export inspect OUT/engines/tensorrt-rtx.engine
      reformer-export inspect OUT --report artifact.html
    """
    if is_engine_path(path):
        if report_file is not None:
            raise InputError(f"--report: got the engine {path}, expected an artifact's folder; give that")
        _show_engine(path, as_json)
        return
    summary = inspect_path(path)
    graph = summary if isinstance(summary, OnnxSummary) else _inspect_model(path)
    if report_file is not None:
        from reformer_export.report import render_page
        from reformer_export.report.inspect_page import page_from_inspect

        write_atomically(report_file, render_page(page_from_inspect(_report(summary, graph))))
    if as_json:
        click.echo(json.dumps(_report(summary, graph), indent=2))
        return
    if isinstance(summary, ArtifactSummary):
        _print_artifact(summary, graph)
    elif graph is not None:
        _print_graph(graph)
    print_table("Runtimes", NO_COLUMNS, _runtime_rows(summary, graph))


def _show_engine(path: Path, as_json: bool) -> None:
    engine = inspect_engine(path)
    if as_json:
        click.echo(json.dumps(report_engine(engine), indent=2))
        return
    print_table(f"Engine {path}", NO_COLUMNS, [*describe_engine(engine.record), ("state", engine.state)])


def _inspect_model(folder: Path) -> OnnxSummary | None:
    """The artifact's graph, or None where the file or the package `onnx` is missing."""
    try:
        return inspect_onnx(folder / MODEL_NAME) if (folder / MODEL_NAME).is_file() else None
    except MissingDependencyError:
        return None


def _report(summary: ArtifactSummary | OnnxSummary, graph: OnnxSummary | None) -> dict[str, Any]:
    runtimes = dict(_runtime_rows(summary, graph))
    values = None if graph is None else dataclasses.asdict(graph)
    if isinstance(summary, OnnxSummary):
        return {"kind": "onnx", "graph": values, "runtimes": runtimes}
    return {
        "kind": "artifact",
        "folder": summary.folder,
        "manifest": summary.manifest.to_dict(),
        "files": [dataclasses.asdict(file) for file in summary.files],
        "engines": [engine_values(engine) for engine in list_engine_states(Path(summary.folder))],
        "graph": values,
        "runtimes": runtimes,
    }


def _print_artifact(summary: ArtifactSummary, graph: OnnxSummary | None) -> None:
    manifest, spec = summary.manifest, summary.manifest.spec
    parameters = "unknown (needs the package onnx)" if graph is None else f"{graph.parameters:,}"
    rows = [
        ("task", _describe_task(spec)),
        ("source", _describe_values(manifest.source) or "unknown"),
        *_weight_rows(manifest.source),
        ("dtype", manifest.dtype),
        ("opset", str(manifest.opset)),
        ("operators", ", ".join(f"{name} {version}" for name, version in manifest.operators.items())),
        ("longest sequence", f"{spec.max_length} tokens"),
        ("vocabulary", f"{spec.vocab_size} ids"),
        ("width", f"{spec.hidden_size}, {spec.num_heads} heads of {spec.head_size}"),
        ("feed-forward", f"{spec.feed_forward_size}, {spec.hidden_act}"),
        ("positions", _describe_positions(spec)),
        ("parameters", parameters),
        *_num_hashes_rows(manifest),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("parity", _describe_parity(manifest)),
    ]
    print_table(f"Artifact {summary.folder}", NO_COLUMNS, rows)
    columns = ("layer", "kind", "chunk", "before", "after", "hashes", "buckets", "seed")
    print_table("Layers", columns, [_layer_row(i, layer) for i, layer in enumerate(spec.layers)])
    files = [
        (file.name, "" if file.size is None else f"{file.size:,} B", file.state) for file in summary.files
    ]
    print_table("Files", ("file", "size", "SHA-256"), files)
    engines = [engine_row(engine) for engine in list_engine_states(Path(summary.folder))]
    if engines:
        print_table("Engines", ENGINE_COLUMNS, engines)


def _describe_task(spec: ModelSpec) -> str:
    attention = "causal" if spec.is_causal else "bidirectional"
    outputs = ", ".join(spec.output_names)
    positions = " of the last token" if spec.logits == "last" else ""
    labels = f", {spec.num_labels} labels" if spec.task == "text-classification" else ""
    return f"{spec.task} ({attention}{labels}), returns {outputs}{positions}"


def _describe_positions(spec: ModelSpec) -> str:
    if isinstance(spec.positions, AxialPositionsSpec):
        return f"axial, {'x'.join(map(str, spec.positions.shape))} = {spec.positions.num_positions}"
    return f"learned, {spec.positions.num_positions}"


def _describe_parity(manifest: Manifest) -> str:
    if manifest.parity is None:
        return "not verified; run `reformer-export verify`"
    return _describe_values(manifest.parity)


def _describe_values(values: dict[str, Any]) -> str:
    """The texts and numbers among `values`; lists and tables are left to --json."""
    texts = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in values.items()}
    return ", ".join(f"{name} {v}" for name, v in texts.items() if isinstance(v, str | int))


def _weight_rows(source: dict[str, Any]) -> list[tuple[str, str]]:
    """The checkpoint's weights that the artifact does without, where the exporter recorded some."""
    lists = (source.get("dropped_weights"), source.get("ignored_weights"))
    names = [str(name) for value in lists if isinstance(value, list) for name in value]
    return [("weights left out", ", ".join(names))] if names else []


def _num_hashes_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """The numbers of hashes among which a run chooses, where it does."""
    if manifest.runtime_num_hashes is None:
        return []
    most = manifest.runtime_num_hashes.max_hashes
    return [("hashes of a run", f"1 to {most} by --num-hashes; only {most} is transformers' own draw")]


def _layer_row(index: int, layer: AttentionSpec) -> tuple[object, ...]:
    common = (layer.chunk_length, layer.num_chunks_before, layer.num_chunks_after)
    if isinstance(layer, LSHAttentionSpec):
        return (
            index,
            "lsh",
            *common,
            layer.num_hashes,
            "x".join(map(str, layer.num_buckets)),
            layer.hash_seed,
        )
    return (index, "local", *common, "", "", "")


def _print_graph(graph: OnnxSummary) -> None:
    rows = [
        ("size", f"{graph.size:,} B"),
        ("external data", ", ".join(graph.external_files) or "none"),
        ("producer", graph.producer or "unknown"),
        ("opsets", ", ".join(f"{name} {version}" for name, version in graph.opsets.items())),
        *(("input", value) for value in graph.inputs),
        *(("output", value) for value in graph.outputs),
        ("parameters", f"{graph.parameters:,}"),
    ]
    print_table(f"ONNX file {graph.path}", NO_COLUMNS, rows)
    counts = [
        (domain, op_type, count)
        for domain, operators in graph.operators.items()
        for op_type, count in operators.items()
    ]
    print_table("Operators", ("domain", "operator", "nodes"), counts)
    custom = [
        (node.op_type, node.count, "in the file" if node.has_function_body else "none")
        for node in graph.custom_nodes
    ]
    if custom:
        print_table("Nodes of the domain reformer", ("operator", "nodes", "function body"), custom)


def _runtime_rows(summary: ArtifactSummary | OnnxSummary, graph: OnnxSummary | None) -> list[tuple[str, str]]:
    """What each runtime does with the file, a sentence each."""
    if graph is not None and graph.refused_operators:
        names = ", ".join(f"reformer:{name}" for name in graph.refused_operators)
        refusal = (
            f'refuses the file: "{names} is not a registered function/op". It has no function body in '
            "the file, and no operator library is registered; export the checkpoint with reformer-export"
        )
        return [("ONNX Runtime", refusal)]
    runs = "runs the function bodies in the file, which need no operator library"
    if graph is not None and not graph.custom_nodes:
        runs = "runs the standard operators; the file has no node of the domain reformer"
    dtype = summary.manifest.dtype if isinstance(summary, ArtifactSummary) else None
    on_cpu = {
        "float16": "; in float32 wherever the CPU has no float16 kernel",
        "bfloat16": "; the weights are upcast to float32 at load, which needs the package onnx",
    }.get(dtype or "", "")
    return [("ONNX Runtime, CPU", runs + on_cpu), ("ONNX Runtime, CUDA", runs)]
