"""Models whose inputs are not ids in a Triton repository: configurations, requests that run together, and a
real tritonserver."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from reformer_export import load, write_triton_repository
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.serving.triton.inspection import inspect_repository
from reformer_export.serving.triton.joined_model import RequestRunner
from tests.runtimes.artifacts import custom_inputs, custom_outputs
from tests.serving.triton.server import Server
from tests.serving.triton.test_config import kind_of, read_config

ROWS = [
    ("series", "TYPE_FP32", [-1, 3], False),
    ("context", "TYPE_FP32", [2], False),
    ("station", "TYPE_INT32", [1], True),
]


def describe(tensors: Any) -> list[tuple[str, str, list[int], bool]]:
    return [(each.name, kind_of(each), list(each.dims), each.HasField("reshape")) for each in tensors]


@pytest.mark.parametrize(("backend", "series"), [("python", "TYPE_FP32"), ("onnxruntime", "TYPE_BF16")])
def test_a_custom_module_has_its_own_names(
    named_artifacts: Path, tmp_path: Path, backend: Any, series: str
) -> None:
    more: Any = {"provider": "cuda", "native": "off"} if backend == "onnxruntime" else {}
    write_triton_repository(named_artifacts / "custom", tmp_path / "R", backend=backend, **more)
    config = read_config(tmp_path / "R")
    assert config.max_batch_size == 16
    assert describe(config.input) == [(ROWS[0][0], series, *ROWS[0][2:]), *ROWS[1:]]
    assert describe(config.output) == [
        ("forecast", series, [-1, 3], False),
        ("known", "TYPE_BOOL", [1], True),
    ]
    assert {each.allow_ragged_batch for each in config.input} == {backend == "python"}
    assert not config.model_warmup
    assert not inspect_repository(tmp_path / "R").problem
    readme = (tmp_path / "R" / "README.md").read_text(encoding="utf-8")
    for words in ("[batch, time, 3]", "`--max-batch-size 1`", "`station` and `known` as [rows, 1]"):
        assert words in readme


def test_without_rows_nothing_is_joined(named_artifacts: Path, tmp_path: Path) -> None:
    write_triton_repository(named_artifacts / "rowless", tmp_path / "R")
    config = read_config(tmp_path / "R")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert describe(config.input)[2] == ("station", "TYPE_INT32", [-1], False)
    assert describe(config.output)[1] == ("known", "TYPE_BOOL", [1], False)
    with pytest.raises(InputError, match="known without a dimension, expected one at least"):
        write_triton_repository(
            named_artifacts / "rowless", tmp_path / "S", backend="onnxruntime", native="off"
        )


def test_vectors_have_their_width_and_a_mask(named_artifacts: Path, tmp_path: Path) -> None:
    for backend, kind in (("python", "TYPE_FP32"), ("onnxruntime", "TYPE_FP16")):
        fields: Any = {"backend": backend, "name": backend, "native": "off"}
        repository = write_triton_repository(named_artifacts / "vectors", tmp_path / backend, **fields)
        config = read_config(repository.folder, backend)
        assert describe(config.input) == [
            ("inputs_embeds", kind, [-1, 4], False),
            ("attention_mask", "TYPE_INT64", [-1], False),
        ]
        assert [each.optional for each in config.input] == [False, backend == "python"]
        assert describe(config.output) == [("last_hidden_state", kind, [-1, 4], False)]
        assert list(config.model_warmup[0].inputs["inputs_embeds"].dims) == [1, 4]
        readme = (repository.folder / "README.md").read_text(encoding="utf-8")
        assert "tritonclient.http.InferInput" in readme
        assert "input_ids" not in readme


@pytest.fixture(scope="module")
def model(named_artifacts: Path) -> Iterator[Runtime]:
    with load(named_artifacts / "custom", provider="cpu") as opened:
        yield opened


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(2, 5)), min_size=1, max_size=9), st.integers(1, 8))
def test_each_request_gets_its_own_answer(model: Runtime, shapes: list[tuple[int, int]], most: int) -> None:
    """Also where no more than `most` rows run at once, as on an engine."""

    class Limited:
        manifest, config, num_hashes, max_length = model.manifest, model.config, None, model.max_length
        runs = 0

        def run(self, inputs: Any, num_hashes: Any) -> Any:
            if len(inputs["station"]) > most:
                raise RuntimeUnavailableError("rows", len(inputs["station"]), most)
            self.runs += 1
            return model.run(inputs, num_hashes=num_hashes)

    limited: Any = Limited()
    runner = RequestRunner(limited)
    asked = [custom_inputs(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    answers = runner.answer([runner.check(arrays) for arrays in asked])
    for arrays, answer in zip(asked, answers, strict=True):
        assert isinstance(answer, dict)
        for name, values in custom_outputs(arrays).items():
            np.testing.assert_array_equal(answer[name], values)
    if most >= sum(rows for rows, _ in shapes):
        assert limited.runs == len({time for _, time in shapes})


def ask(client: Any, model: str, arrays: dict[str, Any]) -> Any:
    inputs = []
    for name, values in arrays.items():
        inputs.append(
            tritonclient.http.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        )
        inputs[-1].set_data_from_numpy(values)
    return client.infer(model, inputs)


@pytest.mark.slow
def test_a_real_server_answers_by_name(server: Server) -> None:
    with tritonclient.http.InferenceServerClient(server.http) as client:
        for seed, (rows, time) in enumerate([(1, 2), (3, 5), (2, 48)]):
            arrays = custom_inputs(rows, time, seed)
            shown = arrays | {"station": arrays["station"][:, None]}  # Triton has no tensors of rows alone
            answer = ask(client, "custom", shown)
            expected = custom_outputs(arrays)
            np.testing.assert_array_equal(answer.as_numpy("forecast"), expected["forecast"])
            np.testing.assert_array_equal(answer.as_numpy("known"), expected["known"][:, None])
            answer = ask(client, "rowless", arrays)
            expected = custom_outputs(arrays, has_rows=False)
            np.testing.assert_array_equal(answer.as_numpy("forecast"), expected["forecast"])
            np.testing.assert_array_equal(answer.as_numpy("known"), expected["known"][None])
        vectors = np.arange(2 * 8 * 4, dtype=np.float32).reshape(2, 8, 4) / 8
        answer = ask(client, "vectors", {"inputs_embeds": vectors})
        np.testing.assert_array_equal(answer.as_numpy("last_hidden_state"), vectors + 1)
        with pytest.raises(InferenceServerException, match="time from 2 to 48"):
            ask(client, "rowless", custom_inputs(1, 49))
