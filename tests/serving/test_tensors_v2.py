"""Bodies of the open inference protocol v2: whatever is right is read as it was meant, the rest refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.contract import IDS_INPUT, MASK_INPUT
from reformer_export.errors import InputError
from reformer_export.serving.model_inputs import check_inputs
from reformer_export.serving.tensors_v2 import CHUNK, DATATYPES, read_infer_request, write_json_values
from tests.fuzz.targets import ODD_VALUES, edit_json
from tests.runtimes.artifacts import make_spec

INPUT_NAMES = (IDS_INPUT, MASK_INPUT)

FORMS = st.sampled_from(["flat", "nested", "binary"])


def write_request(
    arrays: dict[str, Any], forms: dict[str, str], datatype: str, more: dict[str, Any]
) -> tuple[bytes, str | None]:
    """A body and the length of its JSON."""
    inputs, tail = [], b""
    for name, values in arrays.items():
        tensor = {"name": name, "shape": list(values.shape), "datatype": datatype}
        if forms[name] == "binary":
            data = values.astype(DATATYPES[datatype]).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            tensor["data"] = (values if forms[name] == "nested" else values.ravel()).tolist()
        inputs.append(tensor)
    text = json.dumps({"inputs": inputs, **more}, indent=len(tail) % 3).encode()
    return text + tail, str(len(text)) if tail else None


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.lists(st.sampled_from(INPUT_NAMES), unique=True, max_size=2),
    FORMS,
    FORMS,
    st.sampled_from(list(DATATYPES)),
    st.sampled_from(
        [{}, {"id": "é"}, {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}]
    ),
    st.booleans(),
)
def test_a_right_body_is_read_as_it_was_meant(
    rows: int,
    length: int,
    names: list[str],
    ids_form: str,
    mask_form: str,
    datatype: str,
    more: dict[str, Any],
    binary: bool,
) -> None:
    rng = np.random.default_rng(length)
    arrays = {name: rng.integers(-(2**31), 2**31, (rows, length)) for name in names}
    forms = dict(zip(INPUT_NAMES, (ids_form, mask_form), strict=True))
    more = {**more, "parameters": {"binary_data_output": binary, "num_hashes": 3}}
    asked = read_infer_request(*write_request(arrays, forms, datatype, more), INPUT_NAMES)
    assert list(asked.arrays) == names
    for name, values in arrays.items():
        assert asked.arrays[name].dtype == np.int64
        np.testing.assert_array_equal(asked.arrays[name], values)
    assert asked.binary == binary
    assert asked.id == more.get("id", "")
    assert asked.outputs == ({"logits": True} if "outputs" in more else {})
    assert asked.parameters["num_hashes"] == 3


SPEC = make_spec()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=24), FORMS, FORMS, st.integers(-9, 9), st.sampled_from([None, *ODD_VALUES]))
def test_a_damaged_body_is_refused_or_right(
    edits: bytes, ids_form: str, mask_form: str, cut: int, value: Any
) -> None:
    """Nothing but the package's own error, and what is taken fits the model."""
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    forms = dict(zip(INPUT_NAMES, (ids_form, mask_form), strict=True))
    arrays = dict(zip(INPUT_NAMES, (ids, np.ones_like(ids)), strict=True))
    body, length = write_request(arrays, forms, "INT64", {"id": "a", "parameters": {}, "outputs": []})
    at = len(body) if length is None else int(length)
    text = json.dumps(edit_json(json.loads(body[:at]), edits)).encode("utf-8", "surrogatepass")
    tail = body[at:]
    tail = tail[:cut] if cut < 0 else tail + bytes(max(0, cut - 4))
    header = str(len(text)) if tail else None
    try:
        asked = read_infer_request(text + tail, header if value is None else str(value), INPUT_NAMES)
        checked, mask = check_inputs(SPEC, SPEC.max_length, asked.arrays)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal
    assert len(refusal) < 1000
    if refusal:
        return
    assert checked.min() >= 0
    assert checked.max() < SPEC.vocab_size
    assert mask is None or (mask.shape == checked.shape and mask.any(axis=1).all())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=8)))
def test_any_bytes_are_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(InputError):
        check_inputs(SPEC, SPEC.max_length, read_infer_request(body, length, INPUT_NAMES).arrays)


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_numbers_as_json_are_exact(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32) * 1e30
    values[:1] = np.inf
    found = json.loads(b"[" + b"".join(write_json_values(values.reshape(-1, 1))) + b"]")
    assert found[:1] == [None][:count]
    np.testing.assert_array_equal(np.array(found[1:], np.float32), values[1:])
