"""What `inspect` found as a page: the files' state, the model, its layers, the graph, the manifest."""

from __future__ import annotations

from typing import Final

from reformer_export.report.figures import draw, paint_bars
from reformer_export.report.inspection_tables import (
    custom_nodes_tables,
    decoding_tables,
    files_tables,
    graph_table,
    list_operators,
    model_tables,
    runtimes_table,
)
from reformer_export.report.page import Page, Section, Verdict
from reformer_export.runtimes.inspection import ArtifactSummary, OnnxSummary

MAX_BARS: Final = 20


def page_from_inspect(found: ArtifactSummary | OnnxSummary) -> Page:
    """A page on an artifact's folder or an .onnx file."""
    if isinstance(found, OnnxSummary):
        return Page(f"What is in {found.path}", [_graph_section(found)], _verdict(found, found))
    decoding = decoding_tables(found)
    sections = [
        Section("model", "Model", tables=model_tables(found)),
        *([Section("decoding", "Decoding", tables=decoding)] if decoding else []),
        Section("runtimes", "What runs it", tables=[runtimes_table(found)]),
        Section("files", "Files", tables=files_tables(found)),
        *([] if found.graph is None else [_graph_section(found.graph)]),
        Section("manifest", "Manifest", manifest=found.manifest),
    ]
    return Page(f"What is in {found.folder}", sections, _verdict(found, found.graph))


def _verdict(found: ArtifactSummary | OnnxSummary, graph: OnnxSummary | None) -> Verdict:
    files = found.files if isinstance(found, ArtifactSummary) else ()
    changed = [file.name for file in files if file.state != "ok"]
    if changed:
        reason = f"Changed or missing: {', '.join(changed)}. `run` and `verify` refuse it."
        return Verdict(False, "Not as it was exported", reason)
    refused = () if graph is None else graph.refused_operators
    if refused:
        reason = "have no function body: only a runtime with the operator library runs it."
        return Verdict(False, "Needs the operator library", f"{', '.join(refused)} {reason}")
    if isinstance(found, OnnxSummary):
        reason = "Every custom operator has a function body in the file."
        return Verdict(True, "Runs on any ONNX Runtime", reason)
    parity = found.manifest.parity
    if parity is None:
        reason = "Every file is as it was exported, but nobody compared it with eager: `verify` does."
        return Verdict(None, "Whole, not compared", reason)
    passed = bool(parity["passed"])
    outcome = "passed" if passed else "FAILED"
    compared = f"compared with eager{found.manifest.rounding} over {parity['num_cases']} cases: {outcome}."
    headline = "Whole, and agrees with eager" if passed else "Differs from eager"
    return Verdict(passed, headline, f"Every file is as it was exported; {compared}")


def _graph_section(graph: OnnxSummary) -> Section:
    counts = [
        (op_type if domain == "ai.onnx" else f"{domain}::{op_type}", float(count))
        for domain, op_type, count in list_operators(graph)
    ]
    bars = sorted(counts, key=lambda item: -item[1])[:MAX_BARS]
    most = ", ".join(f"{name} {count:.0f}" for name, count in bars[:3])
    total = f"{sum(count for _, count in counts):.0f} nodes; most frequent: {most}."
    return Section(
        "graph",
        "Graph",
        [f"{graph.producer or 'Unknown producer'}; {graph.parameters:,} parameters."],
        [draw("operators", "Nodes of each operator", total, paint_bars, "nodes", bars)] if bars else [],
        [graph_table(graph), *custom_nodes_tables(graph)],
    )
