"""Generating by steps: the same loop written by hand, several prompts at once, refreshes, what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import GenerationOptions
from reformer_export.runtimes.sampling import sample_token
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.decoders import LONGEST, NATIVE_MODES, decoding_artifact, draw_ids

PROMPTS = [draw_ids(3 + 7 * i, seed=i) for i in range(7)]


@pytest.fixture(scope="module")
def model() -> Iterator[Runtime]:
    with load(decoding_artifact(), native=NATIVE_MODES[-1], threads=1, open_for="generate") as opened:
        yield opened


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """An artifact without decode.onnx, whose next token is the last one's next."""
    with load(write_artifact(tmp_path_factory.mktemp("without") / "out"), threads=1) as opened:
        yield opened


def generate_by_hand(model: Runtime, prompt: list[int], options: GenerationOptions, count: int) -> list[int]:
    """`count` tokens, each drawn from what the state says."""
    rng, found = np.random.default_rng(options.seed), []
    with model.start_decoding(options.num_hashes) as state:
        key = state.add(prompt)
        for index in range(1, count + 1):
            found.append(sample_token(state.logits(key), options, rng))
            state.step({key: found[-1]})
            if options.refresh and index % options.refresh == 0:
                state.refresh(key)
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("refresh", [0, 1, 4])
def test_it_is_the_loop_by_hand(model: Runtime, temperature: float, refresh: int) -> None:
    options = GenerationOptions(temperature=temperature, seed=3, refresh=refresh)
    expected = generate_by_hand(model, PROMPTS[1], options, 30)
    fields: dict[str, Any] = {"temperature": temperature, "seed": 3, "refresh": refresh, "eos_token_id": ()}
    generation = model.generate(PROMPTS[1], max_new_tokens=30, **fields)
    assert list(generation) == generation.ids == expected
    assert (generation.has_cache, generation.stop_reason) == (True, "max_new_tokens")


def test_refreshing_at_every_token_is_the_whole_pass(model: Runtime) -> None:
    fields: dict[str, Any] = {"max_new_tokens": 40, "seed": 1, "eos_token_id": ()}
    whole = model.generate(PROMPTS[2], cache="off", **fields)
    assert list(whole) == list(model.generate(PROMPTS[2], refresh=1, **fields))
    assert not whole.has_cache


def test_the_end_token_and_the_longest_sequence_stop(model: Runtime) -> None:
    ids = list(model.generate(PROMPTS[0], temperature=0, eos_token_id=(), max_new_tokens=200))
    assert len(PROMPTS[0]) + len(ids) == LONGEST
    end = ids[5]
    generation = model.generate(PROMPTS[0], temperature=0, eos_token_id=end)
    assert list(generation) == ids[: ids.index(end)]
    assert generation.stop_reason == "eos_token"


def test_text_is_continued_in_pieces(model: Runtime) -> None:
    whole = model.generate("In the", max_new_tokens=9, eos_token_id=())
    assert "".join(model.generate("In the", max_new_tokens=9, eos_token_id=()).pieces()) == whole.text


def test_a_step_that_failed_can_be_asked_for_again(model: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(model.generate(PROMPTS[1], max_new_tokens=9, eos_token_id=()))
    generation = model.generate(PROMPTS[1], max_new_tokens=9, eos_token_id=())
    found = [next(generation), next(generation)]
    state = generation._state
    assert state is not None
    with monkeypatch.context() as broken:
        broken.setattr(type(state), "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(generation)
    assert [*found, *generation] == expected


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("refresh", [0, 5])
def test_several_are_each_as_alone(model: Runtime, batch_size: int, refresh: int) -> None:
    """In order, some ended by a token and some by the longest sequence; of prompt i the seed is seed + i."""
    fields: dict[str, Any] = {"max_new_tokens": 60, "eos_token_id": (7, 80, 120), "refresh": refresh}
    alone = [model.generate(prompt, seed=5 + i, **fields) for i, prompt in enumerate(PROMPTS)]
    texts = [list(generation) for generation in alone]
    together = model.generate_many(iter(PROMPTS), batch_size=batch_size, seed=5, **fields)
    found = list(together)
    assert [generation.ids for generation in found] == texts
    assert [generation.prompt_ids for generation in found] == [tuple(prompt) for prompt in PROMPTS]
    assert [generation.stop_reason for generation in found] == [each.stop_reason for each in alone]
    assert len({generation.stop_reason for generation in found}) > 1
    assert together.cost.prompt_tokens == sum(map(len, PROMPTS))
    assert list(together) == []


def test_generations_come_before_all_prompts_were_read(model: Runtime) -> None:
    read: list[int] = []

    def prompts() -> Iterator[list[int]]:
        for index in range(50):
            read.append(index)
            yield PROMPTS[index % 3]

    together = model.generate_many(prompts(), batch_size=2, max_new_tokens=3, eos_token_id=())
    assert len(next(together).ids) == 3
    assert len(read) <= 4


def test_without_the_graph_they_come_one_after_the_other(without: Runtime) -> None:
    found = list(without.generate_many([[5], "abc", [9]], temperature=0, max_new_tokens=2))
    assert [generation.ids for generation in found] == [[6, 7], [102, 103], [10, 11]]
    assert [generation.tokenizer is not None for generation in found] == [False, True, False]
    assert not any(generation.has_cache for generation in found)


@pytest.mark.parametrize("wrong", [[], "", [258], [5] * (LONGEST + 1), 5])
def test_a_refused_prompt_comes_after_those_before_it(model: Runtime, wrong: Any) -> None:
    together = model.generate_many([PROMPTS[0], PROMPTS[1], wrong, PROMPTS[2]], max_new_tokens=4)
    assert [len(next(together).ids) for _ in range(2)] == [4, 4]
    with pytest.raises(InputError, match="prompt"):
        next(together)
    with pytest.raises(StopIteration):
        next(together)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cache": "on"}, "decoding: got .*out without decode.onnx, expected an artifact with it; export"),
        ({"refresh": 3}, "refresh: got 3 without a cache, expected 0; leave it out"),
        ({"cache": "yes"}, "cache: got 'yes', expected one of auto, on, off"),
        ({"refresh": -1}, "refresh: got -1, expected an integer from 0 up"),
        ({"refresh": 1.5}, "refresh: got 1.5, expected an integer from 0 up"),
    ],
)
def test_what_there_is_not_is_refused_at_once(without: Runtime, fields: Any, message: str) -> None:
    for call in (without.generate, lambda prompt, **given: without.generate_many([prompt], **given)):
        with pytest.raises(InputError, match=rf"^{message}"):
            call([5], **fields)


def test_a_refresh_needs_the_cache(model: Runtime) -> None:
    with pytest.raises(InputError, match="refresh: got 3 without a cache"):
        model.generate([5], cache="off", refresh=3)
    with pytest.raises(InputError, match="batch_size: got 0, expected an integer from 1 up"):
        model.generate_many([[5]], batch_size=0)


def test_what_it_costs_is_counted(model: Runtime) -> None:
    generation = model.generate(PROMPTS[3], max_new_tokens=20, eos_token_id=())
    assert generation.cost.prompt_tokens_per_second is None
    list(generation)
    cost = generation.cost
    assert (cost.prompt_tokens, cost.step_tokens) == (len(PROMPTS[3]), 19)
    assert cost.prompt_tokens_per_second == cost.prompt_tokens / cost.prompt_seconds
    assert cost.step_tokens_per_second == cost.step_tokens / cost.step_seconds
    with model.start_decoding() as state:
        state.add(PROMPTS[3])
        assert cost.cache_bytes == state.nbytes
    assert generation._state is None
