from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.errors import InputError
from reformer_export.runtimes import load
from reformer_export.runtimes.generation import GenerationOptions
from tests.runtimes.artifacts import MAX_LENGTH, write_artifact


@pytest.fixture(params=["all", "last"])
def runtime(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return load(write_artifact(tmp_path / "out", logits=request.param), threads=1)


def greedy(**values: Any) -> dict[str, Any]:
    return {"temperature": 0, **values}


def test_each_token_follows_from_the_last(runtime: Any) -> None:
    generation = runtime.generate([5, 9], **greedy(max_new_tokens=4))
    assert generation.stop_reason is None
    assert list(generation) == [10, 11, 12, 13]
    assert (generation.ids, generation.stop_reason) == ([10, 11, 12, 13], "max_new_tokens")
    assert list(generation) == []


@pytest.mark.parametrize("eos", [12, [99, 12], np.int64(12)])
def test_the_end_token_stops_and_is_left_out(runtime: Any, eos: Any) -> None:
    generation = runtime.generate([9], **greedy(eos_token_id=eos))
    assert list(generation) == [10, 11]
    assert generation.stop_reason == "eos_token"


def test_the_greatest_length_stops(runtime: Any) -> None:
    generation = runtime.generate([9] * (MAX_LENGTH - 2), **greedy())
    assert list(generation) == [10, 11]
    assert generation.stop_reason == "max_length"
    full = runtime.generate([9] * MAX_LENGTH, **greedy())
    assert list(full) == []
    assert full.stop_reason == "max_length"


@pytest.mark.parametrize(
    ("config", "generation_config", "expected"),
    [
        ({"eos_token_id": 12}, None, [10, 11]),
        ({"eos_token_id": 12}, {"eos_token_id": [11, 13]}, [10]),
        ({"eos_token_id": 12}, {"eos_token_id": None}, [10, 11, 12, 13]),
        ({"eos_token_id": 9999}, {}, [10, 11, 12, 13]),
        ({}, None, [10, 11, 12, 13]),
    ],
)
def test_the_end_token_comes_from_the_config(
    tmp_path: Path, config: Any, generation_config: Any, expected: list[int]
) -> None:
    files = {"config.json": json.dumps(config).encode()}
    if generation_config is not None:
        files["generation_config.json"] = json.dumps(generation_config).encode()
    runtime = load(write_artifact(tmp_path / "out", files=files))
    assert list(runtime.generate([9], **greedy(max_new_tokens=4))) == expected


def test_no_end_token_overrides_the_config(tmp_path: Path) -> None:
    runtime = load(write_artifact(tmp_path / "out", files={"config.json": b'{"eos_token_id": 11}'}))
    assert list(runtime.generate([9], **greedy(max_new_tokens=3, eos_token_id=()))) == [10, 11, 12]


def test_a_seed_gives_one_text_and_another_seed_another(tmp_path: Path) -> None:
    table = np.zeros((258, 258), np.float32)
    runtime = load(write_artifact(tmp_path / "out", table=table), threads=1)
    first, again, other = (list(runtime.generate([9], max_new_tokens=20, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_text_prompts_give_text(runtime: Any) -> None:
    generation = runtime.generate("abc", temperature=0, max_new_tokens=3)
    assert "".join(generation.pieces()) == "def"
    assert (str(generation), generation.text) == ("def", "def")
    assert runtime.generate("abc", temperature=0, max_new_tokens=3).text == "def"


def test_text_holds_back_unfinished_characters(tmp_path: Path) -> None:
    snowman = [byte + 2 for byte in "☃".encode()]
    table = np.zeros((258, 258), np.float32)
    for token, following in zip((99, *snowman), (*snowman, 99), strict=True):
        table[token, following] = 9
    runtime = load(write_artifact(tmp_path / "out", table=table))
    generation = runtime.generate("a", temperature=0, max_new_tokens=6)
    assert list(generation.pieces()) == ["☃", "a", "�"]
    assert generation.text == "☃a�"


def test_ids_are_continued_by_text_where_the_model_has_one(tmp_path: Path) -> None:
    runtime = load(write_artifact(tmp_path / "bytes"))
    assert runtime.generate([99], **greedy(max_new_tokens=3)).text == "bcd"
    without = load(write_artifact(tmp_path / "none", vocab_size=50)).generate([9], **greedy(max_new_tokens=1))
    with pytest.raises(InputError, match=r"no tokenizer\.json and 50 ids\), .*; give token ids"):
        _ = without.text
    assert list(without) == [10]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no token"), ("", "no token"), ([1] * (MAX_LENGTH + 1), "got 65 tokens, expected at most 64")],
)
def test_prompts_that_do_not_fit_are_refused(runtime: Any, prompt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        runtime.generate(prompt)


def test_a_prompt_outside_the_vocabulary_is_refused(runtime: Any) -> None:
    with pytest.raises(InputError, match="id 258"):
        next(runtime.generate([258]))


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    runtime = load(write_artifact(tmp_path / "out", "fill-mask"))
    with pytest.raises(InputError, match="got an artifact for fill-mask, expected text-generation"):
        runtime.generate([5])


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"seed": -1}, {"seed": 1.5}, {"top_k": -1}])
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        GenerationOptions(**values)


@pytest.mark.parametrize("eos", ["x", b"x", "12", 1.5, [1, "x"], [True], [[1]], -1, {"a": 1}])
def test_end_tokens_are_ids(runtime: Any, eos: Any) -> None:
    with pytest.raises(InputError, match=r"^eos_token_id: got .*expected an integer from 0 up"):
        runtime.generate([9], eos_token_id=eos)


@pytest.mark.parametrize(
    ("prompt", "got"),
    [
        (b"abc", "bytes"),
        (bytearray(b"abc"), "bytearray"),
        (memoryview(b"abc"), "memoryview"),
        (["a", "b"], "texts"),
        ([5, True, 7], "booleans among the integers"),
        ([True, False], "booleans"),
        ([5.0], "float64 values"),
        ([[5, 6]], "shape [1, 2]"),
        (np.ones((1, 2), np.int64), "shape [1, 2]"),
        (5, "int"),
        (None, "NoneType"),
        ({5, 6}, "set"),
        (iter([5]), "list_iterator"),
    ],
)
def test_a_prompt_is_text_or_ids(runtime: Any, prompt: Any, got: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"^prompt: got {re.escape(got)}, expected .*token ids .*generate_many",
    ):
        runtime.generate(prompt)


def test_ids_of_any_integer_type_are_a_prompt(runtime: Any) -> None:
    for prompt in ([5, 9], (5, 9), np.array([5, 9], np.int32), range(5, 10, 4), [np.int64(5), 9]):
        assert list(runtime.generate(prompt, **greedy(max_new_tokens=2))) == [10, 11]
