"""What Triton's model that writes does with requests, without a server."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.errors import InputError, RuntimeUnavailableError
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.decoding import DecodingState
from reformer_export.runtimes.generation import Generation
from reformer_export.serving.generation_scheduler import GenerationScheduler
from reformer_export.serving.triton.generate_model import ResponseStream, start_generation

BACKEND = SimpleNamespace(
    TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    Tensor=lambda name, values: (name, values.tolist()),
    InferenceResponse=lambda output_tensors, error=None: (dict(output_tensors), error),
)


class TritonError(str):
    INVALID_ARG, INTERNAL, UNAVAILABLE = 1, 2, 3

    def __new__(cls, text: str, code: int) -> TritonError:
        return super().__new__(cls, text)


BACKEND.TritonError = TritonError


@pytest.fixture(scope="module")
def model(artifact: Path) -> Iterator[Runtime]:
    with load(artifact, provider="cpu", threads=1, open_for="generate") as opened:
        yield opened


@contextmanager
def scheduler_of(model: Runtime, **limits: int) -> Iterator[GenerationScheduler]:
    given: dict[str, int] = {"lanes": 1, "max_streams": 3, "max_cache": 2**30, **limits}
    running = GenerationScheduler(model, lambda pieces: None, **given)
    yield running
    running.close()


@pytest.fixture
def scheduler(model: Runtime) -> Iterator[GenerationScheduler]:
    with scheduler_of(model) as running:
        yield running


class Listener:
    """Triton's sender of a request's responses; its client leaves after `patience` tokens."""

    def __init__(self, generation: Generation, patience: int = 10**6) -> None:
        self.generation = generation
        self.tokens: list[int] = []
        self.text = ""
        self.reason = ""
        self.error: str | None = None
        self.ended = threading.Event()
        self._patience = patience

    def is_cancelled(self) -> bool:
        return len(self.tokens) >= self._patience

    def send(self, response: Any = None, flags: int = 0) -> None:
        assert not self.ended.is_set()
        if response is not None:
            tensors, self.error = response
            self.tokens += tensors.get("token_id", [])
            self.text += b"".join(tensors.get("text_output", [])).decode()
            self.reason = b"".join(tensors.get("stop_reason", [])).decode()
        if flags:
            self.ended.set()


def listen(
    scheduler: GenerationScheduler,
    model: Runtime,
    prompt: Any,
    patience: int = 10**6,
    kind: type[Listener] = Listener,
    stop: tuple[str, ...] = (),
    **options: Any,
) -> Listener:
    generation = model.generate(prompt, **options)
    listener = kind(generation, patience)
    text = model.tokenizer.start_stream(generation.prompt_ids)
    scheduler.submit(ResponseStream(BACKEND, listener, model, generation, text, stop))
    return listener


def wait(*listeners: Listener) -> None:
    for each in listeners:
        assert each.ended.wait(30)


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_tokens_are_those_of_each_generation_alone(
    scheduler: GenerationScheduler, model: Runtime, cache: str
) -> None:
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
    listeners = [listen(scheduler, model, prompt, **options) for prompt, options in asked]
    wait(*listeners)
    for (prompt, options), listener in zip(asked, listeners, strict=True):
        alone = model.generate(prompt, **options)
        assert listener.tokens == list(alone)
        assert listener.reason == alone.stop_reason


def test_one_that_left_makes_room(scheduler: GenerationScheduler, model: Runtime) -> None:
    leaving = [listen(scheduler, model, [5], 4, max_new_tokens=500, eos_token_id=()) for _ in range(3)]
    staying = listen(scheduler, model, [6], max_new_tokens=5, eos_token_id=())
    wait(*leaving, staying)
    assert [len(each.tokens) for each in leaving] == [4, 4, 4]
    assert len(staying.tokens) == 5
    gone = listen(scheduler, model, [6], 0)
    wait(gone)
    assert gone.tokens == []


def test_those_that_left_while_they_waited_hold_up_nobody(model: Runtime) -> None:
    """However long their prompts are, which nobody reads."""
    with scheduler_of(model, max_streams=1) as scheduler:
        running = listen(scheduler, model, [5] * 200, 3, max_new_tokens=300, eos_token_id=())
        gone = [listen(scheduler, model, [5] * 200, 0) for _ in range(4)]
        staying = listen(scheduler, model, [6] * 200, max_new_tokens=5, eos_token_id=())
        wait(running, *gone, staying)
    assert [len(each.tokens) for each in (*gone, staying)] == [0, 0, 0, 0, 5]


def test_one_that_cannot_be_told_harms_nobody(scheduler: GenerationScheduler, model: Runtime) -> None:
    """A client that is gone, at any moment: what tells it raises."""

    class Broken(Listener):
        def send(self, response: Any = None, flags: int = 0) -> None:
            super().send(response, flags)
            if len(self.tokens) == 2:
                raise RuntimeError("no stream")

    class Gone(Broken):
        def is_cancelled(self) -> bool:
            raise RuntimeError("no stream")

    good = listen(scheduler, model, [5], max_new_tokens=9, eos_token_id=())
    lasting: dict[str, Any] = {"max_new_tokens": 50, "eos_token_id": ()}
    others = [listen(scheduler, model, [6], kind=kind, **lasting) for kind in (Broken, Gone)]
    wait(good, *others)
    assert len(good.tokens) == 9
    assert [len(each.tokens) for each in others] == [2, 0]


def test_a_prompt_that_is_refused_harms_nobody(scheduler: GenerationScheduler, model: Runtime) -> None:
    good = listen(scheduler, model, [5], max_new_tokens=9, eos_token_id=())
    with pytest.raises(InputError, match="position 1: got id 258"):
        listen(scheduler, model, [5, 258])
    wait(good)
    assert len(good.tokens) == 9


def test_texts_stop_before_strings(scheduler: GenerationScheduler, model: Runtime) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "temperature": 1.0, "eos_token_id": ()}
    whole = model.generate("a", **options).text
    stop = whole[20:23]
    found = listen(scheduler, model, "a", stop=("never there", stop), **options)
    wait(found)
    assert (found.text, found.reason) == (whole[: whole.index(stop)], "stop_string")


def test_memory_is_bounded_for_generations_of_all_kinds(model: Runtime) -> None:
    """Room for one of the greatest: those with other hashes wait until its caches are given back."""
    needed = {}
    for rounds in (None, 1):
        with model.start_decoding(rounds) as state:
            needed[rounds] = state.foresee_nbytes(2, 200)
    most = max(needed.values())
    with scheduler_of(model, max_cache=most) as scheduler:
        kinds = [(None, 40), (1, 0), (None, 0), (1, 30)]
        shared: dict[str, Any] = {"max_new_tokens": 100, "eos_token_id": ()}
        asked = [{**shared, "num_hashes": rounds, "refresh": refresh} for rounds, refresh in kinds]
        listeners = [listen(scheduler, model, [5] * 100, **options) for options in asked]
        held = []
        while not all(each.ended.wait(0.001) for each in listeners):
            groups = [group for lane in list(scheduler.lanes) for group in list(lane.values())]
            states = [group._state for group in groups if group._state is not None]
            held.append(sum(state.nbytes for state in states))
        assert max(held) <= most
        for options, listener in zip(asked, listeners, strict=True):
            assert (listener.error, listener.tokens) == (None, list(model.generate([5] * 100, **options)))
    refusal = pytest.raises(InputError, match="max_tokens: got prompt and text of up to 256")
    with scheduler_of(model, max_cache=1024) as scheduler, refusal:
        listen(scheduler, model, [5], max_new_tokens=255)


def test_a_step_that_fails_ends_those_in_it_and_no_later_one(
    scheduler: GenerationScheduler, model: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise MemoryError("none left")

    with monkeypatch.context() as patch:
        patch.setattr(DecodingState, "step", fail)
        listeners = [listen(scheduler, model, [5], max_new_tokens=9, eos_token_id=()) for _ in range(2)]
        wait(*listeners)
    assert ["none left" in (each.error or "") for each in listeners] == [True, True]
    after = listen(scheduler, model, [5], max_new_tokens=2, eos_token_id=())
    wait(after)
    assert after.error is None


def test_its_end_is_the_end_of_all(model: Runtime) -> None:
    with scheduler_of(model, max_streams=2) as scheduler:
        lasting: dict[str, Any] = {"max_new_tokens": 500, "eos_token_id": ()}
        listeners = [listen(scheduler, model, [5], **lasting) for _ in range(4)]
    wait(*listeners)
    assert all("a server that ends" in (each.error or "") for each in listeners)
    with pytest.raises(RuntimeUnavailableError, match="a server that ends"):
        listen(scheduler, model, [5])


def test_too_many_that_wait_are_refused(model: Runtime) -> None:
    lasting: dict[str, Any] = {"max_new_tokens": 500, "eos_token_id": ()}
    with scheduler_of(model, max_streams=1, max_waiting=2) as scheduler:
        running = [listen(scheduler, model, [5], **lasting)]
        while not running[0].tokens:
            pass
        running += [listen(scheduler, model, [5], **lasting) for _ in range(2)]
        with pytest.raises(RuntimeUnavailableError, match="2 that wait, expected a free place"):
            listen(scheduler, model, [5], **lasting)


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
        "stop": np.array(["ü".encode(), b"x"], np.object_),
    }
    generation, text, stop = start_generation(model, values)
    alone = model.generate("ä b", temperature=0.7, top_k=4, eos_token_id=[3, 4], max_new_tokens=6)
    assert generation.options == alone.options
    assert generation.prompt_ids == alone.prompt_ids
    assert text is not None
    assert stop == ["ü", "x"]
    tokens = list(generation)
    assert "".join(map(text.add, tokens)) + text.end() == alone.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda values: values.clear(), "prompt: got neither, expected text_input or input_ids"),
        (lambda values: values.update(text_input=texts(b"a")), "prompt: got text_input and input_ids"),
        (lambda values: values.update(top_k=np.array([1, 2])), "top_k: got 2 values, expected one"),
        (lambda values: values.update(top_k=np.array([0])), "top_k: got 0"),
        (lambda values: values.update(stop=texts(b"")), "stop: got 1 texts of 0 characters"),
        (lambda values: values.update(stop=texts(b"\xff")), "stop: got bytes that are no UTF-8"),
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
