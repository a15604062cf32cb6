"""What a verify report shows beyond the sweep: errors in the layers, margins of the hashes, one pattern."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.lucidrains_spec import LucidrainsSpec
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
from reformer_export.parity.point_errors import PointError
from reformer_export.parity.points import CHOICES, Role
from reformer_export.parity.session import ParitySession
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import attention_name
from reformer_export.reference.lucidrains_values import SCALED
from reformer_export.spec import ModelSpec

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
    explained; `other`: what the layers are that do not hash; `names` of the layers, none for their numbers.
    """

    layers: tuple[PointError, ...]
    margins: tuple[MarginHistogram, ...]
    pattern: AttentionPattern | None
    limit: float
    other: str = "local"
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def name_of(self, layer: int | None) -> str:
        """What a layer is called."""
        return self.names.get(layer or 0, str(layer))

    def kind_of(self, layer: int | None) -> str:
        """Of an encoder's layer: "lsh", or what the others are."""
        return "lsh" if any(histogram.layer == layer for histogram in self.margins) else self.other

    def to_dict(self) -> dict[str, Any]:
        """JSON values; each histogram has its `edges` and the `limit`."""
        layers = [
            {
                "layer": found.point.layer,
                "kind": self.kind_of(found.point.layer),
                **({"name": self.name_of(found.point.layer)} if self.names else {}),
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
    other = "full" if isinstance(spec, LucidrainsSpec) else "local"
    layers = measure_layers(session, cases)
    if not spec.lsh_layers:
        return Details(layers, (), None, limit, other)
    length = _whole_length(spec, MARGIN_TOKENS)
    margins, pattern = _measure_margins(session, length), None
    short = _whole_length(spec, MAX_PATTERN_TOKENS)
    layer = spec.lsh_layers[0]
    if spec.is_hashed(layer, short):
        ids, mask = session.draw(Case(length, 1, masked=False))
        pattern = _trace_pattern(session, layer, ids[:, :short], mask[:, :short])
    return Details(layers, margins, pattern, limit, other)


def measure_layers(session: ParitySession, cases: Sequence[Case]) -> tuple[PointError, ...]:
    """The error with pinned buckets of each of `SHOWN` of each layer, in the case where it is the largest
    share of its tolerance. Errors of a layer are in all that follow it."""
    points = session.find_points(cases[-1])
    shown = [point for point in points if point.role in SHOWN]
    if not shown:
        return ()
    chosen = [point for point in points if point.role in CHOICES]
    exposed = session.graph.expose([*chosen, *session.rounded], shown)
    names = {point.name for point in shown} | session.pinned_names
    worst: dict[str, PointError] = {}
    for case in cases:
        trial = session.trial(case)
        truth = trial.run_eager(names)
        got = exposed.run(trial.feeds, truth.values)
        for found in trial.judge(truth).judge(shown, got, {}):
            known = worst.setdefault(found.point.name, found)
            if found.share > known.share:
                worst[found.point.name] = found
    return tuple(worst.values())


def _measure_margins(session: ParitySession, length: int) -> tuple[MarginHistogram, ...]:
    """Of each LSH layer, on what the graph hashes in one sequence of `length` tokens with eager's buckets."""
    ids, mask = session.draw(Case(length, 1, masked=False))
    truth = session.eager.run(ids, mask, points=session.pinned_names)
    got = session.expose_hashing().run(session.graph_inputs(ids, mask), truth.values)
    return tuple(
        measure_margins(
            session.spec,
            layer,
            got[f"{attention_name(layer)}.query_key"],
            recorded_rotations(session.spec, layer),
            mask,
        )
        for layer in truth.buckets
    )


def _trace_pattern(
    session: ParitySession, layer: int, ids: NDArray[np.int64], mask: NDArray[np.int64]
) -> AttentionPattern:
    """Of eager's queries and keys, as it compares them, and its buckets; int64 [1, L] each."""
    compared = SCALED if isinstance(session.spec, LucidrainsSpec) else ".query_key"
    name = attention_name(layer) + compared
    truth = session.eager.run(ids, mask, points={name})
    return trace_pattern(session.spec, layer, truth.values[name][0], truth.buckets[layer][0])


def _whole_length(spec: ModelSpec, most: int) -> int:
    """Tokens: the greatest length up to `most` that eager runs without padding it."""
    lengths = range(min(most, spec.max_length), 0, -1)
    return next((n for n in lengths if spec.takes_length(n) and spec.padded_length(n) == n), 1)
