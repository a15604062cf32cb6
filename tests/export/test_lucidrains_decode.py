"""decode.onnx of reformer-pytorch's models in ONNX Runtime, with the native library and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

import reformer_export
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import NativeMode, find_native_library
from reformer_export.modeling import build_model
from reformer_export.modeling.lucidrains import LucidrainsReformer
from reformer_export.parity.decoding import check_decoding
from reformer_export.parity.decoding_cases import DecodingCase, Row
from reformer_export.parity.session import open_session
from reformer_export.runtimes import RuntimeOptions, float32_products
from tests.lucidrains import SMALL, save_model
from tests.modeling.test_lucidrains_decoder import FrozenPast

pytestmark = pytest.mark.usefixtures("translated_as_captured")

CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rotary, dense first": ({"depth": 1, "full_attn_thres": 16, "one_value_head": True, "ff_glu": True}, {}),
    "local heads, rounds": (
        {"n_local_attn_heads": 2, "weight_tie": True, "absolute_position_emb": True},
        {"runtime_num_hashes": True},
    ),
}
PROMPTS = (1, 7, 15, 23)
STEPS = 4
"""Over the borders at 8, 16 and 24 tokens: of chunks, of padding, of buckets, of dense attention."""


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt, kwargs.json and the artifact `out`; not to be changed."""
    keywords, options = CONFIGURATIONS[request.param]
    folder = tmp_path_factory.mktemp("decoder")
    file, config = save_model(folder, SMALL | keywords)
    checkpoint = load_lucidrains(str(file), config, LoadOptions())
    (folder / "out").mkdir()
    write_artifact(checkpoint, folder / "out", ExportOptions(decode=True, **options))
    return folder


@pytest.fixture
def summed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole passes sum dense layers as ONNX Runtime does, which steps always do."""
    monkeypatch.setattr(float32_products, "MOST_BYTES", 0)


def modes() -> list[NativeMode]:
    return ["off", *(["auto"] if find_native_library("auto") else [])]  # type: ignore[list-item]


def decode(state: Any, ids: NDArray[np.int64], prompts: tuple[int, ...]) -> list[list[NDArray[np.float32]]]:
    """Each prompt's logits, and those after every step that all take together."""
    keys = [state.add(ids[:length].tolist()) for length in prompts]
    logits = [[state.logits(key)] for key in keys]
    for step in range(STEPS):
        state.step({key: int(ids[length + step]) for key, length in zip(keys, prompts, strict=True)})
        for found, key in zip(logits, keys, strict=True):
            found.append(state.logits(key))
    for key in keys:
        state.remove(key)
    return logits


@pytest.mark.slow
@pytest.mark.usefixtures("summed_alike")
def test_it_is_the_model_s_prompt_each_row_alone_and_the_operators_last_rows(artifact: Path) -> None:
    checkpoint = load_lucidrains(str(artifact / "model.pt"), artifact / "kwargs.json", LoadOptions())
    model = build_model(checkpoint.spec, checkpoint.weights)
    assert isinstance(model, LucidrainsReformer)
    ids = np.random.default_rng(0).integers(0, 50, 64)
    for native in modes():
        with (
            reformer_export.load(artifact / "out", provider="cpu", native=native) as runtime,
            runtime.start_decoding() as state,
        ):
            together = decode(state, ids, PROMPTS)
            for length, logits in zip(PROMPTS, together, strict=True):
                (alone,) = decode(state, ids, (length,))
                np.testing.assert_array_equal(np.stack(logits), np.stack(alone))
                np.testing.assert_array_equal(logits[0], runtime.run(ids[None, :length])["logits"][0, -1])
                with torch.no_grad():
                    past = FrozenPast(model, torch.from_numpy(ids[:length]))
                    expected = [past.logits[0, -1], *(past.take(int(ids[length + i])) for i in range(STEPS))]
                np.testing.assert_allclose(np.stack(logits), np.stack(expected), rtol=0, atol=5e-5)


@pytest.mark.slow
def test_it_is_judged(artifact: Path) -> None:
    """A sound one passes, and one whose step sees another window does not."""
    cases = [DecodingCase((Row(5), Row(17))), DecodingCase((Row(6, 4), Row(22, 4)))]
    with open_session(artifact / "out", artifact / "model.pt") as session:
        result = check_decoding(session, cases)
        assert result.passed, result.verdict()
        assert result.checks == ["prompt", "operator", "batch"]
        assert result.worst("batch").error == 0
        assert result.worst("prompt").error <= 1e-6  # decode.onnx has other products
        assert result.hashed > 0
    path = artifact / "out" / "decode.onnx"
    whole = path.read_bytes()
    try:
        decoder = onnx.load(str(path), load_external_data=False)
        node = next(each for each in decoder.graph.node if each.op_type == "LSHBucketsStep")
        next(each for each in node.attribute if each.name == "padding_multiple").i = 4
        onnx.save(decoder, str(path))
        options = RuntimeOptions(provider="cpu", check=False)
        with open_session(artifact / "out", artifact / "model.pt", options, eager=session.eager) as broken:
            result = check_decoding(broken, cases[1:])
            assert {finding.check for finding in result.failed} == {"operator"}
            assert "LSHBucketsStep" in result.verdict()
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.usefixtures("summed_alike")
def test_runs_choose_their_rounds(artifact: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 50, 40).tolist()
    with reformer_export.load(artifact / "out", provider="cpu") as runtime:
        choice = runtime.manifest.runtime_num_hashes
        for rounds in () if choice is None else choice.counts:
            with runtime.start_decoding(num_hashes=rounds) as state:
                key = state.add(ids)
                expected = runtime.run(np.array([ids]), num_hashes=rounds)["logits"][0, -1]
                np.testing.assert_array_equal(state.logits(key), expected)
                state.step({key: 3})
