"""The error of each layer's values with pinned buckets: what a picture of the layers shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from reformer_export.parity.cases import Case
from reformer_export.parity.point_errors import Judge, PointError
from reformer_export.parity.points import Role, find_points
from reformer_export.parity.session import ParitySession
from reformer_export.parity.subgraphs import ExposedPoints
from reformer_export.reference.eager_values import run_eager
from reformer_export.spec import LSHAttentionSpec

SHOWN: Final[tuple[Role, ...]] = ("attention operator", "attention output", "feed forward")


@dataclass(frozen=True)
class LayerError:
    """One of a layer's values in the case where its error is the largest share of its tolerance.

    `point`: one of `SHOWN`; `error`: absolute, over unmasked tokens; `greatest`: the largest magnitude of
    eager's. Errors of a layer are in all that follow it.
    """

    layer: int
    kind: Literal["lsh", "local"]
    point: Role
    error: float
    greatest: float
    tolerance: float


def measure_layers(session: ParitySession, cases: Sequence[Case]) -> tuple[LayerError, ...]:
    """The errors over `cases`, in the layers' order and in each layer in that of `SHOWN`."""
    spec = session.spec
    points = find_points(session.graph.model, spec)
    shown = [point for point in points if point.role in SHOWN]
    exposed = ExposedPoints(session.graph, [p for p in points if p.role == "buckets"], shown)
    names = {point.name for point in shown}
    worst: dict[str, PointError] = {}
    for case in cases:
        ids, mask = session.draw(case)
        _, values = run_eager(session.eager, ids, mask, case.num_hashes, names)
        got = exposed.run(exposed.feeds(session.graph_inputs(ids, mask, case.num_hashes), values))
        for found in Judge(spec, session.manifest.dtype, values, mask).judge(shown, got, {}):
            known = worst.get(found.point.name)
            if known is None or found.share > known.share:
                worst[found.point.name] = found
    rows = []
    for found in worst.values():
        layer = found.point.layer or 0
        kind: Literal["lsh", "local"] = "lsh" if isinstance(spec.layers[layer], LSHAttentionSpec) else "local"
        rows.append(LayerError(layer, kind, found.point.role, found.error, found.greatest, found.tolerance))
    return tuple(sorted(rows, key=lambda row: (row.layer, SHOWN.index(row.point))))
