"""Configurations against Triton's own definition of them, and against the graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import np_to_triton_dtype

from reformer_export import load, write_triton_repository
from reformer_export.artifact.engine_record import EngineProfile
from reformer_export.libraries.operators import find_native_library
from reformer_export.spec import TASKS, DType, LogitsPositions, Task
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import make_artifact, write_engine, write_library
from tests.serving.triton.engines import EMBEDDED

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(int64)": "TYPE_INT64"}


def read_config(repository: Path, name: str = "reformer") -> Any:
    text = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def kind_of(tensor: Any) -> str:
    return model_config_pb2.DataType.Name(tensor.data_type)


@pytest.mark.parametrize(
    ("task", "logits"), [("text-generation", "last"), *((task, "all") for task in TASKS)]
)
def test_python_has_the_shapes_that_a_run_gives(tmp_path: Path, task: Task, logits: LogitsPositions) -> None:
    out = write_artifact(tmp_path / "OUT", task, logits=logits)
    repository = write_triton_repository(out, tmp_path / "R", queue_delay=7, max_batch_size=5, instances=3)
    config = read_config(repository.folder)
    assert (config.name, config.backend, config.max_batch_size) == ("reformer", "python", 5)
    assert config.dynamic_batching.max_queue_delay_microseconds == 7
    assert [(each.count, each.kind) for each in config.instance_group] == [(3, 0)]  # KIND_AUTO
    assert [
        (each.name, kind_of(each), list(each.dims), each.allow_ragged_batch, each.optional)
        for each in config.input
    ] == [
        ("input_ids", "TYPE_INT64", [-1], True, False),
        ("attention_mask", "TYPE_INT64", [-1], True, True),
    ]
    with load(out, provider="cpu") as model:
        outputs = model.run([[5, 6, 7, 8]])
    assert [each.name for each in config.output] == list(outputs)
    for each, value in zip(config.output, outputs.values(), strict=True):
        assert kind_of(each) == f"TYPE_{np_to_triton_dtype(value.dtype)}"
        assert [4 if size == -1 else size for size in each.dims] == list(value.shape[1:])
    assert repository.record.models == (
        ("reformer", "reformer-generate") if task == "text-generation" else ("reformer",)
    )


def test_the_model_that_writes(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "OUT")
    write_triton_repository(out, tmp_path / "R", provider="cpu", threads=2, name="a.b", streams=3)
    config = read_config(tmp_path / "R", "a.b-generate")
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert all(each.optional for each in config.input)
    assert [each.name for each in config.output] == ["token_id", "text_output", "stop_reason"]
    assert config.parameters["runtime_options"].string_value == '{"provider": "cpu", "threads": 2}'
    limits = {key: config.parameters[key].string_value for key in ("max_streams", "max_cache", "max_waiting")}
    assert limits == {"max_streams": "3", "max_cache": "4294967296", "max_waiting": "256"}
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_onnxruntime_has_what_the_graph_says(tmp_path: Path, dtype: DType) -> None:
    out = write_artifact(tmp_path / "OUT", dtype=dtype)
    write_triton_repository(out, tmp_path / "R", backend="onnxruntime", threads=2, native="off")
    config = read_config(tmp_path / "R")
    session = onnxruntime.InferenceSession(tmp_path / "R" / "reformer" / "1" / config.default_model_filename)
    for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [(each.name, kind_of(each)) for each in ours] == [
            (each.name, TYPES[each.type]) for each in theirs
        ]
    assert {key: each.string_value for key, each in config.parameters.items()} == {
        "enable_mem_pattern": "0",
        "intra_op_thread_count": "2",
    }
    (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
    assert not config.model_operations.op_library_filename
    assert [each.zero_data for each in config.model_warmup[0].inputs.values()] == [True, True]


@pytest.mark.parametrize("mounted_at", [None, "/models/", "/"])
def test_onnxruntime_finds_the_library_where_the_server_sees_it(
    tmp_path: Path, mounted_at: str | None
) -> None:
    library = find_native_library()
    if library is None:
        pytest.skip("no native library")
    out = write_artifact(tmp_path / "OUT")
    write_triton_repository(out, tmp_path / "R", backend="onnxruntime", provider="cpu", mounted_at=mounted_at)
    config = read_config(tmp_path / "R")
    place = (mounted_at or str(tmp_path / "R")).rstrip("/")
    (path,) = config.model_operations.op_library_filename
    assert path == f"{place}/reformer/1/{library.path.name}"
    assert not config.HasField("optimization")
    copied = tmp_path / "R" / "reformer" / "1" / library.path.name
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(copied))
    session = onnxruntime.InferenceSession(copied.with_name("model.onnx"), options)
    assert session.get_outputs()[0].name == config.output[0].name


def test_tensorrt_takes_every_profile(tmp_path: Path) -> None:
    library = write_library(tmp_path)
    out = make_artifact(tmp_path, library)
    profiles = (EngineProfile((1, 1), (2, 8), (8, 16)), EngineProfile((1, 16), (1, 32), (4, 64)))
    write_engine(out, library, "carried", profiles=profiles, **EMBEDDED)
    said: list[str] = []
    repository = write_triton_repository(
        out, tmp_path / "R", backend="tensorrt", engine="carried", allow_engine_code=True, say=said.append
    )
    config = read_config(tmp_path / "R")
    assert (config.backend, config.default_model_filename, config.max_batch_size) == (
        "tensorrt",
        "model.plan",
        4,
    )
    assert said == ["Note: max_batch_size is 4, the most that all profiles of the engine take."]
    (group,) = config.instance_group
    assert (group.kind, list(group.profile)) == (model_config_pb2.ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert [list(each.dims) for each in config.model_warmup[0].inputs.values()] == [[8], [8]]
    assert (tmp_path / "R" / "reformer" / "1" / "model.plan").read_bytes() == (
        out / "engines" / "carried.engine"
    ).read_bytes()
    readme = (tmp_path / "R" / "README.md").read_text(encoding="utf-8")
    option = "--backend-config=tensorrt,version-compatible=true"
    assert f"tritonserver --model-repository={repository.folder} {option}" in readme
    assert re.search(r"TensorRT \d+\.\d+.*; a GPU of compute capability", readme)
