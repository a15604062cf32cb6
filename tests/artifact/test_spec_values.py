from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.artifact.spec_values import spec_from_values, values_from_spec
from reformer_export.errors import SpecError
from reformer_export.spec import ModelSpec
from tests.test_spec import make_spec, specs


@given(specs())
@settings(deadline=None)
def test_a_spec_survives_json(spec: ModelSpec) -> None:
    assert spec_from_values(json.loads(json.dumps(values_from_spec(spec)))) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": "abc"},
        {"layers": [5]},
        {"layers": [{"kind": "full"}]},
        {"layers": [{"kind": ["lsh"]}]},
        {"layers": [{"kind": "axial", "shape": [8], "dims": [4]}]},
        {"layers": [{"kind": "local", "chunk_length": 8}]},
        {"layers": None},
        {"positions": None},
        {"positions": {"num_positions": 8}},
        {"positions": {"kind": "learned", "num_positions": 8, "more": 1}},
        {"positions": {"kind": "local", "chunk_length": 8}},
        {"more": 1},
    ],
)
def test_dicts_that_are_no_spec(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="fields that do not fit"):
        spec_from_values(values_from_spec(make_spec()) | changes)


@pytest.mark.parametrize("values", [None, 5, [], "spec", {}])
def test_values_that_are_no_dict(values: Any) -> None:
    with pytest.raises(SpecError, match="fields that do not fit"):
        spec_from_values(values)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    ),
    st.sampled_from([*values_from_spec(make_spec())]),
)
@settings(deadline=None)
def test_any_value_in_any_field_is_read_or_refused(value: Any, field: str) -> None:
    try:
        spec = spec_from_values(values_from_spec(make_spec()) | {field: value})
    except SpecError:
        return
    assert json.loads(json.dumps(values_from_spec(spec)))[field] == value
