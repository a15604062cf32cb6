"""A decoding state on an engine of decode.onnx, on a fake GPU that checks the order of the calls; numbers
against the same state on ONNX Runtime."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export import load
from reformer_export.errors import ArtifactError, InputError, RuntimeUnavailableError
from reformer_export.runtimes import cache_buffers
from reformer_export.runtimes.base import Runtime
from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.decoders import LONGEST, decoding_artifact, draw_ids
from tests.runtimes.tensorrt.engines import open_fake, write_decode_engine, write_engine
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.fake_tensorrt import FakeTensorRT


@pytest.fixture
def out(tmp_path: Path, library: Path) -> Path:
    """An artifact with decode.onnx and an engine of each of its graphs."""
    folder = shutil.copytree(decoding_artifact(), tmp_path / "out")
    write_engine(folder, library)
    write_decode_engine(folder, library)
    return folder


def decode_several(model: Runtime) -> list[Any]:
    """Logits of three sequences that join at different times, one of which leaves and one of which is run
    again as a whole."""
    found: list[Any] = []
    with model.start_decoding() as state:
        first, second = state.add(draw_ids(5)), state.add(draw_ids(14, seed=1))
        for token in draw_ids(9, seed=2):
            state.step({first: token, second: token})
            found += [state.logits(first), state.logits(second)]
        third = state.add(draw_ids(3, seed=3))
        state.step({third: 7})
        found.append(state.logits(third))
        state.remove(first)
        for token in draw_ids(9, seed=4):
            state.step({second: token, third: token})
            found += [state.logits(second), state.logits(third)]
        state.refresh(second)
        state.step({second: 9})
        found.append(state.logits(second))
    return found


@pytest.mark.parametrize("block", [8, 1024])
def test_every_number_is_onnx_runtime_s(
    out: Path, library: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """With caches that grow by 8 tokens rows begin where TensorRT takes no tensor: they are copied."""
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", block)
    expected = decode_several(load(out, provider="cpu", native="off"))
    with open_fake(out, library) as model:
        got = decode_several(model)
    for value, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_generate_steps_with_it(out: Path, library: Path) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0}
    with load(out, provider="cpu", native="off") as model:
        expected = list(model.generate(draw_ids(6), cache="on", **options))
    cuda = FakeCuda()
    with open_fake(out, library, cuda=cuda) as model:
        assert list(model.generate(draw_ids(6), **options)) == expected
        assert list(model.generate(draw_ids(6), cache="off", **options))
    assert cuda.log.count("copy_on_device") == 0, "caches of one block do not move"


def test_a_step_takes_no_memory_and_one_wait(out: Path, library: Path) -> None:
    cuda = FakeCuda()
    with open_fake(out, library, cuda=cuda) as model, model.start_decoding() as state:
        key = state.add(draw_ids(5))
        state.step({key: 1})
        cuda.log.clear()
        state.step({key: 2})
    calls = [name for name in cuda.log[: cuda.log.index("copy_to_host") + 2] if name != "activate"]
    assert calls == [*["copy_to_device"] * 3, "copy_to_host", "synchronize"]


def test_all_memory_is_given_back(out: Path, library: Path) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    with open_fake(out, library, trt=trt) as model:
        used = cuda.used("device")
        state = model.start_decoding()
        state.add(draw_ids(5))
        assert cuda.used("device") > used + state.nbytes
        other = model.start_decoding()
        other.add(draw_ids(7))
        other.close()
    for closed in (state, other):
        with pytest.raises(InputError, match="got a closed state"):
            closed.add([1])
    with pytest.raises(InputError, match="a closed model"):
        model.start_decoding()
    del state, other, closed
    gc.collect()
    assert (cuda.memory, cuda.streams) == ({}, {})
    assert not [*trt.contexts, *trt.engines]


def test_a_state_outlives_its_model(out: Path, library: Path) -> None:
    cuda = FakeCuda()
    state = open_fake(out, library, cuda=cuda).start_decoding()
    gc.collect()
    key = state.add(draw_ids(5))
    state.step({key: 3})
    del state
    gc.collect()
    assert (cuda.memory, cuda.streams) == ({}, {})


@pytest.mark.parametrize("failure", ["copy_to_device", "copy_to_host"])
def test_a_failure_leaves_the_sequences(out: Path, library: Path, failure: str) -> None:
    cuda = FakeCuda()
    with open_fake(out, library, cuda=cuda) as model, model.start_decoding() as state:
        key = state.add(draw_ids(5))
        before = state.tokens(key), state.logits(key).tobytes()
        cuda.failures[failure] = "cudaErrorUnknown"
        with pytest.raises(RuntimeUnavailableError, match="a planted failure"):
            state.step({key: 4})
        assert (state.tokens(key), state.logits(key).tobytes()) == before
        state.step({key: 4})
        again = model.start_decoding()
        other = again.add(draw_ids(5))
        again.step({other: 4})
        np.testing.assert_array_equal(state.logits(key), again.logits(other))


def test_what_an_engine_does_not_take(out: Path, library: Path) -> None:
    write_decode_engine(out, library, capacity=64)
    with open_fake(out, library) as model, model.start_decoding() as state:
        with pytest.raises(InputError, match="got 65 tokens, expected 1 to 64, the longest sequence"):
            state.add(draw_ids(65))
        keys = [state.add([5]) for _ in range(9)]
        with pytest.raises(InputError, match=r"got 9x1 new tokens, .*1x1 to 8x1.*decode fewer"):
            state.step(dict.fromkeys(keys, 6))
        state.step(dict.fromkeys(keys[:8], 6))
        assert [state.length(key) for key in keys] == [2] * 8 + [1]


def test_without_an_engine_for_it(tmp_path: Path, out: Path, library: Path) -> None:
    plain = write_artifact(tmp_path / "plain")
    write_engine(plain, library)
    with pytest.raises(InputError, match=r"without decode\.onnx"):
        open_fake(plain, library).start_decoding()
    for path in (out / "engines").glob("fake-decode.*"):
        path.unlink()
    model = open_fake(out, library)
    with pytest.raises(InputError, match=r"decoding: got no engine of decode\.onnx for tensorrt.*--decode"):
        model.start_decoding()
    assert not model.generate([5]).has_cache
    write_decode_engine(out, library, "other", runtime_version="1.0.0")
    with pytest.raises(InputError, match=r"decoding: got TensorRT 1\.7\.1\.116, expected 1\.0\.0"):
        model.start_decoding()


def test_the_engine_beside_the_open_one_is_taken(out: Path, library: Path) -> None:
    write_engine(out, library, "large")
    write_decode_engine(out, library, "large-decode", capacity=32)

    def longest(model: TensorRTRuntime) -> int:
        with model.start_decoding() as state, pytest.raises(InputError) as caught:
            state.add([])
        return int(str(caught.value).split("1 to ")[1].split(",")[0])

    assert longest(open_fake(out, library, engine="fake")) == LONGEST
    assert longest(open_fake(out, library, engine="large")) == 32


def test_texts_that_steps_have_no_room_for_take_whole_passes(out: Path, library: Path) -> None:
    write_decode_engine(out, library, capacity=32)
    greedy: dict[str, Any] = {"temperature": 0}
    with open_fake(out, library) as model:
        assert (model.max_length, model.max_decoding_length) == (64, 32)
        fits = model.generate(draw_ids(6), max_new_tokens=26, **greedy)
        assert (fits.has_cache, fits.note) == (True, None)
        longer = model.generate(draw_ids(6), max_new_tokens=27, **greedy)
        assert not longer.has_cache
        assert longer.note is not None
        assert "steps take 32 tokens at most, and this text may get 33" in longer.note
        expected = list(model.generate(draw_ids(6), max_new_tokens=27, cache="off", **greedy))
        assert list(longer) == expected
        both = list(model.generate_many([draw_ids(30), draw_ids(6)], max_new_tokens=10, **greedy))
        assert [each.has_cache for each in both] == [False, True]
        for each in both:
            assert each.ids == list(model.generate(each.prompt_ids, max_new_tokens=10, **greedy))
        insists = model.generate(draw_ids(6), max_new_tokens=27, cache="on", **greedy)
        assert len(list(insists)) == 26
        assert insists.stop_reason == "max_length"
        with pytest.raises(InputError, match="prompt: got 33 tokens, expected at most 32"):
            model.generate(draw_ids(33), cache="on")
        with pytest.raises(InputError, match="refresh: got 4 without a cache"):
            model.generate(draw_ids(6), max_new_tokens=27, refresh=4)


def test_open_for_generate_holds_the_engine_of_steps_alone(out: Path, library: Path) -> None:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda)
    with open_fake(out, library, trt=trt, open_for="generate") as model:
        assert (model.record.name, len(trt.engines)) == ("fake-decode", 1)
        assert model.max_length == 64, "of whole passes, which can be taken all the same"
        assert list(model.generate(draw_ids(6), max_new_tokens=5))
        assert len(trt.engines) == 1
        logits = model.run([draw_ids(6)])["logits"]
        assert len(trt.engines) == 2
    with open_fake(out, library) as model:
        np.testing.assert_array_equal(model.run([draw_ids(6)])["logits"], logits)
    with pytest.raises(InputError, match="a request after close"):
        model.run([draw_ids(6)])
    gc.collect()
    assert (cuda.memory, cuda.streams, [*trt.contexts, *trt.engines]) == ({}, {}, [])


@pytest.mark.parametrize("name", [None, "fake", "fake-decode"])
def test_the_engine_of_steps_suffices_to_generate(out: Path, library: Path, name: str | None) -> None:
    for path in (out / "engines").glob("fake.*"):
        path.unlink()
    with pytest.raises((ArtifactError, InputError), match="engine"):
        open_fake(out, library, engine=name)
    with open_fake(out, library, engine=name, open_for="generate") as model:
        assert model.max_length == LONGEST
        generation = model.generate(draw_ids(6), max_new_tokens=5)
        assert generation.has_cache
        assert list(generation)
        with pytest.raises((ArtifactError, InputError), match="engine"):
            model.run([draw_ids(6)])


def test_open_for_generate_takes_what_there_is(out: Path, library: Path) -> None:
    with pytest.raises(InputError, match="engine: got 'another', expected one of"):
        open_fake(out, library, engine="another", open_for="generate")
    write_decode_engine(out, library, runtime_version="1.0.0")
    with open_fake(out, library, open_for="generate") as model:
        assert model.record.name == "fake"
        assert not model.generate([5]).has_cache
    with pytest.raises(InputError, match=r"decoding: got TensorRT 1\.7\.1\.116, expected 1\.0\.0"):
        open_fake(out, library, engine="fake-decode", open_for="generate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": {"input_ids": "INT64"}}, "got tensors"),
        ({"capacity": 95}, r"past\.1\.query_key of .* in profile 0, expected"),
        ({"profiles": [[[1, 1], [1, 8], [1, 95]], [[1, 1], [1, 1], [8, 1]]]}, "input_ids of .* in profile 0"),
    ],
)
def test_an_engine_that_is_not_what_its_record_says(
    out: Path, library: Path, change: dict[str, Any], message: str
) -> None:
    write_decode_engine(out, library, file=change)
    with open_fake(out, library) as model, pytest.raises(ArtifactError, match=message):
        model.start_decoding()
