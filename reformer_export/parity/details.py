"""What a verify report shows beyond the sweep: errors in the layers, margins of the hashes, one pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import EPSILON, FLIP_ROUNDINGS
from reformer_export.parity.hashing import (
    MARGIN_EDGES,
    MAX_PATTERN_TOKENS,
    AttentionPattern,
    MarginHistogram,
    measure_margins,
    trace_pattern,
)
from reformer_export.parity.layer_errors import LayerError, measure_layers
from reformer_export.parity.pinned import PinnedGraph
from reformer_export.parity.session import ParitySession
from reformer_export.reference.rotations import recorded_rotations
from reformer_export.spec import LSHAttentionSpec, ModelSpec

MARGIN_TOKENS: Final = 4096
"""Tokens whose margins are measured, where the model takes so many."""


@dataclass(frozen=True)
class Details:
    """What the report's pictures show.

    `layers`: errors over the sweep's cases; `margins`: of each LSH layer, over one sequence of up to
    `MARGIN_TOKENS` random tokens; `pattern`: the first LSH layer's first head on a short sequence, None where
    no multiple of the chunk lengths is short enough for a picture; `limit`: the margin below which a flip is
    explained.
    """

    layers: tuple[LayerError, ...]
    margins: tuple[MarginHistogram, ...]
    pattern: AttentionPattern | None
    limit: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; each histogram has its `edges` and the `limit`."""
        shared = {"edges": list(MARGIN_EDGES), "limit": self.limit}
        return {
            "layers": [dataclasses.asdict(row) for row in self.layers],
            "margins": [dataclasses.asdict(histogram) | shared for histogram in self.margins],
            "pattern": None if self.pattern is None else dataclasses.asdict(self.pattern),
        }


def collect_details(session: ParitySession, cases: Sequence[Case]) -> Details:
    """Look into the model on `cases`, those of a sweep, and on two inputs of its own."""
    layers, limit = measure_layers(session, cases), FLIP_ROUNDINGS * EPSILON[session.manifest.dtype]
    if not session.spec.lsh_layers:
        return Details(layers, (), None, limit)
    graph = PinnedGraph(session.graph, session.spec)
    return Details(layers, _measure_margins(session, graph), _trace_pattern(session, graph), limit)


def _measure_margins(session: ParitySession, graph: PinnedGraph) -> tuple[MarginHistogram, ...]:
    spec = session.spec
    ids, mask = session.draw(_margin_case(spec))
    run = graph.run(session.graph_inputs(ids, mask), session.eager.run(ids, mask).buckets)
    return tuple(
        measure_margins(spec, layer, run.query_key[layer], recorded_rotations(spec, layer), mask)
        for layer in spec.lsh_layers
    )


def _trace_pattern(session: ParitySession, graph: PinnedGraph) -> AttentionPattern | None:
    spec, layer = session.spec, session.spec.lsh_layers[0]
    length = _pattern_length(spec)
    if not length:
        return None
    ids, mask = (values[:, :length] for values in session.draw(_margin_case(spec)))
    buckets = session.eager.run(ids, mask).buckets
    run = graph.run(session.graph_inputs(ids, mask), buckets)
    return trace_pattern(spec, layer, run.query_key[layer][0], buckets[layer][0])


def _margin_case(spec: ModelSpec) -> Case:
    length = min(MARGIN_TOKENS // spec.padding_multiple * spec.padding_multiple, spec.max_length)
    return Case(max(length, 1), 1, masked=False)


def _pattern_length(spec: ModelSpec) -> int:
    """The longest multiple of the chunk lengths that makes a picture with several chunks; 0 for none."""
    multiple = spec.padding_multiple
    attention = spec.layers[spec.lsh_layers[0]]
    assert isinstance(attention, LSHAttentionSpec)
    length = min(MAX_PATTERN_TOKENS, spec.max_length) // multiple * multiple
    return length if length > attention.chunk_length else 0
