"""What `inspect` found -> tables, for terminal and page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final

from reformer_export.artifact.engine_record import EngineRecord
from reformer_export.artifact.engine_state import EngineState, UnusableEngine
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, TokenizerKind, TokenizerRecord
from reformer_export.custom_spec import AttentionUse, CustomSpec
from reformer_export.lucidrains_spec import (
    LucidrainsSpec,
    NoPositionsSpec,
    RotaryPositionsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
)
from reformer_export.report.tables import Columns, Table, engine_table, make_facts, make_table
from reformer_export.runtimes.inspection import (
    ArtifactSummary,
    CustomNodes,
    FileState,
    Inspection,
    OnnxSummary,
)
from reformer_export.spec import AttentionSpec, AxialPositionsSpec, LSHAttentionSpec, ModelSpec


def _from_record(
    read: Callable[[EngineRecord], object],
) -> Callable[[EngineState | UnusableEngine], object]:
    return lambda engine: read(engine.record) if isinstance(engine, EngineState) else None


def _of_layer(read: Callable[[tuple[int, AttentionSpec]], object]) -> Callable[[Any], object]:
    return lambda row: read((0, row[1]))


LAYERS: Final[Columns[tuple[int, AttentionSpec]]] = {
    "layer": itemgetter(0),
    "attention": lambda row: "lsh" if isinstance(row[1], LSHAttentionSpec) else "local",
    "chunk": lambda row: row[1].chunk_length,
    "before": lambda row: row[1].num_chunks_before,
    "after": lambda row: row[1].num_chunks_after,
    "hashes": lambda row: getattr(row[1], "num_hashes", None),
    "buckets": lambda row: "x".join(map(str, getattr(row[1], "num_buckets", ()))) or None,
    "seed": lambda row: getattr(row[1], "hash_seed", None),
}

CUSTOM_LAYERS: Final[Columns[tuple[AttentionUse, AttentionSpec]]] = {
    "layer": lambda row: row[0].path or "the module itself",
    "call": lambda row: row[0].call,
    "heads": lambda row: f"{row[0].num_heads} of {row[0].head_size}",
    "causal": lambda row: "yes" if row[0].is_causal else "no",
    **{name: _of_layer(read) for name, read in LAYERS.items() if name != "layer"},
}

FILES: Final[Columns[FileState]] = {
    "file": lambda file: file.name,
    "size": lambda file: None if file.size is None else f"{file.size:,} B",
    "state": lambda file: file.state,
}

ENGINES: Final[Columns[EngineState | UnusableEngine]] = {
    "engine": lambda engine: engine.name,
    "runtime": _from_record(lambda record: f"{record.runtime} {record.runtime_version}"),
    "compute capabilities": _from_record(lambda record: ", ".join(record.compute_capabilities)),
    "of": _from_record(lambda record: record.model_name),
    "longest": _from_record(lambda record: f"{record.longest:,} tokens"),
    "size": _from_record(lambda record: f"{record.engine_bytes:,} B"),
    "code for the host": _from_record(lambda record: record.host_code or "none"),
    "state": lambda engine: (
        f"unusable: {engine.problem}" if isinstance(engine, UnusableEngine) else engine.state
    ),
}

OPERATORS: Final[Columns[tuple[str, str, int]]] = {
    "domain": itemgetter(0),
    "operator": itemgetter(1),
    "nodes": itemgetter(2),
}

CUSTOM_NODES: Final[Columns[CustomNodes]] = {
    "operator": lambda nodes: nodes.op_type,
    "nodes": lambda nodes: nodes.count,
    "function body": lambda nodes: "yes" if nodes.has_function_body else "no",
}

TEXT_BY_KIND: Final[dict[TokenizerKind, str]] = {
    "tokenizer.json": "by tokenizer.json",
    "bytes": "as bytes (id = byte + 2)",
    "none": "token ids only",
}


def inspection_tables(path: str, found: Inspection) -> list[Table]:
    """All that is told of `path`."""
    if isinstance(found, EngineState):
        return [engine_table(f"Engine {path}", found.record, ("state", found.state))]
    runtimes = runtimes_table(found)
    if isinstance(found, OnnxSummary):
        operators = make_table("Operators", OPERATORS, list_operators(found))
        return [graph_table(found), operators, *custom_nodes_tables(found), runtimes]
    return [*model_tables(found), *decoding_tables(found), *files_tables(found), runtimes]


def runtimes_table(found: ArtifactSummary | OnnxSummary) -> Table:
    """What runs it here, and what each runtime does with the file."""
    return make_facts("Runtimes", found.runtimes.items())


def model_tables(artifact: ArtifactSummary) -> list[Table]:
    """What an artifact's manifest says, and the model's layers."""
    manifest, spec, graph = artifact.manifest, artifact.manifest.spec, artifact.graph
    unverified = "not verified; run `reformer-export verify`"
    parity = unverified if manifest.parity is None else _describe_values(manifest.parity)
    facts = [
        ("task", _describe_task(spec)),
        ("source", _describe_values(manifest.source) or "unknown"),
        *_describe_weights(manifest.source),
        ("dtype", manifest.precision),
        ("opset", str(manifest.opset)),
        ("operators", _join_pairs(manifest.operators)),
        *(_describe_custom(manifest) if manifest.is_custom else _describe_reformer(manifest)),
        ("parameters", "unknown (needs the package onnx)" if graph is None else f"{graph.parameters:,}"),
        *_describe_num_hashes(manifest),
        ("made with", _join_pairs(manifest.versions)),
        ("parity", parity),
        *([] if manifest.loss is None else [("loses", manifest.loss)]),
    ]
    layers = make_table("Layers", LAYERS, enumerate(spec.layers))
    if isinstance(spec, CustomSpec):
        pairs = zip(spec.uses, spec.layers, strict=True)
        layers = make_table("Layers with attention, in the order of a run", CUSTOM_LAYERS, pairs)
    return [make_facts(f"Artifact {artifact.folder}", facts), layers]


def _describe_reformer(manifest: Manifest) -> list[tuple[str, str]]:
    """Of a whole model."""
    spec, tokenizer = manifest.spec, manifest.tokenizer
    has_text = tokenizer is not None and not spec.takes_vectors
    return [
        ("longest sequence", f"{spec.max_length:,} tokens"),
        _describe_inputs(spec),
        *([("text", _describe_tokenizer(tokenizer))] if tokenizer is not None and has_text else []),
        ("width", f"{spec.hidden_size:,}, {spec.num_heads} heads of {spec.head_size}"),
        ("feed-forward", _describe_feed_forward(spec)),
        *_describe_memories(spec),
        ("positions", _describe_positions(spec)),
    ]


def _describe_custom(manifest: Manifest) -> list[tuple[str, str]]:
    """Of a module of a user's own: what goes in and out."""
    return [
        *(("input", str(each)) for each in manifest.inputs),
        *(("output", str(each)) for each in manifest.outputs),
        ("sizes", manifest.describe_sizes()),
        ("rows", f"along {manifest.signature.batch}" if manifest.signature.batch else "none that all have"),
    ]


def _describe_memories(spec: ModelSpec) -> list[tuple[str, str]]:
    if not isinstance(spec, LucidrainsSpec) or spec.product_keys is None:
        return []
    keys = spec.product_keys
    layers = ", ".join(map(str, keys.layers))
    memories = f"{keys.num_keys:,} x {keys.num_keys:,} memories"
    return [("product keys", f"in place of the feed-forward in layers {layers}: {memories} each")]


def decoding_tables(artifact: ArtifactSummary) -> list[Table]:
    """decode.onnx, where there is one."""
    record, graph, longest = artifact.manifest.decode, artifact.decode, artifact.manifest.spec.max_length
    if record is None:
        return []
    parity = (artifact.manifest.parity or {}).get("decoding")
    most = record.bytes_per_token * longest + record.bytes_per_sequence
    facts = [
        ("for", "a prompt, then a token a call; each row of a batch is a sequence of its own"),
        ("weights", f"those of {MODEL_NAME}"),
        ("cache", f"{record.bytes_per_token:,} B a token and {record.bytes_per_sequence:,} B a sequence"),
        ("cache of the longest sequence", f"{most:,} B, {longest:,} tokens"),
        *([] if graph is None else [("operators", _join_counts(graph.custom_nodes))]),
        ("parity", _describe_values(parity) if isinstance(parity, dict) else "not compared at export"),
    ]
    return [make_facts(record.file, facts)]


def _join_counts(nodes: Iterable[CustomNodes]) -> str:
    return ", ".join(f"{node.count} {node.op_type}" for node in nodes)


def files_tables(artifact: ArtifactSummary) -> list[Table]:
    """The artifact's files against their SHA-256, and its engines where it has some."""
    files = make_table("Files, compared with their SHA-256", FILES, artifact.files)
    return [files, *([make_table("Engines", ENGINES, artifact.engines)] if artifact.engines else [])]


def graph_table(graph: OnnxSummary) -> Table:
    """An .onnx file as a whole."""
    facts = [
        ("size", f"{graph.size:,} B"),
        ("external data", ", ".join(graph.external_files) or "none"),
        ("producer", graph.producer or "unknown"),
        ("opsets", _join_pairs(graph.opsets)),
        *(("input", value) for value in graph.inputs),
        *(("output", value) for value in graph.outputs),
        ("parameters", f"{graph.parameters:,}"),
    ]
    return make_facts(f"ONNX file {graph.path}", facts)


def list_operators(graph: OnnxSummary) -> list[tuple[str, str, int]]:
    """(domain, operator, nodes) of every operator."""
    return [
        (domain, op_type, count)
        for domain, operators in graph.operators.items()
        for op_type, count in operators.items()
    ]


def custom_nodes_tables(graph: OnnxSummary) -> list[Table]:
    """The nodes of the domain reformer, where there are some."""
    table = make_table("Nodes of the domain reformer", CUSTOM_NODES, graph.custom_nodes)
    return [table] if table.rows else []


def _join_pairs(versions: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _describe_task(spec: ModelSpec) -> str:
    if isinstance(spec, CustomSpec):
        return f"{spec.task} (a module of a user's own)"
    attention = "causal" if spec.is_causal else "bidirectional"
    positions = " of the last token" if spec.logits == "last" else ""
    labels = f", {spec.num_labels} labels" if spec.task == "text-classification" else ""
    return f"{spec.task} ({attention}{labels}), returns {', '.join(spec.output_names)}{positions}"


def _describe_tokenizer(record: TokenizerRecord) -> str:
    words = TEXT_BY_KIND[record.kind]
    return f"{words}: {record.detail}" if record.detail else words


def _describe_inputs(spec: ModelSpec) -> tuple[str, str]:
    if spec.takes_vectors:
        return "input", f"{spec.input_names[0]}, vectors of {spec.hidden_size:,} numbers"
    return "vocabulary", f"{spec.vocab_size:,} ids"


def _describe_feed_forward(spec: ModelSpec) -> str:
    return f"{spec.feed_forward_size:,}, {spec.hidden_act}" if spec.feed_forward_size else "none"


def _describe_positions(spec: ModelSpec) -> str:
    if isinstance(spec.positions, AxialPositionsSpec):
        return f"axial, {'x'.join(map(str, spec.positions.shape))} = {spec.positions.num_positions:,}"
    if isinstance(spec.positions, SummedAxialPositionsSpec):
        return f"axial, summed, {'x'.join(map(str, spec.positions.shape))} = {spec.positions.num_positions:,}"
    if isinstance(spec.positions, RotaryPositionsSpec):
        return "rotary, in the heads that hash"
    if isinstance(spec.positions, SinusoidalPositionsSpec):
        return "sines and cosines"
    if isinstance(spec.positions, NoPositionsSpec):
        return "none"
    return f"learned, {spec.positions.num_positions:,}"


def _describe_values(values: dict[str, Any]) -> str:
    """The texts and numbers among `values`; lists and tables are left to --json."""
    texts = {name: f"{v:.3g}" if isinstance(v, float) else v for name, v in values.items()}
    return _join_pairs({name: v for name, v in texts.items() if isinstance(v, str | int)})


def _describe_weights(source: dict[str, Any]) -> list[tuple[str, str]]:
    """The checkpoint's weights that the artifact does without, where the exporter recorded some."""
    lists = (source.get("dropped_weights"), source.get("ignored_weights"))
    names = [str(name) for value in lists if isinstance(value, list) for name in value]
    return [("weights left out", ", ".join(names))] if names else []


def _describe_num_hashes(manifest: Manifest) -> list[tuple[str, str]]:
    """The numbers of hashes among which a run chooses, where it does."""
    if manifest.runtime_num_hashes is None:
        return []
    most = manifest.runtime_num_hashes.max_hashes
    return [("hashes of a run", f"1 to {most} by --num-hashes; only {most} is transformers' own draw")]
