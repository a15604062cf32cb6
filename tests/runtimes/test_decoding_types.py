"""Decoding in the other types, with fewer hashes, and what raw calls of decode.onnx may not do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.artifact.decoding import cache_tensors
from reformer_export.artifact.manifest import read_manifest
from reformer_export.errors import ArtifactError, InputError
from reformer_export.runtimes import RuntimeOptions, ort
from reformer_export.runtimes.ort_errors import error_from_run
from tests.runtimes.decoders import LONGEST, NATIVE_MODES, ByHand, decoding_artifact, draw_ids, open_by_hand

PROMPT, TOKENS = draw_ids(21), draw_ids(12, seed=1)


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_float16_is_the_graph_by_hand(native: Any) -> None:
    folder = decoding_artifact("float16")
    by_hand = ByHand(folder, native)
    with load(folder, native=native, threads=1) as model, model.start_decoding() as state:
        key = state.add(PROMPT)
        other = state.add(draw_ids(4))
        whole = model.run([PROMPT])["logits"][0, -1]
        step = float(np.spacing(np.float16(abs(whole).max())))  # the head rounds one row in another order
        np.testing.assert_allclose(state.logits(key), whole, atol=step, rtol=0)
        np.testing.assert_array_equal(state.logits(key), by_hand.extend(PROMPT))
        for token in TOKENS:
            state.step({key: token, other: token})
            np.testing.assert_array_equal(state.logits(key), by_hand.extend([token]))


@pytest.mark.parametrize("native", NATIVE_MODES)
@pytest.mark.parametrize("open_for", ["run", "generate"])
def test_bfloat16_is_widened_as_the_whole_pass_is(native: Any, open_for: Any) -> None:
    folder = decoding_artifact("bfloat16")
    with load(folder, native=native, threads=1, open_for=open_for) as model:
        assert model.notes[-1].startswith("ONNX Runtime has no bfloat16 kernels for the CPU")
        with model.start_decoding() as state:
            key = state.add(PROMPT)
            np.testing.assert_array_equal(state.logits(key), model.run([PROMPT])["logits"][0, -1])
            for token in TOKENS:
                state.step({key: token})
            state.refresh(key)
            np.testing.assert_array_equal(state.logits(key), model.run([PROMPT + TOKENS])["logits"][0, -1])
            widened = cache_tensors(model.spec, "float32")
            assert state.nbytes == sum(tensor.nbytes(2, LONGEST) for tensor in widened)
        assert len(model.notes) == 1


@pytest.mark.parametrize("native", NATIVE_MODES)
def test_a_state_has_one_number_of_hashes(native: Any) -> None:
    folder = decoding_artifact(max_hashes=3)
    with load(folder, native=native, threads=1, num_hashes=2) as model:
        nbytes = {}
        for given, rounds in ((None, 2), (1, 1), (3, 3)):
            with model.start_decoding(given) as state:
                key = state.add(PROMPT)
                whole = model.run([PROMPT], num_hashes=rounds)["logits"][0, -1]
                np.testing.assert_array_equal(state.logits(key), whole)
                state.step({key: 5})
                nbytes[rounds] = state.nbytes
        assert nbytes[3] - nbytes[2] == nbytes[2] - nbytes[1] == 2 * 2 * LONGEST * 4  # layers, heads, bytes
        for wrong in (0, 4, True):
            with pytest.raises(InputError, match="num_hashes: got"):
                model.start_decoding(wrong)
    with (
        load(decoding_artifact()) as model,
        pytest.raises(InputError, match="num_hashes: got 2 for an artif"),
    ):
        model.start_decoding(2)


def test_a_model_opened_to_generate_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the other way round; each graph is opened once, when it is needed."""
    opened: list[str] = []
    real = ort.open_session

    def open_session(path: Path, *values: Any, **options: Any) -> Any:
        opened.append(path.name)
        return real(path, *values, **options)

    monkeypatch.setattr(ort, "open_session", open_session)
    for first, second in (("run", "generate"), ("generate", "run")):
        opened.clear()
        with load(decoding_artifact(), RuntimeOptions(open_for=first, threads=1)) as model:  # type: ignore[arg-type]
            files = {"run": "model.onnx", "generate": "decode.onnx"}
            assert opened == [files[first]]
            for _ in range(2):
                with model.start_decoding() as state:
                    logits = state.logits(state.add(PROMPT))
                np.testing.assert_array_equal(model.run([PROMPT])["logits"][0, -1], logits)
            assert opened == [files[first], files[second]]
    assert model.providers == ("CPUExecutionProvider",)


def test_a_graph_that_changed_since_is_refused(tmp_path: Any) -> None:
    folder = shutil.copytree(decoding_artifact(), tmp_path / "out")
    with load(folder, threads=1) as model:
        with (folder / "decode.onnx").open("ab") as stream:
            stream.write(b" ")
        with pytest.raises(ArtifactError, match=r"decode\.onnx: got SHA-256 \w+\.\.\., expected"):
            model.start_decoding()
        model.run([PROMPT])


def feeds_of(lengths: list[int], new_lengths: list[int], capacity: int = 32) -> dict[str, Any]:
    """Inputs of decode.onnx, of which every cache is full of random numbers."""
    manifest = read_manifest(decoding_artifact())
    rng, batch = np.random.default_rng(0), len(lengths)
    feeds: dict[str, Any] = {
        "input_ids": rng.integers(1, 258, (batch, max(*new_lengths, 1))),
        "lengths": np.array(lengths, np.int32),
        "new_lengths": np.array(new_lengths, np.int32),
    }
    for tensor in cache_tensors(manifest.spec, "float32"):
        shape = tensor.shape_of(batch, capacity)
        values = rng.standard_normal(shape) if tensor.dtype == "float32" else rng.integers(0, 8, shape)
        feeds[tensor.input] = values.astype(tensor.dtype)
    return feeds


def cut(feeds: dict[str, Any], name: str, axis: int) -> dict[str, Any]:
    kept = [slice(None)] * feeds[name].ndim
    kept[axis] = slice(0, feeds[name].shape[axis] - 1)
    return {**feeds, name: np.ascontiguousarray(feeds[name][tuple(kept)])}


RAW = {
    "two tokens on a filled cache": (
        lambda: feeds_of([5, 3], [2, 1]),
        "expected on a cache that is not empty at most 1",
    ),
    "more than the capacity": (lambda: feeds_of([5, 32], [1, 1]), "32"),
    "a prompt beyond the capacity": (lambda: feeds_of([0], [9], capacity=8), "9"),
    "more new tokens than ids": (
        lambda: {**feeds_of([0, 0], [3, 1]), "new_lengths": np.array([4, 1], np.int32)},
        "4",
    ),
    "a negative length": (lambda: feeds_of([-1, 3], [1, 1]), "-1"),
    "a negative number of new tokens": (lambda: feeds_of([5, 3], [1, -1]), "-1"),
    "a cache of another width": (lambda: cut(feeds_of([5, 3], [1, 1]), "past.3.value", 2), "past.3.value"),
    "a cache of another capacity": (lambda: cut(feeds_of([5, 3], [1, 1]), "past.3.value", 1), "past_value"),
    "a ring of another length": (lambda: cut(feeds_of([5, 3], [1, 1]), "past.0.key", 1), "past.0.key"),
    "a cache of fewer rows": (lambda: cut(feeds_of([5, 3], [1, 1]), "past.1.value", 0), "past_value"),
    "fewer hashes": (lambda: cut(feeds_of([5, 3], [1, 1]), "past.1.buckets", 2), "past.1.buckets"),
    "too few lengths": (lambda: cut(feeds_of([5, 3], [1, 1]), "lengths", 0), "Non-zero status code"),
    "another type": (lambda: as_float16(feeds_of([5, 3], [1, 1]), "past.1.value"), "(tensor(float16))"),
}


def as_float16(feeds: dict[str, Any], name: str) -> dict[str, Any]:
    return {**feeds, name: feeds[name].astype(np.float16)}


def held_of(feeds: dict[str, Any]) -> list[Any]:
    """What of the caches the rows hold: of a ring all but where the new tokens go, else the first tokens."""
    found = []
    for name, value in feeds.items():
        if not name.startswith("past."):
            continue
        for row, (length, new) in enumerate(zip(feeds["lengths"], feeds["new_lengths"], strict=False)):
            if name.endswith("buckets"):
                found.append(value[row, ..., : max(length, 0)].copy())
            elif ".0." in name or ".2." in name:
                written = np.arange(length, length + max(new, 0)) % value.shape[1]
                found.append(np.delete(value[row], written, axis=0))
            elif row < len(value):
                found.append(value[row, : max(length, 0)].copy())
    return found


@pytest.mark.skipif("on" not in NATIVE_MODES, reason="no native library: make native says what is missing")
@pytest.mark.parametrize("name", RAW)
def test_a_raw_call_that_does_not_fit_is_refused(name: str) -> None:
    """By whoever calls ONNX Runtime without this package's state, in place: in one line as it is shown here,
    and what the rows hold is as it was. An operator that refuses writes nothing; layers before it have
    written their new tokens, behind those that are held."""
    make, words = RAW[name]
    feeds = make()
    held = held_of(feeds)
    session = open_by_hand(decoding_artifact(), "on")
    binding = session.io_binding()
    for key, value in feeds.items():
        where = (value.dtype.type, list(value.shape), value.ctypes.data)
        binding.bind_input(key, "cpu", 0, *where)
        if key.startswith("past."):
            binding.bind_output(key.replace("past", "present"), "cpu", 0, *where)
    binding.bind_output("logits")
    with pytest.raises(Exception, match=r"^Error in execution: ") as refused:
        session.run_with_iobinding(binding)
    shown = error_from_run(refused.value, (2, 1), "cpu", "decode.onnx")
    assert words in str(shown)
    assert "\n" not in str(shown)
    for found, expected in zip(held_of(feeds), held, strict=True):
        np.testing.assert_array_equal(found, expected)
