"""A subgraph that was found wrong, as files; runtimes/replay.py says which, and runs them again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from reformer_export.artifact.files import json_text, sha256_of_file
from reformer_export.artifact.folder import new_folder
from reformer_export.parity.bisect import BisectResult
from reformer_export.runtimes.onnx_file import write_onnx
from reformer_export.runtimes.ort_session import Placement
from reformer_export.runtimes.replay import (
    ARRAYS_NAME,
    GRAPH_NAME,
    RECORD_NAME,
    RESULTS,
    WEIGHTS_NAME,
    NodeRecord,
    check_subgraph_folder,
    reason_to_keep,
)

MAX_INLINE_BYTES: Final = 2**30
"""Larger subgraphs have their weights beside them, as a protobuf may not exceed 2 GiB."""


def write_subgraph(out: Path, result: BisectResult, placement: Placement) -> bool:
    """Write what it takes to replay the named node into the new folder `out`, whole or not at all.

    An earlier one of these is replaced. False, and nothing is written, when no node was named.

    Raises:
        OutputError: `out` is something else, or the disk refuses.
    """
    named, subgraph = result.named, result.subgraph
    if named is None or subgraph is None:
        return False
    wrong, agreement = named.wrong, named.wrong.agreement
    large = subgraph.graph.ByteSize() > MAX_INLINE_BYTES
    results = dict(zip(RESULTS, (subgraph.expected, subgraph.got, subgraph.judged), strict=True))
    check_subgraph_folder(out)
    with new_folder(out, overwrite=True, reason_to_keep=reason_to_keep) as folder:
        if large:
            write_onnx(subgraph.graph, folder / GRAPH_NAME, WEIGHTS_NAME)
        else:
            onnx.save(subgraph.graph, str(folder / GRAPH_NAME))
        np.savez(folder / ARRAYS_NAME, allow_pickle=False, **subgraph.inputs, **results)
        record = NodeRecord(
            node=named.node,
            operator=named.operator,
            module=wrong.point.module,
            layer=wrong.point.layer,
            buckets=agreement is not None,
            error=wrong.error,
            tolerance=wrong.tolerance,
            explained=0 if agreement is None else agreement.flips - agreement.unexplained,
            native=placement.library is not None,
            provider=placement.provider,
            files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
            tf32=placement.tf32,
        )
        (folder / RECORD_NAME).write_text(json_text(dataclasses.asdict(record)) + "\n", encoding="utf-8")
    return True
