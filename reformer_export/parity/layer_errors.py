"""The error of each layer's parts with pinned buckets: what a picture of the layers shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.parity.cases import Case, make_inputs
from reformer_export.parity.point_errors import Judge, PointError
from reformer_export.parity.points import Role, find_points
from reformer_export.parity.subgraphs import expose, graph_inputs, open_subgraph, read_model
from reformer_export.reference.eager import EagerReformer
from reformer_export.reference.eager_values import run_eager
from reformer_export.runtimes.ort import Placement
from reformer_export.spec import LSHAttentionSpec

SHOWN: Final[tuple[Role, ...]] = ("attention operator", "attention output", "feed forward")


def layer_errors(
    folder: Path,
    manifest: Manifest,
    eager: EagerReformer,
    cases: Iterable[Case],
    placement: Placement | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows, in the layers' order and in each layer in that of `SHOWN`.

    A row: `layer`; `kind` "lsh" or "local"; `point`, one of `SHOWN`; of the case where the error is the
    largest share of its tolerance, `error` (absolute, over unmasked tokens), `greatest` (the largest
    magnitude of eager's) and `tolerance`. Errors of a layer are in all that follow it.
    """
    placement = placement or Placement()
    spec = manifest.spec
    model, runnable = read_model(folder / MODEL_NAME, placement.provider)
    points = find_points(model, spec)
    shown = [point for point in points if point.role in SHOWN]
    pinned = {point.name for point in points if point.role == "buckets"}
    names = {point.name for point in shown}
    worst: dict[str, PointError] = {}
    with open_subgraph(expose(runnable, points, pinned, shown), points, placement) as runner:
        for case in cases:
            ids, mask = make_inputs(spec, case, seed)
            _, values = run_eager(eager, ids, mask, case.num_hashes, names)
            got = runner.run(runner.feeds(graph_inputs(manifest, case, ids, mask), values))
            for found in Judge(spec, manifest.dtype, values, mask).judge(shown, got, {}):
                known = worst.get(found.point.name)
                if known is None or found.share > known.share:
                    worst[found.point.name] = found
    rows = [
        _row(found, isinstance(spec.layers[found.point.layer or 0], LSHAttentionSpec))
        for found in worst.values()
    ]
    return sorted(rows, key=lambda row: (row["layer"], SHOWN.index(row["point"])))


def _row(found: PointError, is_lsh: bool) -> dict[str, Any]:
    return {
        "layer": found.point.layer,
        "kind": "lsh" if is_lsh else "local",
        "point": found.point.role,
        "error": found.error,
        "greatest": found.greatest,
        "tolerance": found.tolerance,
    }
