from __future__ import annotations

from reformer_export.parity.cases import Case
from reformer_export.parity.layer_errors import SHOWN, measure_layers
from tests.parity.planted import CASE, LSH, scale


def test_each_value_of_each_layer_has_a_row(artifacts, tmp_path) -> None:
    encoder = artifacts("encoder")
    with encoder.open(None, tmp_path) as session:
        rows = measure_layers(session, [CASE, Case(64, 1, masked=False)])
    assert [(row.layer, row.kind, row.point) for row in rows] == [
        (layer, kind, point) for layer, kind in ((0, "local"), (1, "lsh")) for point in SHOWN
    ]
    assert all(row.error <= row.tolerance / 4 for row in rows)
    assert all(row.greatest > 0.01 for row in rows)
    with encoder.open(scale("MatMul", f"{LSH}.value"), tmp_path) as session:
        worse = measure_layers(session, [CASE])
    beyond = [(row.layer, row.point) for row in worse if row.error > row.tolerance]
    assert beyond == [(1, point) for point in SHOWN]
