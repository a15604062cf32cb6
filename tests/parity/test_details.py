from __future__ import annotations

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import EPSILON, FLIP_ROUNDINGS
from reformer_export.parity.details import SHOWN, collect_details, measure_layers
from reformer_export.parity.hashing import MARGIN_EDGES
from tests.parity.planted import CASE, LSH, scale


def test_each_shown_point_of_each_layer_has_its_error(artifacts, tmp_path) -> None:
    encoder = artifacts("encoder")
    with encoder.open(None, tmp_path) as session:
        found = measure_layers(session, [CASE, Case(64, 1, masked=False)])
    assert [(row.point.layer, row.point.role) for row in found] == [
        (layer, role) for layer in (0, 1) for role in SHOWN
    ]
    assert all(row.error <= row.tolerance / 4 for row in found)
    assert all(row.greatest > 0.01 for row in found)
    with encoder.open(scale("MatMul", f"{LSH}.value"), tmp_path) as session:
        worse = measure_layers(session, [CASE])
    beyond = [(row.point.layer, row.point.role) for row in worse if not row.agrees]
    assert beyond == [(1, role) for role in SHOWN]


def test_what_the_pictures_show_in_json(artifacts, tmp_path) -> None:
    with artifacts("encoder").open(None, tmp_path) as session:
        values = collect_details(session, [CASE]).to_dict()
    kinds = [(row["layer"], row["kind"], row["point"]) for row in values["layers"]]
    assert kinds == [(i, kind, role) for i, kind in enumerate(("local", "lsh")) for role in SHOWN]
    assert set(values["layers"][0]) == {"layer", "kind", "point", "error", "greatest", "tolerance"}
    (margins,) = values["margins"]
    assert (margins["layer"], margins["edges"]) == (1, list(MARGIN_EDGES))
    assert margins["limit"] == FLIP_ROUNDINGS * EPSILON["float32"]
    assert sum(margins["counts"]) == 2 * 2 * 64  # heads x rounds x tokens
    assert (values["pattern"]["layer"], values["pattern"]["length"]) == (1, 64)
