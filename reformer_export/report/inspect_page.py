"""`inspect --json` as a page: the files' state, the model, its layers, the graph, the manifest."""

from __future__ import annotations

import json
from typing import Any

from reformer_export.report.figures import draw_bars
from reformer_export.report.page import Page, Section, Table, Verdict

MAX_BARS = 20


def page_from_inspect(report: dict[str, Any]) -> Page:
    """A page from the JSON of `inspect` on an artifact's folder or an .onnx file."""
    graph = report["graph"]
    sections = [*_artifact_sections(report), *([_graph_section(graph)] if graph else [])]
    if report["kind"] == "artifact":
        manifest = json.dumps(report["manifest"], indent=2)
        sections.append(Section("manifest", "Manifest", details_title="manifest.json", details=manifest))
    place = report["folder"] if report["kind"] == "artifact" else graph["path"]
    return Page(f"What is in {place}", sections, _verdict(report, graph))


def _verdict(report: dict[str, Any], graph: dict[str, Any] | None) -> Verdict:
    changed = [file["name"] for file in report.get("files", []) if file["state"] != "ok"]
    if changed:
        return Verdict(False, "Not as it was exported", f"Changed or missing: {', '.join(changed)}.")
    refused = (graph or {}).get("refused_operators", [])
    if refused:
        reason = (
            f"{', '.join(refused)} have no function body: only a runtime with the operator library runs it."
        )
        return Verdict(False, "Needs the operator library", reason)
    if report["kind"] != "artifact":
        return Verdict(
            True, "Runs on any ONNX Runtime", "Every custom operator has a function body in the file."
        )
    parity = report["manifest"]["parity"]
    if parity is None:
        return Verdict(True, "Whole", "Every file has its SHA-256. It was not compared with eager yet.")
    compared = f"compared with eager over {parity['num_cases']} cases: "
    reason = "Every file has its SHA-256; " + compared + ("passed." if parity["passed"] else "FAILED.")
    return Verdict(bool(parity["passed"]), "Whole" if parity["passed"] else "Differs from eager", reason)


def _artifact_sections(report: dict[str, Any]) -> list[Section]:
    if report["kind"] != "artifact":
        return []
    manifest = report["manifest"]
    spec = manifest["spec"]
    facts = [
        ("task", spec["task"]),
        ("type of the weights", manifest["dtype"]),
        ("longest sequence", f"{manifest['max_length']:,} tokens"),
        ("vocabulary", f"{spec['vocab_size']:,}"),
        ("hidden size", f"{spec['hidden_size']:,}"),
        ("heads", f"{spec['num_heads']} x {spec['head_size']}"),
        ("feed-forward size", f"{spec['feed_forward_size']:,}"),
        ("causal", "yes" if spec["is_causal"] else "it is not"),
    ]
    files = [
        (file["name"], "-" if file["size"] is None else f"{file['size']:,}", file["state"])
        for file in report["files"]
    ]
    layers = [_layer_row(index, layer) for index, layer in enumerate(spec["layers"])]
    columns = ("layer", "attention", "chunk", "before", "after", "hashes", "buckets", "seed")
    return [
        Section(
            "model",
            "Model",
            tables=[
                Table("The model", ("property", "value"), facts),
                Table("Layers", columns, layers),
            ],
        ),
        Section("files", "Files", tables=[Table("Files of the artifact", ("file", "bytes", "state"), files)]),
    ]


def _layer_row(index: int, layer: dict[str, Any]) -> tuple[str, ...]:
    window = (layer["chunk_length"], layer["num_chunks_before"], layer["num_chunks_after"])
    if layer["kind"] == "local":
        return (str(index), "local", *map(str, window), "-", "-", "-")
    buckets = "x".join(map(str, layer["num_buckets"]))
    hashing = (str(layer["num_hashes"]), buckets, str(layer["hash_seed"]))
    return (str(index), "LSH", *map(str, window), *hashing)


def _graph_section(graph: dict[str, Any]) -> Section:
    counts = {
        (name if domain == "ai.onnx" else f"{domain}::{name}"): count
        for domain, operators in graph["operators"].items()
        for name, count in operators.items()
    }
    bars = sorted(counts.items(), key=lambda item: -item[1])[:MAX_BARS]
    most = ", ".join(f"{name} {count}" for name, count in bars[:3])
    custom = [
        (node["op_type"], str(node["count"]), "yes" if node["has_function_body"] else "no")
        for node in graph["custom_nodes"]
    ]
    signature = [
        *(("input", text) for text in graph["inputs"]),
        *(("output", text) for text in graph["outputs"]),
    ]
    return Section(
        "graph",
        "Graph",
        [f"{graph['producer'] or 'Unknown producer'}; {graph['parameters']:,} parameters."],
        [
            draw_bars(
                "operators",
                "Nodes of each operator",
                f"{sum(counts.values())} nodes; most frequent: {most}.",
                "nodes",
                [(name, float(count)) for name, count in bars],
            )
        ]
        if bars
        else [],
        [
            Table("Inputs and outputs", ("", "name, type and shape"), signature),
            Table("Custom operators", ("operator", "nodes", "function body"), custom),
        ],
    )
