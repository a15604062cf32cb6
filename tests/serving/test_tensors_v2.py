"""Bodies of the open inference protocol v2: whatever is right is read as it was meant, the rest refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export.artifact.signature import GraphTensor
from reformer_export.contract import IDS_INPUT, MASK_INPUT
from reformer_export.errors import InputError
from reformer_export.runtimes.widen import narrow, widen
from reformer_export.serving import json_values
from reformer_export.serving.joining import SequenceJoiner
from reformer_export.serving.json_values import CHUNK, write_json_values
from reformer_export.serving.tensors_v2 import DATATYPES
from tests.fuzz.targets import ODD_VALUES, edit_json, read_at_once
from tests.runtimes.artifacts import make_manifest, make_spec

INPUT_NAMES = (IDS_INPUT, MASK_INPUT)
SPEC = make_spec()
MANIFEST = make_manifest(Path(), SPEC, "float32", ())
JOINER = SequenceJoiner(MANIFEST, pad_token_id=0)
INTEGERS = ["INT64", "INT32"]

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
    st.sampled_from(INTEGERS),
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
    asked = read_at_once(*write_request(arrays, forms, datatype, more), MANIFEST.inputs)
    assert list(asked.arrays) == names
    for name, values in arrays.items():
        assert asked.arrays[name].dtype == DATATYPES[datatype] or forms[name] != "binary"
        np.testing.assert_array_equal(asked.arrays[name], values)
    assert asked.binary == binary
    assert asked.id == more.get("id", "")
    assert asked.outputs == ({"logits": True} if "outputs" in more else {})
    assert asked.parameters["num_hashes"] == 3


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
        asked = read_at_once(text + tail, header if value is None else str(value), MANIFEST.inputs)
        checked = JOINER.check(asked.arrays, SPEC.max_length, None).inputs
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert "\n" not in refusal
    assert len(refusal) < 1000
    if refusal:
        return
    ids = checked[IDS_INPUT]
    assert ids.min() >= 0
    assert ids.max() < SPEC.vocab_size
    mask = checked.get(MASK_INPUT)
    assert mask is None or (mask.shape == ids.shape and mask.any(axis=1).all())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=8)))
def test_any_bytes_are_refused(body: bytes, length: str | None) -> None:
    with pytest.raises(InputError):
        JOINER.check(read_at_once(body, length, MANIFEST.inputs).arrays, SPEC.max_length, None)


KINDS = {
    "INT64": (np.int64, "int64"),
    "INT8": (np.int8, "int32"),
    "UINT16": (np.uint16, "int64"),
    "UINT64": (np.uint64, "uint64"),
    "BOOL": (np.bool_, "bool"),
    "FP16": (np.float16, "bfloat16"),
    "FP32": (np.float32, "float16"),
    "FP64": (np.float64, "float32"),
    "BF16": (np.float32, "bfloat16"),
}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 70), st.lists(st.integers(1, 6), max_size=3), st.integers(0, 2**32), st.booleans())
def test_values_in_pieces_are_those_of_the_whole(
    piece: int, shape: list[int], seed: int, nested: bool
) -> None:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    data = values.tolist() if nested and shape else values.ravel().tolist()
    tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": data}
    body = json.dumps({"inputs": [tensor]}, indent=seed % 3 or None).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "PIECE", piece)
        asked = read_at_once(body, None, [GraphTensor("x", "float32", tuple("abc"[: len(shape)]))])
    np.testing.assert_array_equal(asked.arrays["x"], values)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.integers(1, 4), max_size=4),
    st.integers(0, 2**32),
    FORMS,
)
def test_every_datatype_and_number_of_axes(datatype: str, shape: list[int], seed: int, form: str) -> None:
    numpy_type, graph_type = KINDS[datatype]
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(shape) * 5).astype(numpy_type)
    if datatype == "UINT64":
        values = rng.integers(0, 2**64, shape, dtype=np.uint64)
    if datatype == "BF16":
        values = widen(narrow(np.asarray(values), np.dtype(np.uint16)))
    tensor: dict[str, Any] = {"name": "x", "shape": shape, "datatype": datatype}
    tail = b""
    if form == "binary":
        tail = (narrow(values, np.dtype(np.uint16)) if datatype == "BF16" else np.asarray(values)).tobytes()
        tensor["parameters"] = {"binary_data_size": len(tail)}
    else:
        tensor["data"] = values.ravel().tolist() if form == "flat" or not shape else values.tolist()
    text = json.dumps({"inputs": [tensor]}).encode()
    wanted = GraphTensor("x", graph_type, tuple("abcd"[: len(shape)]))
    asked = read_at_once(text + tail, str(len(text)), [wanted])
    found = asked.arrays["x"]
    assert (found.dtype, found.shape) == (values.dtype, tuple(shape))
    np.testing.assert_array_equal(found, values)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "integers for floats": ({"datatype": "INT64"}, "x, datatype: got 'INT64', expected FP32 or FP16"),
    "texts": ({"datatype": "BYTES"}, "x, datatype: got 'BYTES'"),
    "an axis less": ({"shape": [4], "data": [1, 2, 3, 4]}, r"x, shape: got \[4\], expected \[batch, 2\]"),
    "no row": ({"shape": [0, 2], "data": []}, "at least 1 each"),
    "too few": ({"data": [1, 2, 3]}, r"x, data: got 3 values, expected 4 for shape \[2, 2\]"),
    "none": ({"shape": [1, 2], "data": []}, r"x, data: got 0 values, expected 2"),
    "another shape": ({"data": [[1], [2]]}, r"got 2 values, expected 4 for shape \[2, 2\]"),
    "turned": ({"shape": [4, 2], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}, "got other lists, expected 8"),
    "ragged": ({"data": [[1, 2, 3], [4]]}, "got other lists, expected 4"),
    "too deep": ({"data": [[[1, 2], [3, 4]]]}, "got other lists, expected 4"),
    "texts with commas": ({"shape": [1, 2], "data": ["1,2"]}, "Expected .float., got .str."),
    "an object": ({"shape": [1, 2], "data": {"a": [1, 2]}}, "x, data: got"),
    "truth": ({"data": [True, False, True, True]}, "x, data: got 'Expected `?'?float"),
    "more than the type has": ({"datatype": "FP16", "data": [1e5, 1, 1, 1]}, "one that float16 has"),
    "null": ({"data": [None, 1, 1, 1]}, "x, data: got"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_tensor_of_the_model(name: str) -> None:
    changes, words = WRONG[name]
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}
    body = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(InputError, match=words):
        read_at_once(body, None, [GraphTensor("x", "float32", ("batch", 2))])


def test_truth_has_one_byte_a_value() -> None:
    tensor = {"name": "x", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    text = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(InputError, match="bytes other than 0 and 1"):
        read_at_once(text + b"\1\2", str(len(text)), [GraphTensor("x", "bool", ("batch",))])


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_numbers_as_json_are_exact(count: int) -> None:
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32) * 1e30
    values[:1] = np.inf
    found = json.loads(b"[" + b"".join(write_json_values(values.reshape(-1, 1))) + b"]")
    assert found[:1] == [None][:count]
    np.testing.assert_array_equal(np.array(found[1:], np.float32), values[1:])
