"""The decoding state: each sequence is as it would be alone, whatever joins, leaves, grows or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reformer_export import load
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime, cache_buffers
from reformer_export.runtimes.decoding import DecodingState
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.decoders import (
    LONGEST,
    NATIVE_MODES,
    TOLERANCE,
    VOCABULARY,
    ByHand,
    decoding_artifact,
    draw_ids,
)


@pytest.fixture(scope="module", params=NATIVE_MODES)
def model(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with load(decoding_artifact(), native=request.param, threads=1) as opened:
        yield opened


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches that grow by 8 tokens."""
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", 8)


def decode_alone(model: Runtime, prompt: list[int], tokens: list[int]) -> list[Any]:
    """The logits after the prompt and after each of `tokens`, of a state that holds nothing else."""
    with model.start_decoding() as state:
        key = state.add(prompt)
        found = [state.logits(key)]
        for token in tokens:
            state.step({key: token})
            found.append(state.logits(key))
    return found


def describe(state: DecodingState) -> Any:
    """All that a caller sees of it."""
    sequences = {key: (state.tokens(key), state.logits(key).tobytes()) for key in state.keys}
    return sequences, state.nbytes, state.capacity, len(state)


def test_a_prompt_is_the_model_s_own_pass(model: Runtime) -> None:
    for length in (1, 3, 4, 5, 8, 9, 17, LONGEST):
        ids = draw_ids(length)
        with model.start_decoding() as state:
            key = state.add(ids)
            assert (state.tokens(key), state.length(key)) == (ids, length)
            np.testing.assert_array_equal(state.logits(key), model.run([ids])["logits"][0, -1])


def test_steps_are_those_of_the_graph_by_hand(model: Runtime) -> None:
    prompt, tokens = draw_ids(5), draw_ids(60, seed=1)
    by_hand = ByHand(decoding_artifact())
    expected = [by_hand.extend(prompt), *(by_hand.extend([token]) for token in tokens)]
    np.testing.assert_allclose(decode_alone(model, prompt, tokens), expected, atol=TOLERANCE, rtol=0)


def test_what_was_reserved_is_not_grown_again(model: Runtime) -> None:
    """With what it takes foreseen: nothing where nothing grows, else old and new together."""
    with model.start_decoding() as state:
        first = state.add(draw_ids(5))
        before, foreseen = state.nbytes, state.foresee_nbytes(3, LONGEST)
        state.reserve(3, LONGEST + 100)
        after = state.nbytes
        assert foreseen == before + after
        assert state.foresee_nbytes(3, LONGEST) == after
        keys = [first, state.add(draw_ids(60, seed=1)), state.add(draw_ids(7, seed=2))]
        for _ in range(LONGEST - 60):
            state.step(dict.fromkeys(keys, 9))
        assert (state.nbytes, state.capacity) == (after, LONGEST)


def test_each_of_a_batch_is_as_alone_to_the_last_bit(model: Runtime) -> None:
    """Sequences join and leave at different times; lengths cross chunk and padding borders."""
    rows = [(draw_ids(3 + 5 * i, seed=i), draw_ids(20 + 7 * i, seed=50 + i)) for i in range(5)]
    found: dict[int, list[Any]] = {}
    with model.start_decoding() as state:
        waiting, running = list(enumerate(rows)), {}
        while waiting or running:
            if waiting:
                index, (prompt, _) = waiting.pop(0)
                key = state.add(prompt)
                running[key] = index
                found[index] = [state.logits(key)]
            for key, index in list(running.items()):
                if len(found[index]) == len(rows[index][1]) + 1:
                    state.remove(key)
                    del running[key]
            state.step({key: rows[index][1][len(found[index]) - 1] for key, index in running.items()})
            for key, index in running.items():
                found[index].append(state.logits(key))
    for index, (prompt, tokens) in enumerate(rows):
        np.testing.assert_array_equal(found[index], decode_alone(model, prompt, tokens))


def test_growing_changes_no_bit(model: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, tokens = draw_ids(6), draw_ids(80, seed=1)
    expected = decode_alone(model, prompt, tokens)
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", 8)
    with model.start_decoding() as state:
        key, capacities = state.add(prompt), set()
        for index, token in enumerate(tokens):
            np.testing.assert_array_equal(state.logits(key), expected[index])
            state.step({key: token})
            capacities.add(state.capacity)
        np.testing.assert_array_equal(state.logits(key), expected[-1])
    assert sorted(capacities) == [8, 16, 24, 40, 64, LONGEST]


def test_those_that_are_not_named_rest(model: Runtime) -> None:
    with model.start_decoding() as state:
        keys = [state.add(draw_ids(9, seed=i)) for i in range(4)]
        before = [state.logits(key) for key in keys]
        state.step({keys[1]: 7, keys[2]: 8})
        for index, rests in enumerate((True, False, False, True)):
            assert np.array_equal(state.logits(keys[index]), before[index]) == rests
        state.step({})
        assert [state.length(key) for key in keys] == [9, 10, 10, 9]
        expected = decode_alone(model, draw_ids(9, seed=2), [8, 5])
        state.step({keys[2]: 5})
        np.testing.assert_array_equal(state.logits(keys[2]), expected[-1])


def test_a_refresh_is_the_whole_pass_again(model: Runtime) -> None:
    prompt, tokens = draw_ids(11), draw_ids(30, seed=1)
    with model.start_decoding() as state:
        other, key = state.add(draw_ids(7, seed=5)), state.add(prompt)
        for token in tokens:
            state.step({key: token, other: token})
        whole = model.run([prompt + tokens])["logits"][0, -1]
        assert not np.array_equal(state.logits(key), whole)
        state.refresh(key)
        np.testing.assert_array_equal(state.logits(key), whole)
        state.step({key: 9, other: 9})
        expected = decode_alone(model, prompt + tokens, [9])[-1]
        np.testing.assert_array_equal(state.logits(key), expected)
        expected = decode_alone(model, draw_ids(7, seed=5), [*tokens, 9])[-1]
        np.testing.assert_array_equal(state.logits(other), expected)


def test_bytes_are_those_of_the_buffers(model: Runtime, small_blocks: None) -> None:
    """Two local layers' rings of 16 tokens, two LSH layers of 2 heads and 2 hashes, rows of 16 elements."""
    with model.start_decoding() as state:
        assert (state.nbytes, state.capacity, len(state)) == (0, 0, 0)
        a = state.add([5])
        per_row = 2 * 2 * 16 * 16 * 4 + 2 * 8 * (2 * 16 * 4 + 2 * 2 * 4)
        assert (state.nbytes, state.capacity) == (per_row, 8)
        state.add([5])
        b = state.add([5])
        assert (state.nbytes, len(state)) == (3 * per_row, 3)
        state.remove(a)
        state.remove(b)
        assert (state.nbytes, len(state)) == (3 * per_row, 1)
    assert state.nbytes == 0


REFUSED = {
    "no key": (lambda state: state.step({99: 5}), "key: got 99, expected one of the 2 sequences'"),
    "no such key": (lambda state: state.step({"a": 5}), "key: got 'a', expected one of the 2 sequences'"),
    "a list for a key": (lambda state: state.remove([1]), "key: got [1], expected one of the 2 sequences'"),
    "one that left": (lambda state: state.logits(2), "key: got 2, expected one of the 2 sequences'"),
    "twice": (
        lambda state: state.step([(0, 5), (0, 6)]),
        "sequence 0: got two tokens, expected one in a step",
    ),
    "a token too many": (
        lambda state: state.step({0: 5, 1: 5}),
        f"sequence 1: got a token after {LONGEST}, expected at most {LONGEST}, the longest sequence",
    ),
    "a token outside": (
        lambda state: state.step({0: VOCABULARY}),
        f"the token of sequence 0: got id {VOCABULARY}, expected an id from 0 to {VOCABULARY - 1}",
    ),
    "a negative token": (lambda state: state.step({0: -1}), "the token of sequence 0: got id -1, expected"),
    "a token that is none": (lambda state: state.step({0: 1.0}), "the token of sequence 0: got id 1.0, exp"),
    "no mapping": (
        lambda state: state.step(5),
        "tokens: got 5, expected a token id for each key; give e.g. {",
    ),
    "no pairs": (
        lambda state: state.step([5]),
        "tokens: got [5], expected a token id for each key; give e.g",
    ),
    "a truth": (lambda state: state.step({0: True}), "the token of sequence 0: got id True, expected"),
    "no text": (lambda state: state.add(""), f"prompt: got 0 tokens, expected 1 to {LONGEST}, the longest"),
    "no ids": (lambda state: state.add([]), f"prompt: got 0 tokens, expected 1 to {LONGEST}, the longest"),
    "a prompt too long": (
        lambda state: state.add([5] * (LONGEST + 1)),
        f"prompt: got {LONGEST + 1} tokens, expected 1 to {LONGEST}, the longest sequence; shorten it",
    ),
    "an id outside": (
        lambda state: state.add([5, VOCABULARY]),
        f"prompt, position 1: got id {VOCABULARY}, expected an id from 0 to {VOCABULARY - 1}",
    ),
    "no prompt": (lambda state: state.add(5), "prompt: got int, expected"),
    "a refresh of none": (lambda state: state.refresh(7), "key: got 7, expected one of the 2 sequences'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_all_as_it_was(model: Runtime, small_blocks: None, name: str) -> None:
    call, message = REFUSED[name]
    with model.start_decoding() as state:
        for length in (7, LONGEST, 8):
            state.add(draw_ids(length))
        state.remove(2)
        before = describe(state)
        with pytest.raises(InputError) as refused:
            call(state)
        assert str(refused.value).startswith(message)
        assert "\n" not in str(refused.value)
        assert describe(state) == before
        state.step({0: 5})
        np.testing.assert_array_equal(state.logits(0), decode_alone(model, draw_ids(7), [5])[-1])


def test_a_closed_state_refuses_everything(model: Runtime) -> None:
    state = model.start_decoding()
    key = state.add([5])
    state.close()
    state.close()
    calls: list[Any] = [
        lambda: state.add([5]),
        lambda: state.step({key: 5}),
        lambda: state.remove(key),
        lambda: state.refresh(key),
        lambda: state.logits(key),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"^decoding: got a closed state, expected an open one"):
            call()
    assert (state.keys, len(state), state.nbytes) == ((), 0, 0)


def test_a_model_closes_its_states() -> None:
    model = load(decoding_artifact(), threads=1)
    state = model.start_decoding()
    state.add([5])
    model.close()
    with pytest.raises(InputError, match="got a closed state"):
        state.add([5])
    with pytest.raises(InputError, match="got a closed model, expected an open one"):
        model.start_decoding()


def test_text_is_a_prompt(model: Runtime) -> None:
    with model.start_decoding() as state:
        assert state.tokens(state.add("In the")) == model.encode("In the")
        assert state.tokens(state.add(np.array([5, 6], np.int32))) == [5, 6]


def test_logits_cannot_be_written_and_stay(model: Runtime) -> None:
    with model.start_decoding() as state:
        key = state.add([5, 6])
        kept = state.logits(key)
        copy = kept.copy()
        with pytest.raises(ValueError, match="read-only"):
            kept[0] = 0
        state.step({key: 5})
        np.testing.assert_array_equal(kept, copy)


def test_artifacts_without_the_graph_and_closed_ones_are_refused(tmp_path: Any) -> None:
    with load(write_artifact(tmp_path / "out")) as model:
        with pytest.raises(InputError) as refused:
            model.start_decoding()
        expected = f"decoding: got {tmp_path / 'out'} without decode.onnx, expected an artifact with it; "
        assert str(refused.value) == f"{expected}export the checkpoint again with `decode=True`"


def test_threads_share_a_state(model: Runtime) -> None:
    rows = [(draw_ids(3 + i, seed=i), draw_ids(30, seed=20 + i)) for i in range(6)]
    with model.start_decoding() as state:

        def decode(row: tuple[list[int], list[int]]) -> list[Any]:
            key = state.add(row[0])
            found = [state.logits(key)]
            for token in row[1]:
                state.step({key: token})
                found.append(state.logits(key))
            state.remove(key)
            return found

        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(decode, rows))
    for (prompt, tokens), answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer, decode_alone(model, prompt, tokens))


ACTIONS = st.tuples(st.sampled_from("aasssssssrf"), st.integers(0, 2**16))


@settings(max_examples=40, deadline=None)
@given(actions=st.lists(ACTIONS, min_size=5, max_size=60), block=st.integers(1, 24))
def test_any_schedule_is_each_sequence_by_hand(actions: list[tuple[str, int]], block: int) -> None:
    """a: one joins; s: some step; r: one leaves; f: one is passed over again. By hand it is the same graph
    without any of the state's code, a sequence at a time on caches that are copied: equal to the last bit."""
    native = NATIVE_MODES[-1]
    with pytest.MonkeyPatch.context() as patch, load(decoding_artifact(), native=native, threads=1) as model:
        patch.setattr(cache_buffers, "BLOCK_TOKENS", block)
        state = model.start_decoding()
        by_hand: dict[int, ByHand] = {}
        expected: dict[int, Any] = {}
        for action, number in actions:
            rng = np.random.default_rng(number)
            keys = [key for key in by_hand if len(by_hand[key].ids) < LONGEST]
            if action == "a" and len(by_hand) < 6:
                prompt = draw_ids(int(rng.integers(1, 40)), seed=number)
                key = state.add(prompt)
                by_hand[key] = ByHand(decoding_artifact(), native)
                expected[key] = by_hand[key].extend(prompt)
            elif action == "s" and keys:
                named = [key for key in keys if rng.random() < 0.7]
                tokens = {key: int(rng.integers(1, VOCABULARY)) for key in rng.permutation(named).tolist()}
                state.step(tokens)
                expected |= {key: by_hand[key].extend([token]) for key, token in tokens.items()}
            elif action == "r" and by_hand:
                key = list(by_hand)[number % len(by_hand)]
                state.remove(key)
                del by_hand[key], expected[key]
            elif action == "f" and by_hand:
                key = list(by_hand)[number % len(by_hand)]
                state.refresh(key)
                expected[key] = by_hand[key].refresh()
            assert state.keys == tuple(by_hand)
            for key, value in expected.items():
                assert state.tokens(key) == by_hand[key].ids
                np.testing.assert_array_equal(state.logits(key), value)
