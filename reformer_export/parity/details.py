"""What a verify report shows beyond the sweep: errors in the layers, margins of the hashes, one pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from reformer_export.artifact.manifest import Manifest
from reformer_export.parity.cases import Case, make_inputs
from reformer_export.parity.compare import EPSILON, FLIP_ROUNDINGS
from reformer_export.parity.hashing import MARGIN_EDGES, MAX_PATTERN_TOKENS, measure_margins, trace_pattern
from reformer_export.parity.instrumented import open_instrumented
from reformer_export.parity.layer_errors import layer_errors
from reformer_export.reference.eager import open_eager
from reformer_export.reference.rotations import recorded_rotations
from reformer_export.runtimes.ort import Placement
from reformer_export.spec import LSHAttentionSpec, ModelSpec

MARGIN_TOKENS: Final = 4096
"""Tokens whose margins are measured, where the model takes so many."""


def collect_details(
    folder: Path,
    checkpoint_folder: Path,
    manifest: Manifest,
    cases: Sequence[Case],
    placement: Placement,
    seed: int = 0,
) -> dict[str, Any]:
    """The JSON of the report's pictures.

    "layers": the rows of `layer_errors` over `cases`; "margins": a histogram for each LSH layer, over one
    sequence of up to `MARGIN_TOKENS` random tokens; "pattern": the first LSH layer's first head on a short
    sequence, None where no multiple of the chunk lengths is short enough for a picture.
    """
    spec = manifest.spec
    eager = open_eager(checkpoint_folder, manifest)
    details: dict[str, Any] = {
        "layers": layer_errors(folder, manifest, eager, cases, placement, seed),
        "margins": [],
        "pattern": None,
    }
    if not spec.lsh_layers:
        return details
    length = min(MARGIN_TOKENS // spec.padding_multiple * spec.padding_multiple, spec.max_length)
    ids, mask = make_inputs(spec, Case(max(length, 1), 1, masked=False), seed)
    short = _pattern_length(spec)
    with open_instrumented(
        folder, manifest, placement.provider, placement.threads, placement.library
    ) as graph:
        run = graph.run(ids, mask, eager.run(ids, mask).buckets)
        details["margins"] = [
            {
                **dataclasses.asdict(
                    measure_margins(spec, layer, run.query_key[layer], recorded_rotations(spec, layer), mask)
                ),
                "edges": list(MARGIN_EDGES),
                "limit": FLIP_ROUNDINGS * EPSILON[manifest.dtype],
            }
            for layer in spec.lsh_layers
        ]
        if short:
            ids, mask = ids[:, :short], np.ones_like(mask[:, :short])
            buckets = eager.run(ids, mask).buckets
            run = graph.run(ids, mask, buckets)
            layer = spec.lsh_layers[0]
            pattern = trace_pattern(spec, layer, run.query_key[layer][0], buckets[layer][0])
            details["pattern"] = dataclasses.asdict(pattern)
    return details


def _pattern_length(spec: ModelSpec) -> int:
    """The longest multiple of the chunk lengths that makes a picture with several chunks; 0 for none."""
    multiple = spec.padding_multiple
    attention = spec.layers[spec.lsh_layers[0]]
    assert isinstance(attention, LSHAttentionSpec)
    length = min(MAX_PATTERN_TOKENS, spec.max_length) // multiple * multiple
    return length if length > attention.chunk_length else 0
