"""Engines built by the real TensorRT-RTX with the real plugin library, on a machine without a GPU too."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import onnx
import pytest
from transformers import ReformerForMaskedLM, ReformerModelWithLMHead

from reformer_export.artifact.engine_record import EngineFlags, EngineProfile, read_engine_record
from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import EXTERNAL_DATA_NAME, MODEL_NAME, read_manifest, write_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface, load_lucidrains
from reformer_export.engine import EngineOptions, build_engine
from reformer_export.engine.gpus import find_compute_capability
from reformer_export.errors import EngineError, InputError, RuntimeUnavailableError
from reformer_export.export import ExportOptions
from reformer_export.export import write_artifact as export_artifact
from reformer_export.libraries.tensorrt import TensorRTLibrary
from reformer_export.low_precision import LowPrecision, WeightsType
from reformer_export.spec import DTYPES, DType
from tests.engine.real import require_tensorrt_rtx
from tests.hf_models import config_t, save_model
from tests.lucidrains import SMALL
from tests.lucidrains import save_model as save_lucidrains
from tests.runtimes.artifacts import make_manifest, make_model, make_spec

pytestmark = pytest.mark.tensorrt

KJV = Path(__file__).parents[2] / "models" / "kjv-bytes"
ASKED = ("8.0", "8.9", "12.0")
RTX = EngineOptions("tensorrt-rtx", compute_capabilities=ASKED)

Export = Callable[..., Path]


@pytest.fixture(scope="module")
def library() -> TensorRTLibrary:
    return require_tensorrt_rtx()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, library: TensorRTLibrary) -> Export:
    """The artifact of a checkpoint in a dtype, exported once."""
    done: dict[object, Path] = {}

    def run(checkpoint: Path, dtype: DType = "float32", threshold: int = 2**31) -> Path:
        key = (checkpoint, dtype, threshold)
        if key not in done:
            out = tmp_path_factory.mktemp(f"{checkpoint.name}-{dtype}")
            options = ExportOptions(dtype, external_data_threshold=threshold)
            export_artifact(load_huggingface(str(checkpoint), LoadOptions()), out, options)
            done[key] = out
        return done[key]

    return run


@pytest.fixture(scope="module")
def long_checkpoint(tmp_path_factory: pytest.TempPathFactory, library: TensorRTLibrary) -> Path:
    """Random weights, chunks of 64, up to 32,768 tokens."""
    config = config_t(
        is_decoder=True,
        axial_pos_shape=[128, 256],
        max_position_embeddings=32768,
        num_buckets=[16, 32],
        local_attn_chunk_length=64,
        lsh_attn_chunk_length=64,
    )
    return save_model(tmp_path_factory.mktemp("long"), config, ReformerModelWithLMHead)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_demo_model(export: Export, library: TensorRTLibrary, dtype: DType) -> None:
    out = export(KJV, dtype)
    build = build_engine(out, RTX)
    record = read_engine_record(out, "tensorrt-rtx")
    assert record == build.record
    assert record.plugin_layers == {"LSHAttention": 3, "LSHBuckets": 3, "LocalAttention": 3}
    assert record.compute_capabilities == ASKED
    assert record.profiles == (EngineProfile((1, 1), (1, 512), (1, 2048)),)
    assert record.dtype == dtype
    assert record.runtime_version.count(".") == 3
    assert record.model_sha256 == sha256_of_file(out / MODEL_NAME)
    assert record.engine_sha256 == sha256_of_file(build.path)
    assert record.plugin.sha256 == sha256_of_file(library.path)
    assert (record.plugin.version, record.plugin.embedded) == (library.version, False)
    weights = (out / MODEL_NAME).stat().st_size
    assert weights * 0.9 < record.engine_bytes < weights + 2**23


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_weights_of_few_bits(tmp_path: Path, library: TensorRTLibrary, weights: WeightsType) -> None:
    """TensorRT takes the body of Linear, int8 weights and all; and int4 in blocks."""
    config = config_t(hidden_act="gelu", hidden_size=32, attention_head_size=16, axial_pos_embds_dim=[16, 16])
    folder = save_model(tmp_path, config, ReformerForMaskedLM)
    out = tmp_path / "out"
    out.mkdir()
    options = ExportOptions("float16", opset=21, low_precision=LowPrecision(weights))
    export_artifact(load_huggingface(str(folder), LoadOptions()), out, options)
    record = build_engine(out, dataclasses.replace(RTX, compute_capabilities=("8.9",))).record
    assert record.plugin_layers == {"LSHAttention": 1, "LSHBuckets": 1, "LocalAttention": 1}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("compute_capability", ASKED)
def test_long_sequences_for_one_gpu(
    export: Export, long_checkpoint: Path, dtype: DType, compute_capability: str
) -> None:
    options = EngineOptions(
        "tensorrt-rtx",
        name=f"sm{compute_capability}",
        compute_capabilities=(compute_capability,),
        profiles=(EngineProfile((1, 1), (1, 4096), (2, 16384)), EngineProfile((1, 1), (1, 8192), (1, 32768))),
    )
    record = build_engine(export(long_checkpoint, dtype), options).record
    assert record.compute_capabilities == (compute_capability,)
    assert record.plugin_layers == {"LSHAttention": 1, "LSHBuckets": 1, "LocalAttention": 1}
    assert len(record.profiles) == 2


def test_weights_in_a_file_of_their_own(export: Export, long_checkpoint: Path) -> None:
    out = export(long_checkpoint, threshold=0)
    assert (out / EXTERNAL_DATA_NAME).is_file()
    assert build_engine(out, RTX).record.plugin_layers["LSHAttention"] == 1


REFORMER_PYTORCH: Final = {
    "LSHBuckets": {"num_buckets": []},
    "LSHAttention": {"self_logit": -5e4, "dense_threshold": 4096},
    "LocalAttention": {"self_logit": -5e4, "wraps": 0},
}
"""Attributes as nodes of such a model have them."""


@pytest.mark.parametrize("older", [False, True])
def test_nodes_of_another_reformer_and_of_older_files(
    export: Export, long_checkpoint: Path, tmp_path: Path, older: bool
) -> None:
    """The parser passes lists without elements, and it may find no attribute where there is a default."""
    out = tmp_path / "artifact"
    shutil.copytree(export(long_checkpoint), out)
    model = onnx.load(str(out / MODEL_NAME))
    for node in model.graph.node:
        changed = REFORMER_PYTORCH.get(node.op_type, {})
        kept = [attribute for attribute in node.attribute if attribute.name not in changed]
        if not older:
            kept += [
                onnx.helper.make_attribute(
                    name, value, attr_type=onnx.AttributeProto.INTS if value == [] else None
                )
                for name, value in changed.items()
            ]
        elif node.op_type == "LSHBuckets":
            kept = list(node.attribute)
        del node.attribute[:]
        node.attribute.extend(kept)
    onnx.save(model, str(out / MODEL_NAME))
    manifest = read_manifest(out)
    files = manifest.files | {MODEL_NAME: sha256_of_file(out / MODEL_NAME)}
    write_manifest(out, dataclasses.replace(manifest, files=files))
    options = EngineOptions("tensorrt-rtx", compute_capabilities=("8.9",), name="other")
    record = build_engine(out, options).record
    assert record.plugin_layers == {"LSHAttention": 1, "LSHBuckets": 1, "LocalAttention": 1}


def test_a_model_of_reformer_pytorch_with_memories(tmp_path: Path, library: TensorRTLibrary) -> None:
    file, config = save_lucidrains(tmp_path, SMALL | {"pkm_layers": [1], "pkm_num_keys": 40})
    out = tmp_path / "out"
    out.mkdir()
    export_artifact(load_lucidrains(str(file), config, LoadOptions()), out, ExportOptions("float16"))
    record = build_engine(out, EngineOptions("tensorrt-rtx", compute_capabilities=("8.9",))).record
    assert record.plugin_layers == {"LSHAttention": 2, "LSHBuckets": 2}


def test_an_engine_that_carries_the_library(
    export: Export, long_checkpoint: Path, library: TensorRTLibrary
) -> None:
    out = export(long_checkpoint)
    plain = build_engine(out, EngineOptions("tensorrt-rtx", "plain", compute_capabilities=("8.0",))).record
    options = EngineOptions("tensorrt-rtx", "carries", compute_capabilities=("8.0",), embed_plugin=True)
    carries = build_engine(out, options).record
    assert carries.plugin.embedded
    assert carries.engine_bytes - plain.engine_bytes >= library.path.stat().st_size


def test_the_log_s_error_is_the_cause(export: Export, long_checkpoint: Path) -> None:
    options = EngineOptions("tensorrt-rtx", compute_capabilities=("8.0",), workspace=1024, name="small")
    with pytest.raises(EngineError, match=r"got '\[?[Mm]yelin.* from TensorRT's builder.*`workspace`"):
        build_engine(export(long_checkpoint), options)


def test_hopper_is_refused_with_the_list_of_others(export: Export, long_checkpoint: Path) -> None:
    options = EngineOptions("tensorrt-rtx", "hopper", compute_capabilities=("9.0",))
    with pytest.raises(InputError, match=r"got 9\.0, expected one of 7\.5, 8\.0, 8\.6, 8\.9, 12\.0"):
        build_engine(export(long_checkpoint), options)


@pytest.mark.skipif(find_compute_capability() is not None, reason="is about a machine without a GPU")
def test_without_a_gpu(export: Export, long_checkpoint: Path) -> None:
    out = export(long_checkpoint)
    with pytest.raises(RuntimeUnavailableError, match=r"compute_capabilities: got none on a machine without"):
        build_engine(out, EngineOptions("tensorrt-rtx", "none"))
    options = EngineOptions("tensorrt-rtx", "r", compute_capabilities=("8.0",), flags=EngineFlags(refit=True))
    with pytest.raises(RuntimeUnavailableError, match="which TensorRT-RTX needs"):
        build_engine(out, options)


def test_a_node_that_would_run_its_function_body_is_refused(tmp_path: Path, library: TensorRTLibrary) -> None:
    """Without the attribute plugin_namespace TensorRT takes the body and says nothing."""
    spec = make_spec()
    model = make_model(spec)
    (node,) = [node for node in model.graph.node if node.domain == "reformer"]
    node.op_type = model.functions[0].name = "LocalAttention"
    del node.attribute[:]
    onnx.save(model, str(tmp_path / MODEL_NAME))
    write_manifest(tmp_path, make_manifest(tmp_path, spec, "float32", (MODEL_NAME,)))
    with pytest.raises(
        EngineError, match="got plugin layers none, expected 1 LocalAttention as the model has"
    ):
        build_engine(tmp_path, RTX)
