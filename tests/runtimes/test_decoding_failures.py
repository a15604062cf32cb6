"""Calls of the graph that fail or are interrupted, forks, and what a long run leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from reformer_export import load
from reformer_export.errors import ArtifactError, InputError, ReformerExportError
from reformer_export.runtimes import Runtime, cache_buffers, cache_memory
from reformer_export.runtimes.decoding import MAX_BOUND_CALLS
from tests.runtimes.decoders import LONGEST, NATIVE_MODES, decoding_artifact, draw_ids

STEPS = 10_000
GROWTH_BYTES = 2**20


@pytest.fixture(params=NATIVE_MODES)
def model(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with load(decoding_artifact(), native=request.param, threads=1) as opened:
        yield opened


class Failing:
    """A session whose runs end with `error` once the graph has run, and so has written its caches."""

    def __init__(self, real: Any, error: BaseException) -> None:
        self._real, self._error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run_with_iobinding(self, binding: Any) -> None:
        self._real.run_with_iobinding(binding)
        raise self._error


def describe(state: Any) -> Any:
    return {key: (state.tokens(key), state.logits(key).tobytes()) for key in state.keys}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("no luck"), ArtifactError),
        (MemoryError("bad_alloc"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_call_that_fails_leaves_all_as_it_was(
    model: Runtime, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    """What it wrote lies behind the tokens that are held, also in a ring: the same calls again give what they
    would have given."""
    with model.start_decoding() as state, model.start_decoding() as whole:
        for held in (state, whole):
            for length in (7, 40, 16):
                held.add(draw_ids(length))
        before = describe(state)
        session = state._session
        assert session is not None
        real, session.session = session.session, Failing(session.session, error)
        calls: list[Any] = [
            lambda held: held.step({0: 5, 2: 9}),
            lambda held: held.add(draw_ids(33)),
            lambda held: held.refresh(1),
        ]
        for call in calls:
            with pytest.raises(raised) as failure:
                call(state)
            if isinstance(failure.value, ReformerExportError):
                assert "\n" not in str(failure.value)
                assert "decode.onnx" in str(failure.value) or "tokens" in str(failure.value)
            assert describe(state) == before
        session.session = real
        for call in calls:
            call(state)
            call(whole)
            assert describe(state) == describe(whole)


def test_no_memory_for_caches_leaves_all_as_it_was(model: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", 8)
    with model.start_decoding() as state:
        keys = [state.add(draw_ids(8)), state.add(draw_ids(7))]
        before = describe(state), state.nbytes, state.capacity

        def refuse(*_arguments: Any) -> Any:
            raise MemoryError

        with monkeypatch.context() as without:
            without.setattr(cache_memory.np, "zeros", refuse)
            with pytest.raises(InputError) as refused:
                state.step(dict.fromkeys(keys, 5))
        assert str(refused.value).startswith("the caches: got ")
        assert "for which memory does not suffice, expected fewer" in str(refused.value)
        assert (describe(state), state.nbytes, state.capacity) == before
        state.step(dict.fromkeys(keys, 5))
        assert state.capacity == 16


@pytest.mark.slow
@pytest.mark.parametrize("native", NATIVE_MODES[-1:])
def test_ten_thousand_steps_take_no_more_memory(native: str) -> None:
    """Python's own, to the byte nearly; the process's, but for what an allocator keeps."""
    process, rng = psutil.Process(), np.random.default_rng(0)
    with load(decoding_artifact(), native=native, threads=1) as model, model.start_decoding() as state:

        def take_steps(count: int) -> None:
            for _ in range(count):
                for key in state.keys:
                    if state.length(key) == LONGEST:
                        state.remove(key)
                while len(state) < 3:
                    state.add(draw_ids(int(rng.integers(1, 20))))
                state.step({key: 5 for key in state.keys if rng.random() < 0.8})

        take_steps(1000)
        tracemalloc.start()
        try:
            take_steps(100)
            before, resident = tracemalloc.get_traced_memory()[0], process.memory_info().rss
            take_steps(STEPS)
            assert tracemalloc.get_traced_memory()[0] - before < GROWTH_BYTES / 16
            assert process.memory_info().rss - resident < GROWTH_BYTES * 4
        finally:
            tracemalloc.stop()
        assert (
            state.nbytes
            == 3
            * cache_buffers.CacheBuffers(state._buffers.tensors, state._buffers.memory, 1, LONGEST).nbytes
        )


def test_few_calls_are_kept_ready(model: Runtime) -> None:
    """Every choice of neighbouring rows is a call of its own."""
    with model.start_decoding() as state:
        keys = [state.add([5 + i]) for i in range(16)]
        for first in range(16):
            for last in range(first, 16):
                state.step({keys[first]: 5, keys[last]: 5})
                assert len(state._calls) <= MAX_BOUND_CALLS


CODE = """
import os, sys
import reformer_export
from reformer_export.errors import ReformerExportError

model = reformer_export.load({out!r}, threads={threads})
state = model.start_decoding()
key = state.add([5, 6, 7])
child = os.fork()
if child == 0:
    for call in (lambda: state.step({{key: 5}}), lambda: state.add([5]), model.start_decoding):
        try:
            call()
        except ReformerExportError as error:
            print(error, flush=True)
    del state, model
    sys.exit(7)
_, status = os.waitpid(child, 0)
state.step({{key: 5}})
print("child", os.waitstatus_to_exitcode(status), state.length(key))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forked_child(threads: int) -> None:
    code = CODE.format(out=str(decoding_artifact()), threads=threads)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    *refusals, last = ended.stdout.splitlines()
    assert len(refusals) == 3, ended
    for refusal in refusals:
        assert "got a run in a process that was forked after the model was opened" in refusal
    assert last == "child 7 4"
