"""Each contender answers alike, and a setup survives the way to another process."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import transformers

from reformer_export.errors import InputError
from reformer_export.measure.contenders import Setup, open_contender, random_ids, silence_eager
from reformer_export.runtimes import RuntimeOptions
from tests.cli.program import run_program
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its artifact."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_model(folder, config_t(), transformers.ReformerForQuestionAnswering)
    outcome = run_program("onnx", checkpoint, folder / "out", "--no-verify")
    assert outcome.status == 0, outcome.stderr
    return checkpoint, folder / "out"


def test_eager_and_the_artifact_agree_and_all_name_their_outputs(exported: tuple[Path, Path]) -> None:
    checkpoint, out = exported
    options = RuntimeOptions(threads=1)
    ids = random_ids(50, 2, 20)
    assert ids.shape == (2, 20)
    assert np.array_equal(ids, random_ids(50, 2, 20))
    outputs = [
        open_contender(setup)(ids)
        for setup in (
            Setup("artifact", str(out), options),
            Setup("eager", str(out), options, checkpoint=str(checkpoint)),
            Setup("full-attention", str(out), options),
        )
    ]
    for found in outputs:
        assert {name: value.shape for name, value in found.items()} == {
            "start_logits": (2, 20),
            "end_logits": (2, 20),
        }
    for name, value in outputs[0].items():
        np.testing.assert_allclose(value, outputs[1][name], atol=1e-4)


def test_a_setup_is_json_and_back() -> None:
    options = RuntimeOptions("tensorrt-rtx", engine="x", cuda_graphs=True, check=False)
    setup = Setup("artifact", "out", options, "cuda")
    text = msgspec.json.encode(setup)
    assert msgspec.json.decode(text, type=Setup) == setup
    with pytest.raises((msgspec.ValidationError, InputError)):
        msgspec.json.decode(text.replace(b"tensorrt-rtx", b"onnxruntime"), type=Setup)


def test_eager_is_silent_only_where_it_is_measured() -> None:
    before = transformers.logging.get_verbosity()
    artifact = Setup("artifact", "out", RuntimeOptions())
    with silence_eager([artifact]):
        assert transformers.logging.get_verbosity() == before
    with silence_eager([artifact, Setup("eager", "out", RuntimeOptions())]):
        assert transformers.logging.get_verbosity() == transformers.logging.ERROR
    assert transformers.logging.get_verbosity() == before
