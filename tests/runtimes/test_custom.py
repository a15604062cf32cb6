"""Modules of a user's own: inputs and outputs by the names, types and shapes that the manifest lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer_export.artifact.engine_record import EngineProfile
from reformer_export.artifact.signature import GraphTensor, Signature
from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes import load
from reformer_export.spec import DType
from tests.runtimes.artifacts import custom_inputs, custom_outputs, write_artifact, write_custom_artifact
from tests.runtimes.cuda_stand_in import GpuArray, stand_in
from tests.runtimes.tensorrt.engines import DATA_TYPES, open_fake, write_engine, write_library

INPUTS = custom_inputs(2, 5)


def assert_equal(got: Any, expected: Any) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        assert (got[name].dtype, got[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(got[name], values)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_onnxruntime_runs_it_by_name(tmp_path: Path, dtype: DType) -> None:
    with load(write_custom_artifact(tmp_path / "out", dtype), provider="cpu") as model:
        for rows, time in ((2, 5), (1, 2), (3, 48)):
            inputs = custom_inputs(rows, time)
            assert_equal(model.run(inputs), custom_outputs(inputs))
        other_kinds = {
            "series": torch.tensor(INPUTS["series"]),
            "context": INPUTS["context"].astype(np.float64)[:, ::-1],
            "station": INPUTS["station"].tolist(),
        }
        assert_equal(model.run(other_kinds), custom_outputs(INPUTS))
        if dtype == "float16":
            assert model.run(INPUTS, dtype="float16")["forecast"].dtype == np.float16


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_engine_runs_it_by_name(tmp_path: Path, dtype: DType) -> None:
    library, out = write_library(tmp_path), write_custom_artifact(tmp_path / "out", dtype)
    floats = DATA_TYPES[dtype]
    inputs = {"series": floats, "context": "FLOAT", "station": "INT32"}
    outputs = {"forecast": floats, "known": "BOOL"}
    file = {"inputs": inputs, "outputs": outputs, "dimensions": ["batch", "time"]}
    profiles = (EngineProfile((1, 2), (1, 5), (2, 8)), EngineProfile((1, 2), (2, 40), (4, 48)))
    write_engine(out, library, profiles=profiles, file=file)
    with open_fake(out, library, cuda_graphs=True) as model:
        for rows, time in ((2, 5), (2, 5), (2, 5), (1, 40), (3, 8)):
            given = custom_inputs(rows, time)
            assert_equal(model.run(given), custom_outputs(given))
        with pytest.raises(InputError, match="series: got shape 5x8, expected one within a profile"):
            model.run(custom_inputs(5, 8))
    write_engine(out, library, profiles=profiles, file=file | {"outputs": outputs | {"known": "INT32"}})
    with pytest.raises(ArtifactError, match=r"known of type .*INT32, expected .*BOOL"):
        open_fake(out, library)
    write_engine(out, library, profiles=profiles[:1], file=file | {"dimensions": ["time", "batch"]})
    with pytest.raises(ArtifactError, match=r"series of shape .*, expected .* with batch from 1, time"):
        open_fake(out, library)


def test_outputs_need_no_rows(tmp_path: Path) -> None:
    with load(write_custom_artifact(tmp_path / "out", has_rows=False), provider="cpu") as model:
        assert_equal(model.run(INPUTS), custom_outputs(INPUTS, has_rows=False))
        assert model.manifest.signature.batch is None


def test_inputs_on_a_gpu_are_read_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in(monkeypatch)
    with load(write_custom_artifact(tmp_path / "out"), provider="cuda") as model:
        given = {name: GpuArray(values) for name, values in INPUTS.items()}
        assert_equal(model.run(given), custom_outputs(INPUTS))
        assert ("device input", "series", INPUTS["series"].ctypes.data) in gpu.log
        stay = model.run(given, device="cuda")
        assert {name: value.dtype for name, value in stay.items()} == {"forecast": "float32", "known": "bool"}
        for change, message in (
            ({"station": GpuArray(np.ones(2, np.int64))}, r"tensor\(int64\) on the GPU, expected int32"),
            ({"station": GpuArray(np.ones(3, np.int32))}, "station: .* with batch = 2, as in series"),
            ({"station": INPUTS["station"]}, "series: got an array on a GPU, and station on the host"),
        ):
            with pytest.raises(InputError, match=message):
                model.run({**given, **change})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one is missing": ({"context": None}, "context: got none, expected it; give it"),
    "one more": ({"mask": [1]}, "inputs: got 'mask', expected of series, context, station"),
    "an axis": ({"context": np.ones(2)}, r"context: got shape \[2\], expected \[batch, 2\]; reshape it"),
    "a number": ({"context": np.ones((2, 3))}, r"context: got shape \[2, 3\], expected \[batch, 2\]"),
    "rows": ({"station": [1]}, r"station: got shape \[1\], expected \[batch\] with batch = 2, as in series"),
    "none": ({"series": np.ones((2, 0, 3))}, r"series: got shape \[2, 0, 3\]"),
    "too long": (
        {"series": np.ones((2, 49, 3))},
        "with batch from 1, time from 2 to 48; give another time",
    ),
    "too short": ({"series": np.ones((2, 1, 3))}, "time from 2 to 48"),
    "floats": ({"station": [1.0, 2.0]}, r"float64 of shape \[2\], expected an array of int32 \[batch\]"),
    "integers": ({"context": np.ones((2, 2), int)}, "int64 of shape .*, expected an array of float32"),
    "truth": ({"station": [True, False]}, "bool of shape"),
    "a wide integer": ({"station": [2**31, 1]}, "station: got 2147483648, expected numbers that int32 has"),
    "a wide float": ({"context": np.full((2, 2), 1e39)}, r"got 1e\+39, expected numbers that float32 has"),
    "no array": ({"context": "abc"}, "context: got <U3"),
    "ragged": ({"context": [[1.0], [1.0, 2.0]]}, "context: got '"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with load(write_custom_artifact(tmp_path_factory.mktemp("custom") / "out"), provider="cpu") as opened:
        yield opened


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_it_runs(model: Any, name: str) -> None:
    changes, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        model.run({**INPUTS, **changes})


def test_what_only_sequences_have(model: Any, tmp_path: Path) -> None:
    for call in (
        lambda: model.run(INPUTS["series"]),
        lambda: model.run(),
        lambda: model.run(inputs_embeds=INPUTS["series"]),
    ):
        with pytest.raises(InputError, match=r"inputs: got .*, expected a mapping with series, context"):
            call()
    with pytest.raises(InputError, match="attention_mask: got it beside inputs by name"):
        model.run(INPUTS, [[1]])
    for call in (lambda: model.generate([1]), lambda: model.generate("a"), lambda: model.start_decoding()):
        with pytest.raises(InputError):
            call()
    with load(write_artifact(tmp_path / "words"), provider="cpu") as words:
        by_name = words.run({"input_ids": [[5, 6]], "attention_mask": [[1, 1]]})["logits"]
        np.testing.assert_array_equal(by_name, words.run([[5, 6]])["logits"])


def test_what_is_not_finite_goes_in_as_it_is(model: Any) -> None:
    series = np.full((2, 5, 3), -np.inf)
    got = model.run({**INPUTS, "series": series})["forecast"]
    np.testing.assert_array_equal(got, series)


def test_rows_lie_along_one_dimension_of_everything() -> None:
    def batch(*shapes: tuple[int | str, ...]) -> str | None:
        tensors = [GraphTensor(str(i), "float32", shape) for i, shape in enumerate(shapes)]
        return Signature(tuple(tensors[:-1]), tuple(tensors[-1:])).batch

    assert batch(("b", "t"), ("b",), ("b", 3)) == "b"
    assert batch(("n", 3), ("n",)) == "n"
    for shapes in (
        (("b", "t"), ("t", "b")),
        (("b", "b"), ("b",)),
        (("b", "t"), ()),
        ((1, "t"), (1, "t")),
        (("b", "t"), (1, "t")),
        (("b",), ("2*b",)),
    ):
        assert batch(*shapes) is None
