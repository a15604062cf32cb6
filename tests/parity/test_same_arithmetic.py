"""The graph that verify exposes computes what a run of the artifact computes, to the bit.

bfloat16 is not here: on the CPU the exposed graph rounds as bfloat16 kernels do, and a run does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers
from numpy.typing import NDArray

import reformer_export
from reformer_export.artifact.decoding import DECODE_NAME
from reformer_export.artifact.manifest import MODEL_NAME, read_manifest
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import NativeMode
from reformer_export.low_precision import LowPrecision
from reformer_export.parity import expose
from reformer_export.parity.cases import make_inputs
from reformer_export.parity.decoding_cases import DecodingCase, Row, draw_ids
from reformer_export.parity.decoding_run import DecodeRunner
from reformer_export.parity.expose import open_graph
from reformer_export.parity.graph_points import find_hashing
from reformer_export.runtimes import float32_products
from tests import lucidrains
from tests.export.test_export import export
from tests.hf_models import config_t, save_model
from tests.ops.test_native_linear import require_products
from tests.parity.planted import CASE, Artifact, write_planted

FLOAT32, INT8 = ExportOptions(), ExportOptions(low_precision=LowPrecision("int8", ("value",)))
SHARED = ("decoder", "num_hashes", "memories")
"""Of tests/parity/planted.py: in float16, with fewer rounds to choose, and of reformer-pytorch in float32."""


def export_wide(root: Path, options: ExportOptions = FLOAT32, vocab_size: int = 50) -> None:
    """With the activation that the operator library rounds otherwise than ONNX Runtime."""
    size = {"hidden_size": 64, "axial_pos_embds_dim": [32, 32], "feed_forward_size": 200}
    config = config_t(hidden_act="gelu", vocab_size=vocab_size, **size)
    export(save_model(root, config, transformers.ReformerForMaskedLM), root / "out", options)


def export_decoder(root: Path) -> None:
    size = {"hidden_size": 64, "axial_pos_embds_dim": [32, 32], "feed_forward_size": 200}
    config = config_t(is_decoder=True, hidden_act="gelu", **size)
    checkpoint = save_model(root, config, transformers.ReformerModelWithLMHead)
    reformer_export.export_checkpoint(checkpoint, root / "out", decode=True, verify=False)


def export_lucidrains_int8(root: Path) -> None:
    more = {"depth": 1}
    file, config = lucidrains.save_model(root, lucidrains.SMALL | more, "Autopadder")
    (root / "out").mkdir()
    write_artifact(load_lucidrains(str(file), config, LoadOptions()), root / "out", INT8)


OWN = {
    "wide": export_wide,
    "partly large": partial(export_wide, vocab_size=float32_products.MOST_NUMBERS // 128 + 1),
    "int8": partial(export_wide, options=INT8),
    "lucidrains int8": export_lucidrains_int8,
}
DECODER = "decoder of steps"


def run_both(
    folder: Path, scratch: Path, native: NativeMode = "auto"
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """(what the exposed graph hashes, chooses and puts out, what a run of the artifact does), by point."""
    manifest = read_manifest(folder)
    model = onnx.load(str(folder / MODEL_NAME), load_external_data=False)
    points = find_hashing(model, manifest.spec)
    inside = [point for point in points if point.value not in {value.name for value in model.graph.output}]

    def put_out(planted: onnx.ModelProto) -> None:
        planted.graph.output.extend(
            onnx.helper.make_tensor_value_info(point.value, point.elem_type, None) for point in inside
        )

    write_planted(folder, manifest, put_out, scratch)
    inputs = dict(zip(manifest.spec.input_names, make_inputs(manifest.spec, CASE, 0), strict=True))
    with reformer_export.load(folder, provider="cpu", threads=1, native=native) as runtime:
        ran = dict(runtime.run(inputs))
        placement = runtime.placement
    with reformer_export.load(scratch, provider="cpu", threads=1, native=native) as runtime:
        names = [point.value for point in inside]
        session = runtime._find_session(MODEL_NAME)
        ran |= zip((point.name for point in inside), session.run(names, inputs), strict=True)
    if manifest.runtime_num_hashes is not None:
        inputs["num_hashes"] = np.array([manifest.runtime_num_hashes.max_hashes])
    with open_graph(folder / MODEL_NAME, placement) as graph:
        return graph.expose([], points).run(inputs, {}), ran


@pytest.fixture(scope="module")
def own_artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp("own")
            (export_decoder if name == DECODER else OWN[name])(root)
            made[name] = root / "out"
        return made[name]

    return make


@pytest.fixture
def find_folder(
    artifacts: Callable[[str], Artifact], own_artifacts: Callable[[str], Path]
) -> Callable[[str], Path]:
    return lambda name: own_artifacts(name) if name in OWN else artifacts(name).folder


@pytest.mark.parametrize(("name", "native"), [("wide", "off"), *((name, "auto") for name in (*SHARED, *OWN))])
def test_outputs_and_buckets_are_those_of_a_run(
    find_folder: Callable[[str], Path], tmp_path: Path, name: str, native: NativeMode
) -> None:
    exposed, ran = run_both(find_folder(name), tmp_path, native)
    assert any(name.endswith((".buckets", ".choice")) for name in ran)
    assert ran.keys() == exposed.keys()
    for name, value in ran.items():
        np.testing.assert_array_equal(exposed[name], value.astype(exposed[name].dtype), err_msg=name)


@pytest.mark.parametrize("name", ["wide", "partly large"])
def test_other_products_on_one_side_would_be_seen(
    own_artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    require_products("float32")
    monkeypatch.setattr(expose, "fuses_dense_layers", lambda _name: False)
    exposed, ran = run_both(own_artifacts(name), tmp_path)
    assert not np.array_equal(exposed["logits"], ran["logits"])


def decode_both(folder: Path) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """The logits after a prompt and after each of its steps: (the exposed graph's, a decoding's)."""
    manifest, case = read_manifest(folder), DecodingCase((Row(11, 8),))
    ids = draw_ids(manifest.spec, case, 0)
    with (
        reformer_export.load(folder, provider="cpu", threads=1) as runtime,
        runtime.start_decoding() as state,
    ):
        with open_graph(folder / DECODE_NAME, runtime.placement) as graph:
            exposed = list(DecodeRunner(graph, manifest, pinned=False).run(case, ids).logits.values())
        key = state.add(ids[0, :11].tolist())
        decoded = [state.logits(key)]
        for token in ids[0, 11:19].tolist():
            state.step({key: token})
            decoded.append(state.logits(key))
    return exposed, decoded


def test_prompts_and_steps_are_those_of_decoding(own_artifacts: Callable[[str], Path]) -> None:
    np.testing.assert_array_equal(*decode_both(own_artifacts(DECODER)))


def test_other_products_of_prompts_would_be_seen(
    own_artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_products("float32")
    monkeypatch.setattr(expose, "fuses_dense_layers", lambda _name: True)
    exposed, decoded = decode_both(own_artifacts(DECODER))
    assert not np.array_equal(exposed, decoded)
