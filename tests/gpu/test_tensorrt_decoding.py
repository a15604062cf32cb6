"""Sequences that are continued by engines of decode.onnx on this machine's GPU, with each TensorRT here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer_export.engine import EngineOptions, build_engine
from reformer_export.runtimes import Runtime, cache_buffers, load
from tests.gpu.test_tensorrt_engine import runtime  # noqa: F401
from tests.runtimes.decoders import decoding_artifact, draw_ids
from tests.runtimes.tensorrt.test_decoding import decode_several

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]

TOLERANCE = 2e-4
"""Of float32 on a GPU against the CPU, through four layers, as in test_decoding.py."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, runtime: Any) -> Path:  # noqa: F811
    """An artifact with an engine of each of its graphs."""
    folder = shutil.copytree(decoding_artifact(), tmp_path_factory.mktemp("engines") / "out")
    for decode in (False, True):
        build_engine(folder, EngineOptions(runtime, decode=decode))
    return folder


@pytest.fixture
def model(out: Path, runtime: Any) -> Iterator[Runtime]:  # noqa: F811
    with load(out, runtime=runtime) as opened:
        yield opened


@pytest.mark.parametrize("block", [8, 1024])
def test_several_sequences_are_onnx_runtime_s(
    model: Runtime, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """In place, and where rows begin at addresses that TensorRT does not take."""
    monkeypatch.setattr(cache_buffers, "BLOCK_TOKENS", block)
    expected = decode_several(load(model.folder, provider="cpu", native="off"))
    for value, wanted in zip(decode_several(model), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=TOLERANCE, rtol=0)


def test_a_sequence_is_the_same_beside_others(model: Runtime) -> None:
    tokens = draw_ids(20, seed=1)
    with model.start_decoding() as alone, model.start_decoding() as state:
        key, first = alone.add(draw_ids(9)), state.add(draw_ids(9))
        second = state.add(draw_ids(30, seed=2))
        for token in tokens:
            alone.step({key: token})
            state.step({first: token, second: token})
            np.testing.assert_allclose(state.logits(first), alone.logits(key), atol=TOLERANCE, rtol=0)
