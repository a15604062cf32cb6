"""How many rounds of hashing a run uses: bounds, defaults, artifacts without the choice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reformer_export.artifact.manifest import MODEL_NAME, RuntimeNumHashes, write_manifest
from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes import load
from reformer_export.runtimes.ort_binding import BoundSession
from tests.runtimes.artifacts import make_manifest, make_model, make_spec, write_artifact
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library

MAX_HASHES = 2


def write_choice_artifact(folder: Path, *, has_input: bool = True) -> Path:
    """An artifact whose logits are multiplied by the number of hashes, so that they tell it."""
    folder.mkdir()
    spec = make_spec()
    model = make_model(spec)
    if has_input:
        count = helper.make_tensor_value_info("num_hashes", TensorProto.INT64, [1])
        model.graph.input.append(count)
        model.graph.initializer.append(numpy_helper.from_array(np.array([MAX_HASHES]), "num_hashes"))
        model.graph.node[-1].output[0] = "once"
        model.graph.node.append(helper.make_node("Cast", ["num_hashes"], ["count"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("Mul", ["once", "count"], ["logits"]))
    onnx.save(model, str(folder / MODEL_NAME))
    manifest = make_manifest(folder, spec, "float32", (MODEL_NAME,))
    write_manifest(folder, dataclasses.replace(manifest, runtime_num_hashes=RuntimeNumHashes(MAX_HASHES)))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_choice_artifact(tmp_path / "choice")


def hashes_of(outputs: dict[str, Any]) -> float:
    """The count that a run of the token 5 used: its logit of the next token is 4 times that."""
    return float(outputs["logits"][0, 0, 6]) / 4


def test_all_rounds_unless_told_otherwise(out: Path) -> None:
    with load(out) as model:
        assert model.num_hashes == MAX_HASHES
        assert hashes_of(model.run([[5]])) == MAX_HASHES
        assert hashes_of(model.run([[5]], num_hashes=1)) == 1
        assert hashes_of(model.run([[5]], num_hashes=np.int64(2))) == 2
        assert hashes_of(model.run([[5]])) == MAX_HASHES


def test_an_artifact_is_opened_with_its_count(out: Path) -> None:
    with load(out, num_hashes=1) as model:
        assert model.num_hashes == 1
        assert hashes_of(model.run([[5]])) == 1
        assert hashes_of(model.run([[5]], num_hashes=2)) == 2


@pytest.mark.parametrize("count", [0, -1, MAX_HASHES + 1, 2**70, True, 1.0, "1"])
def test_another_count_never_reaches_the_graph(out: Path, count: Any) -> None:
    message = f"num_hashes: got {count!r}, expected a whole number from 1 to {MAX_HASHES}"
    with load(out) as model:
        with mock.patch.object(BoundSession, "run") as run:
            with pytest.raises(InputError, match=message):
                model.run([[5]], num_hashes=count)
            run.assert_not_called()
        with pytest.raises(InputError, match=message):
            model.generate([5], num_hashes=count)
    with pytest.raises(InputError, match=message):
        load(out, num_hashes=count)


def test_a_generation_keeps_its_count(out: Path) -> None:
    with load(out) as model, mock.patch.object(model, "run", wraps=model.run) as run:
        assert list(model.generate([5], num_hashes=1, temperature=0, max_new_tokens=3)) == [6, 7, 8]
        assert [call.kwargs for call in run.call_args_list] == [{"num_hashes": 1}] * 3
        assert list(model.generate([5], temperature=0, max_new_tokens=1)) == [6]
        assert run.call_args.kwargs == {"num_hashes": None}


def test_a_fixed_artifact_says_how_to_get_the_choice(tmp_path: Path) -> None:
    fixed = write_artifact(tmp_path / "fixed")
    message = r"got 2 for an artifact with 2 hashes built in, expected none; .*`max_hashes`"
    with load(fixed) as model:
        assert model.num_hashes is None
        with pytest.raises(InputError, match=message):
            model.run([[5]], num_hashes=2)
        with pytest.raises(InputError, match=message):
            model.generate([5], num_hashes=2)
    with pytest.raises(InputError, match=message):
        load(fixed, num_hashes=2)


def test_a_file_without_the_input_is_refused(tmp_path: Path) -> None:
    out = write_choice_artifact(tmp_path / "choice", has_input=False)
    with pytest.raises(ArtifactError, match="expected num_hashes int64"):
        load(out)


def test_an_engine_has_its_hashes_built_in(tmp_path: Path) -> None:
    out, library = write_artifact(tmp_path / "out"), write_library(tmp_path)
    write_engine(out, library)
    with (
        open_fake(out, library) as model,
        pytest.raises(InputError, match="2 hashes built in"),
    ):
        model.run([[5]], num_hashes=1)
    with pytest.raises(InputError, match="num_hashes: got 1 for an artifact with 2 hashes built in"):
        load(out, runtime="tensorrt-rtx", num_hashes=1)
