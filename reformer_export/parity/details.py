"""What a verify report shows beyond the sweep: errors in the layers, margins of the hashes, one pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import EPSILON, FLIP_ROUNDINGS
from reformer_export.parity.expose import ExposedGraph
from reformer_export.parity.hashing import (
    MARGIN_EDGES,
    MAX_PATTERN_TOKENS,
    AttentionPattern,
    MarginHistogram,
    measure_margins,
    trace_pattern,
)
from reformer_export.parity.point_errors import Judge, PointError
from reformer_export.parity.points import Role, find_points
from reformer_export.parity.session import ParitySession
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import attention_name
from reformer_export.spec import LSHAttentionSpec, ModelSpec

MARGIN_TOKENS: Final = 4096
"""Tokens whose margins are measured, where the model takes so many."""

SHOWN: Final[tuple[Role, ...]] = ("attention operator", "attention output", "feed forward")
"""The points of a layer whose errors are shown."""


@dataclass(frozen=True)
class Details:
    """What the report's pictures show.

    `layers`: the errors of `measure_layers`; `margins`: of each LSH layer, over one sequence of up to
    `MARGIN_TOKENS` random tokens; `pattern`: the first LSH layer's first head on a short sequence, None where
    no multiple of the chunk lengths is short enough for a picture; `limit`: the margin below which a flip is
    explained.
    """

    layers: tuple[PointError, ...]
    margins: tuple[MarginHistogram, ...]
    pattern: AttentionPattern | None
    limit: float

    def kind_of(self, layer: int | None) -> str:
        """Of an encoder's layer: "lsh" or "local"."""
        return "lsh" if any(histogram.layer == layer for histogram in self.margins) else "local"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; each histogram has its `edges` and the `limit`."""
        layers = [
            {
                "layer": found.point.layer,
                "kind": self.kind_of(found.point.layer),
                "point": found.point.role,
                "error": found.error,
                "greatest": found.greatest,
                "tolerance": found.tolerance,
            }
            for found in self.layers
        ]
        shared = {"edges": list(MARGIN_EDGES), "limit": self.limit}
        margins = [dataclasses.asdict(histogram) | shared for histogram in self.margins]
        return {
            "layers": layers,
            "margins": margins,
            "pattern": self.pattern and dataclasses.asdict(self.pattern),
        }


def collect_details(session: ParitySession, cases: Sequence[Case]) -> Details:
    """Look into the model on `cases`, those of a sweep, and on two inputs of its own."""
    spec, limit = session.spec, FLIP_ROUNDINGS * EPSILON[session.precision]
    layers = measure_layers(session, cases)
    if not spec.lsh_layers:
        return Details(layers, (), None, limit)
    graph = session.expose_hashing()
    length = min(MARGIN_TOKENS // spec.padding_multiple * spec.padding_multiple, spec.max_length)
    ids, mask = session.draw(Case(max(length, 1), 1, masked=False))
    query_keys, _ = _read_hashing(session, graph, ids, mask)
    margins = tuple(
        measure_margins(spec, layer, query_key, recorded_rotations(spec, layer), mask)
        for layer, query_key in query_keys.items()
    )
    pattern, length = None, _pattern_length(spec)
    if length:
        query_keys, buckets = _read_hashing(session, graph, ids[:, :length], mask[:, :length])
        layer = spec.lsh_layers[0]
        pattern = trace_pattern(spec, layer, query_keys[layer][0], buckets[layer][0])
    return Details(layers, margins, pattern, limit)


def measure_layers(session: ParitySession, cases: Sequence[Case]) -> tuple[PointError, ...]:
    """The error with pinned buckets of each of `SHOWN` of each layer, in the case where it is the largest
    share of its tolerance. Errors of a layer are in all that follow it."""
    points = find_points(session.graph.model, session.spec)
    shown = [point for point in points if point.role in SHOWN]
    exposed = session.graph.expose([point for point in points if point.role == "buckets"], shown)
    names = {point.name for point in shown}
    worst: dict[str, PointError] = {}
    for case in cases:
        ids, mask = session.draw(case)
        values = session.eager.run(ids, mask, case.num_hashes, names).values
        got = exposed.run(session.graph_inputs(ids, mask, case.num_hashes), values)
        for found in Judge(session.spec, session.precision, values, mask).judge(shown, got, {}):
            known = worst.setdefault(found.point.name, found)
            if found.share > known.share:
                worst[found.point.name] = found
    return tuple(worst.values())


def _read_hashing(
    session: ParitySession, graph: ExposedGraph, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> tuple[dict[int, NDArray[np.float32]], dict[int, NDArray[np.int32]]]:
    """By LSH layer: what the graph hashes, float32 [B, L, H*D], and eager's buckets."""
    truth = session.eager.run(ids, mask)
    got = graph.run(session.graph_inputs(ids, mask), truth.values)
    return {layer: got[f"{attention_name(layer)}.query_key"] for layer in truth.buckets}, truth.buckets


def _pattern_length(spec: ModelSpec) -> int:
    """The longest multiple of the chunk lengths that makes a picture with several chunks; 0 for none."""
    multiple = spec.padding_multiple
    attention = spec.layers[spec.lsh_layers[0]]
    assert isinstance(attention, LSHAttentionSpec)
    length = min(MAX_PATTERN_TOKENS, spec.max_length) // multiple * multiple
    return length if length > attention.chunk_length else 0
