"""Generations that step together, without a server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.generation import Generation
from reformer_export.serving.triton import generation_loop
from reformer_export.serving.triton.generate_model import start_generation
from reformer_export.serving.triton.generation_loop import GenerationLoop


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Runtime]:
    with load(artifact, provider="cpu", threads=1, open_for="generate") as opened:
        yield opened


@pytest.fixture
def loop(model: Runtime) -> Iterator[GenerationLoop]:
    running = GenerationLoop(model, 3)
    yield running
    running.close()


class Listener:
    """Whoever waits for a generation; leaves after `patience` tokens."""

    def __init__(self, generation: Generation, patience: int = 10**6) -> None:
        self.generation = generation
        self.tokens: list[int] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._patience = patience

    def is_cancelled(self) -> bool:
        return len(self.tokens) >= self._patience

    def send(self, token: int | None) -> None:
        assert not self.ended.is_set()
        self.tokens += [] if token is None else [token]
        if self.generation.stop_reason is not None:
            self.ended.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.ended.set()

    def drop(self) -> None:
        self.ended.set()


def listen(
    loop: GenerationLoop, model: Runtime, prompt: Any, patience: int = 10**6, **options: Any
) -> Listener:
    listener = Listener(model.generate(prompt, **options), patience)
    loop.submit(listener)
    return listener


def wait(*listeners: Listener) -> None:
    for each in listeners:
        assert each.ended.wait(30)


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_tokens_are_those_of_each_generation_alone(loop: GenerationLoop, model: Runtime, cache: str) -> None:
    rng = random.Random(cache)
    asked = []
    for seed in range(7):
        prompt = [rng.randrange(258) for _ in range(rng.choice((1, 5, 60, 512)))]
        options = {
            "seed": seed,
            "max_new_tokens": rng.randint(1, 12),
            "num_hashes": rng.choice((None, 1)),
            "cache": cache,
        }
        options |= {
            "eos_token_id": [rng.randrange(258) for _ in range(30)],
            "refresh": 3 if cache == "auto" else 0,
        }
        asked.append((prompt, options))
    listeners = [listen(loop, model, prompt, **options) for prompt, options in asked]
    wait(*listeners)
    for (prompt, options), listener in zip(asked, listeners, strict=True):
        alone = model.generate(prompt, **options)
        assert listener.tokens == list(alone)
        assert listener.generation.stop_reason == alone.stop_reason


def test_one_that_left_makes_room(loop: GenerationLoop, model: Runtime) -> None:
    leaving = [listen(loop, model, [5], 4, max_new_tokens=500, eos_token_id=()) for _ in range(3)]
    staying = listen(loop, model, [6], max_new_tokens=5, eos_token_id=())
    wait(*leaving, staying)
    assert [len(each.tokens) for each in leaving] == [4, 4, 4]
    assert len(staying.tokens) == 5
    gone = listen(loop, model, [6], 0)
    wait(gone)
    assert gone.tokens == []


def test_one_that_cannot_be_told_harms_nobody(loop: GenerationLoop, model: Runtime) -> None:
    """A client that is gone, at any moment: what tells it raises."""

    class Broken(Listener):
        def send(self, token: int | None) -> None:
            super().send(token)
            if len(self.tokens) == 2:
                raise RuntimeError("no stream")

        def drop(self) -> None:
            self.ended.set()
            raise RuntimeError("no stream")

    class Gone(Broken):
        def is_cancelled(self) -> bool:
            raise RuntimeError("no stream")

    good = listen(loop, model, [5], max_new_tokens=9, eos_token_id=())
    others = [kind(model.generate([6], max_new_tokens=50, eos_token_id=())) for kind in (Broken, Gone)]
    for each in others:
        loop.submit(each)
    wait(good, *others)
    assert len(good.tokens) == 9
    assert [len(each.tokens) for each in others] == [2, 0]


def test_a_prompt_that_is_refused_harms_nobody(loop: GenerationLoop, model: Runtime) -> None:
    good = listen(loop, model, [5], max_new_tokens=9, eos_token_id=())
    bad = listen(loop, model, [5, 258])
    wait(good, bad)
    assert isinstance(bad.error, InputError)
    assert len(good.tokens) == 9


def test_a_step_that_fails_ends_those_in_it_and_no_later_one(
    loop: GenerationLoop, model: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(DecodingState, "step", fail)
        listeners = [listen(loop, model, [5], max_new_tokens=9, eos_token_id=()) for _ in range(2)]
        wait(*listeners)
    assert [type(each.error) for each in listeners] == [MemoryError, MemoryError]
    after = listen(loop, model, [5], max_new_tokens=2, eos_token_id=())
    wait(after)
    assert after.error is None


def test_its_end_is_the_end_of_all(model: Runtime) -> None:
    loop = GenerationLoop(model, 2)
    listeners = [listen(loop, model, [5], max_new_tokens=500, eos_token_id=()) for _ in range(4)]
    loop.close()
    wait(*listeners)
    assert all(isinstance(each.error, RuntimeUnavailableError) for each in listeners)
    with pytest.raises(RuntimeUnavailableError, match="a server that ends"):
        listen(loop, model, [5])


def test_too_many_that_wait_are_refused(model: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_loop, "MAX_WAITING", 2)
    loop = GenerationLoop(model, 1)
    refusal = ""
    for _ in range(20):
        try:
            listen(loop, model, [5], max_new_tokens=500, eos_token_id=())
        except RuntimeUnavailableError as error:
            refusal = str(error)
            break
    loop.close()
    assert "2 that wait, expected a free place" in refusal


# What a request says


def texts(value: bytes) -> Any:
    return np.array([value], np.object_)


def test_inputs_become_a_generation(model: Runtime) -> None:
    values = {
        "text_input": texts("ä b".encode()),
        "temperature": np.array([0.7]),
        "top_k": np.array([4]),
        "eos_token_id": np.array([3, 4]),
        "max_new_tokens": np.array([6]),
    }
    generation, text = start_generation(model, values)
    alone = model.generate("ä b", temperature=0.7, top_k=4, eos_token_id=[3, 4], max_new_tokens=6)
    assert generation.options == alone.options
    assert generation.prompt_ids == alone.prompt_ids
    assert text is not None
    tokens = list(generation)
    assert "".join(map(text.add, tokens)) + text.end() == alone.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values.clear(), "prompt: got neither, expected text_input or input_ids"),
        (lambda values: values.update(text_input=texts(b"a")), "prompt: got text_input and input_ids"),
        (lambda values: values.update(top_k=np.array([1, 2])), "top_k: got 2 values, expected one"),
        (lambda values: values.update(top_k=np.array([0])), "top_k: got 0"),
        (lambda values: values.update(num_hashes=np.array([3])), "num_hashes: got 3"),
        (lambda values: values.update(input_ids=np.array([], np.int64)), "prompt: got no token"),
        (
            lambda values: (values.pop("input_ids"), values.update(text_input=texts(b"\xff"))),
            "text_input: got bytes that are no UTF-8",
        ),
    ],
)
def test_inputs_that_are_refused(
    model: Runtime, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    values: dict[str, Any] = {"input_ids": np.array([5, 6])}
    change(values)
    with pytest.raises(InputError, match=words):
        start_generation(model, values)
