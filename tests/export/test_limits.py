"""Shapes that a model does not take, given by a runtime that is not ours: an error, never an answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import transformers

from reformer_export.libraries.operators import find_native_library
from reformer_export.runtimes.ort_session import CPU, Placement, open_session
from reformer_export.workflows.export import export_checkpoint
from tests.hf_models import config_t, save_model

CONFIGS = {
    "axial": config_t(),
    "learned": config_t(axial_pos_embds=False),
    "lsh first": config_t(attn_layers=["lsh", "local"]),
    # 63 positions, of which chunks of 8 can use 56.
    "usable": config_t(axial_pos_shape=[7, 9], max_position_embeddings=63),
}
USABLE = {"axial": 64, "learned": 64, "lsh first": 64, "usable": 56}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """An artifact's model.onnx and its greatest length."""
    folder = tmp_path_factory.mktemp("limits")
    checkpoint = save_model(folder, CONFIGS[request.param], transformers.ReformerModel)
    export_checkpoint(checkpoint, folder / "out", verify=False)
    return folder / "out" / "model.onnx", USABLE[request.param]


def run(session: Any, batch: int, length: int) -> Any:
    ids, mask = np.full((batch, length), 5, np.int64), np.ones((batch, length), np.int64)
    (output,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return output


@pytest.mark.parametrize("native", [False, True])
def test_beyond_the_length(exported: tuple[Path, int], native: bool) -> None:
    model, longest = exported
    session = open_session(model, placement(native))
    assert run(session, 1, longest).shape == (1, longest, 32)
    for length in (longest + 1, longest + 8, 2 * longest, 1000):
        with pytest.raises(Exception, match=f"by a dimension other than 1. {longest} by {length}"):
            run(session, 1, length)


@pytest.mark.parametrize("shape", [(0, 8), (0, 20), (1, 0), (3, 0), (0, 0)])
def test_no_tokens_in_plain_onnxruntime(exported: tuple[Path, int], shape: tuple[int, int]) -> None:
    session = onnxruntime.InferenceSession(str(exported[0]), providers=[CPU])
    given = "{" + f"{shape[0]},{shape[1]}" + "}"
    with pytest.raises(Exception, match=rf"cannot be reshaped .*Input shape:{re.escape(given)}") as caught:
        run(session, *shape)
    assert "division by zero" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 8), (0, 20), (1, 0), (3, 0), (0, 0)])
def test_no_tokens_in_the_native_kernels(exported: tuple[Path, int], shape: tuple[int, int]) -> None:
    assert run(open_session(exported[0], placement(True)), *shape).shape == (*shape, 32)


def placement(native: bool) -> Placement:
    library = find_native_library("auto") if native else None
    if native and library is None:
        pytest.skip("the native library is not built")
    return Placement(CPU, 1, library)
