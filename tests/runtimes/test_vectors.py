"""Models that take vectors: what is checked, padded and rounded on the way into each runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.errors import InputError
from reformer_export.runtimes import load
from reformer_export.runtimes.inputs import prepare_inputs
from reformer_export.runtimes.widen import narrow, widen
from reformer_export.spec import DType
from tests.runtimes.artifacts import make_spec, make_vector_spec, write_artifact, write_vector_artifact
from tests.runtimes.cuda_stand_in import GpuArray, stand_in
from tests.runtimes.tensorrt.engines import DATA_TYPES, open_fake, write_engine, write_library

SPEC = make_vector_spec()
VECTORS = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 4) / 8
MASK = np.array([[1] * 8, [1] * 5 + [0] * 3])


def expected(vectors: Any = VECTORS, mask: Any = MASK) -> Any:
    return (vectors + mask[..., None]) * mask[..., None]


@pytest.mark.parametrize(
    "kind",
    [np.array, list, torch.tensor, lambda x: x.astype(np.float64), lambda x: x.tolist(), np.asfortranarray],
)
def test_an_array_of_any_kind(kind: Any) -> None:
    vectors, mask = prepare_inputs(SPEC, kind(VECTORS), None)
    assert (vectors.dtype, mask.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(vectors, VECTORS)
    assert mask.tolist() == [[1] * 8] * 2


def test_rows_of_unequal_length_are_padded_with_zeros_and_masked() -> None:
    vectors, mask = prepare_inputs(SPEC, [VECTORS[0, :3], VECTORS[1]], None)
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1] * 8]
    np.testing.assert_array_equal(vectors[0, :3], VECTORS[0, :3])
    assert not vectors[0, 3:].any()


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "ids": (
        [[5, 6, 7, 8]],
        None,
        r"inputs_embeds, row 0: got int64 of shape \[4\], expected \[sequence, 4\]",
    ),
    "two axes": (VECTORS[0], None, r"got an array of shape \[8, 4\], expected \[batch, sequence, 4\]"),
    "another size": (np.zeros((1, 8, 5)), None, r"float64 of shape \[8, 5\]"),
    "integers": (np.zeros((1, 8, 4), int), None, "int64 of shape"),
    "a length": (VECTORS[:, :7], None, "got 7 tokens, expected up to 4, or multiples of 2 x bucket_size = 8"),
    "too long": (np.zeros((1, 72, 4)), None, "got 72 tokens"),
    "not a number": (
        np.full((1, 8, 4), np.nan),
        None,
        "a number that is not finite in float32 at position 0",
    ),
    "infinity": (np.full((1, 8, 4), 1e39), None, "not finite"),
    "no row": (np.zeros((0, 8, 4)), None, "no row"),
    "no token": (np.zeros((1, 0, 4)), None, "no token"),
    "unequal depth": ([[[1.0, 2.0], [3.0]]], None, "row 0"),
    "text": ("abc", None, "got str"),
    "a mask": (VECTORS, [[1] * 7] * 2, r"got rows of \[7, 7\] values, expected \[8, 8\] as inputs_embeds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    vectors, mask, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        prepare_inputs(SPEC, vectors, mask)


def test_float16_has_a_greatest_number() -> None:
    vectors = np.full((1, 8, 4), 65504.0)
    prepare_inputs(SPEC, vectors, None, dtype="float16")
    with pytest.raises(InputError, match="not finite in float16"):
        prepare_inputs(SPEC, vectors + 32, None, dtype="float16")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_is_rounded_as_torch_does(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    rounded = torch.from_numpy(numbers).bfloat16().float().numpy()
    np.testing.assert_array_equal(widen(narrow(numbers, np.dtype(np.uint16))), rounded)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_onnxruntime_runs_each_dtype(tmp_path: Path, dtype: DType) -> None:
    with load(write_vector_artifact(tmp_path / "out", dtype), provider="cpu") as model:
        for given_as in ({"inputs_embeds": VECTORS}, {"input_ids": VECTORS}):
            got = model.run(**given_as, attention_mask=MASK)["last_hidden_state"]
            np.testing.assert_array_equal(got, expected())
        alone = model.run(VECTORS[:1])["last_hidden_state"]
        np.testing.assert_array_equal(alone, VECTORS[:1] + 1)


def test_ids_and_vectors_are_not_mixed_up(tmp_path: Path) -> None:
    with load(write_vector_artifact(tmp_path / "out"), provider="cpu") as model:
        with pytest.raises(InputError, match="inputs_embeds: got none"):
            model.run()
        with pytest.raises(InputError, match="got `input_ids` too"):
            model.run(VECTORS, inputs_embeds=VECTORS)
        with pytest.raises(InputError, match="tokenizer: got none, as the model takes vectors"):
            model.encode("a")
        with pytest.raises(InputError, match="got an artifact for feature-extraction"):
            model.generate("a")
        with pytest.raises(InputError, match="takes vectors"):
            model.decode([1])
        with pytest.raises(InputError, match="expected text-generation"):
            model.generate([1, 2])
    with load(write_artifact(tmp_path / "words"), provider="cpu") as model:
        with pytest.raises(InputError, match="inputs_embeds: got it for a model that takes token ids"):
            model.run(inputs_embeds=VECTORS)
        with pytest.raises(InputError, match="input_ids: got none"):
            model.run()


def test_the_manifest_describes_inputs_and_outputs(tmp_path: Path) -> None:
    def described(out: Path) -> Any:
        values = json.loads((out / "manifest.json").read_text())
        tensors = values["inputs"] + values["outputs"]
        return [(each["name"], each["dtype"], each["shape"]) for each in tensors]

    assert described(write_vector_artifact(tmp_path / "out", "float16")) == [
        ("inputs_embeds", "float16", ["batch", "sequence", 4]),
        ("attention_mask", "int64", ["batch", "sequence"]),
        ("last_hidden_state", "float16", ["batch", "sequence", 4]),
    ]
    assert described(write_artifact(tmp_path / "last", logits="last")) == [
        ("input_ids", "int64", ["batch", "sequence"]),
        ("attention_mask", "int64", ["batch", "sequence"]),
        ("logits", "float32", ["batch", 1, 258]),
    ]
    assert read_manifest(tmp_path / "out").spec == SPEC


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_engine_takes_vectors_in_its_own_type(tmp_path: Path, dtype: DType) -> None:
    library, out = write_library(tmp_path), write_vector_artifact(tmp_path / "out", dtype)
    twin = write_vector_artifact(tmp_path / "twin") if dtype == "bfloat16" else out
    inputs = {"inputs_embeds": DATA_TYPES[dtype], "attention_mask": "INT64"}
    write_engine(out, library, file={"inputs": inputs, "model": str(twin / MODEL_NAME)})
    with open_fake(out, library, cuda_graphs=True) as model:
        for _ in range(3):  # the last one is a graph's
            got = model.run(VECTORS, MASK)["last_hidden_state"]
            np.testing.assert_array_equal(got, expected())
        with pytest.raises(InputError, match="inputs_embeds: got shape 5x8"):
            model.run(np.zeros((5, 8, 4)))


def test_vectors_on_a_gpu_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in(monkeypatch)
    with load(write_vector_artifact(tmp_path / "out"), provider="cuda") as model:
        got = model.run(GpuArray(VECTORS), GpuArray(MASK))["last_hidden_state"]
        np.testing.assert_array_equal(got, expected())
        assert ("device input", "inputs_embeds", VECTORS.ctypes.data) in gpu.log
        half = model.run(GpuArray(VECTORS.astype(np.float16)))["last_hidden_state"]
        np.testing.assert_array_equal(half, VECTORS + 1)
        for values, message in (
            (VECTORS.astype(np.float64), r"got tensor\(double\) on the GPU, expected float32 or float16"),
            (VECTORS[:, :, :3].copy(), r"shape \[2, 8, 3\], expected \[batch, sequence, 4\]"),
            (VECTORS[:, :7].copy(), "inputs_embeds: got 7 tokens"),
        ):
            with pytest.raises(InputError, match=message):
                model.run(GpuArray(values))


def test_ids_are_as_before() -> None:
    ids, mask = prepare_inputs(make_spec(), [[1], [2, 3]], None, 7)
    assert (ids.tolist(), mask.tolist()) == ([[1, 7], [2, 3]], [[1, 0], [1, 1]])
