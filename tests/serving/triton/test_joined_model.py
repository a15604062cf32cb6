"""Requests that run together, without a server: their answers are those that they have alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import load
from reformer_export.errors import InputError, ReformerExportError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.serving.triton import server
from reformer_export.serving.triton.joined_model import RequestRunner

LONGEST = 512


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Runtime]:
    with load(artifact, provider="cpu", threads=1) as opened:
        yield opened


def by_name(ids: Any, mask: Any = None) -> dict[str, Any]:
    return {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, Any, int | None]:
    """Ids and mask [rows, length] and a number of hashes; lengths crowd around the borders of chunks of 8."""
    near = st.sampled_from([1, 7, 8, 9, 15, 16, 17, 24, 25])
    rows, length = draw(st.integers(1, 3)), draw(near | st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.integers(0, 258, (rows, length))
    mask = None
    if draw(st.booleans()):
        mask = (np.arange(length) < rng.integers(1, length + 1, (rows, 1))).astype(np.int64)
    return ids, mask, draw(st.sampled_from([None, None, 1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=12))
def test_nobody_notices_the_company(model: Runtime, asked: list[tuple[Any, Any, int | None]]) -> None:
    runner = RequestRunner(model)
    answers = runner.answer([runner.check(by_name(*each[:2]), each[2]) for each in asked])
    for (ids, mask, rounds), answer in zip(asked, answers, strict=True):
        assert not isinstance(answer, ReformerExportError)
        assert np.array_equal(answer["logits"], model.run(ids, mask, rounds)["logits"])


@pytest.mark.parametrize(
    ("ids", "rounds", "words"),
    [
        ([[258]], None, "input_ids, row 0: got id 258"),
        ([[5] * 513], None, "513 tokens, expected at most 512"),
        ([[5]], 3, "num_hashes: got 3, expected a whole number from 1 to 2"),
        ([[5]], "2", "num_hashes: got '2', expected an integer"),
        ([[5]], True, "num_hashes: got True"),
        ([[]], None, "no token"),
    ],
)
def test_what_the_model_does_not_take(model: Runtime, ids: Any, rounds: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        RequestRunner(model).check(by_name(np.array(ids, np.int64)), rounds)


def test_a_row_that_fails_does_not_take_the_others_with_it(
    model: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an engine, which takes so many rows: here two, and none that begins with 13."""
    whole = model.run

    def run(inputs: Any, num_hashes: Any) -> Any:
        ids = inputs["input_ids"]
        if len(ids) > 2 or 13 in ids:
            raise RuntimeUnavailableError("rows", len(ids), "two")
        return whole(inputs, num_hashes=num_hashes)

    monkeypatch.setattr(model, "run", run)
    asked = [np.full((rows, 5), first) for rows, first in ((1, 3), (3, 13), (5, 5), (1, 6), (1, 7))]
    runner = RequestRunner(model)
    answers = runner.answer([runner.check(by_name(ids), 2) for ids in asked])
    assert isinstance(answers[1], RuntimeUnavailableError)
    for index in (0, 2, 3, 4):
        assert np.array_equal(answers[index]["logits"], whole(asked[index])["logits"])  # type: ignore[index]


# What the server tells


def arguments(parameter: str, kind: str = "CPU") -> dict[str, str]:
    config = f'{{"parameters": {{"runtime_options": {{"string_value": {parameter}}}}}}}'
    return {"model_config": config, "model_instance_kind": kind, "model_instance_device_id": "1"}


@pytest.mark.parametrize(
    ("parameter", "kind", "fields"),
    [
        ('"{}"', "CPU", {"provider": "cpu", "open_for": "generate"}),
        ('"{}"', "GPU", {"provider": "auto", "device_id": 1, "open_for": "generate"}),
        (r'"{\"provider\": \"cuda\"}"', "GPU", {"provider": "cuda", "device_id": 1, "open_for": "generate"}),
        (
            r'"{\"provider\": \"cpu\", \"threads\": 2}"',
            "GPU",
            {"provider": "cpu", "threads": 2, "open_for": "generate"},
        ),
        (r'"{\"runtime\": \"tensorrt\"}"', "GPU", {"runtime": "tensorrt", "device_id": 1}),
    ],
)
def test_the_server_chooses_the_device(parameter: str, kind: str, fields: Any) -> None:
    from reformer_export.runtimes import RuntimeOptions

    assert server.runtime_options(arguments(parameter, kind), "generate") == RuntimeOptions(**fields)


@pytest.mark.parametrize("parameter", ['"{"', '"[]"', "5", r'"{\"thread\": 2}"', r'"{\"threads\": \"2\"}"'])
def test_a_parameter_that_somebody_broke(parameter: str) -> None:
    with pytest.raises(InputError):
        server.runtime_options(arguments(parameter))


@pytest.mark.parametrize(
    ("numpy_version", "version", "fits"),
    [("2.1.0", "2.51.0", False), ("2.1.0", "2.52.0", True), ("1.26.4", "2.51.0", True), ("2.1.0", "", True)],
)
def test_a_numpy_that_ends_the_server_is_refused(
    numpy_version: str, version: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_SERVER_VERSION", version)
    monkeypatch.setattr(np, "__version__", numpy_version)
    if fits:
        server.check_numpy()
        return
    with pytest.raises(
        RuntimeUnavailableError, match=r"numpy: got 2\.1\.0 with Triton 2\.51\.0, expected below 2"
    ):
        server.check_numpy()
