"""Tiny artifacts with known answers, built with onnx.helper: no exporter and no training needed.

The language model's logits are a row of a table, so that the token after t is t + 1 with certainty when
sampling takes the likeliest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, write_manifest
from reformer_export.custom_spec import AttentionUse, CustomSpec, CustomTensor, Dimension, custom_spec
from reformer_export.lucidrains_spec import LucidrainsSpec, NoPositionsSpec
from reformer_export.spec import (
    MAX_DIMENSION,
    DType,
    LearnedPositionsSpec,
    LocalAttentionSpec,
    LogitsPositions,
    LSHAttentionSpec,
    ModelSpec,
    Task,
)

OPSET = 18
DOMAIN = "reformer"
MAX_LENGTH = 64
ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def make_spec(
    task: Task = "text-generation", vocab_size: int = 258, logits: LogitsPositions = "all"
) -> ModelSpec:
    return ModelSpec(
        task=task,
        vocab_size=vocab_size,
        hidden_size=4,
        num_heads=2,
        head_size=2,
        feed_forward_size=8,
        hidden_act="relu",
        layer_norm_eps=1e-12,
        is_causal=task == "text-generation",
        positions=LearnedPositionsSpec(MAX_LENGTH),
        max_position_embeddings=MAX_LENGTH,
        layers=(
            LocalAttentionSpec(8, 1, 0),
            LSHAttentionSpec(8, 1, 0, num_hashes=2, num_buckets=(2, 4), hash_seed=7),
        ),
        num_labels=3,
        logits=logits,
    )


def next_token_table(vocab_size: int) -> NDArray[np.float32]:
    """Logits [token, next token]: 4 for the next token, else 0."""
    table: NDArray[np.float32] = 4 * np.eye(vocab_size, dtype=np.float32)
    return np.roll(table, 1, axis=1)


def write_artifact(
    folder: Path,
    task: Task = "text-generation",
    *,
    vocab_size: int = 258,
    logits: LogitsPositions = "all",
    dtype: DType = "float32",
    table: NDArray[np.float32] | None = None,
    files: dict[str, bytes] | None = None,
) -> Path:
    """Write an artifact into the new folder `folder`; `files` are added under the manifest's SHA-256."""
    folder.mkdir(parents=True)
    spec = make_spec(task, vocab_size, logits)
    onnx.save(make_model(spec, dtype, table), str(folder / MODEL_NAME))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    write_manifest(folder, make_manifest(folder, spec, dtype, (MODEL_NAME, *(files or {}))))
    return folder


def make_vector_spec() -> LucidrainsSpec:
    """An LSHSelfAttention of reformer-pytorch for vectors of 4 numbers: up to 4 tokens, or multiples of 8 up
    to 64."""
    return LucidrainsSpec(
        task="feature-extraction",
        vocab_size=0,
        hidden_size=4,
        num_heads=2,
        head_size=2,
        feed_forward_size=0,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        is_causal=False,
        positions=NoPositionsSpec(MAX_LENGTH),
        max_position_embeddings=MAX_LENGTH,
        layers=(LSHAttentionSpec(4, 1, 0, num_hashes=2, num_buckets=(), hash_seed=7),),
        embedding_size=4,
        bucket_size=4,
        is_padded=False,
        dense_threshold=4,
        norm="none",
        architecture="LSHSelfAttention",
    )


def write_vector_artifact(folder: Path, dtype: DType = "float32") -> Path:
    """An artifact in the new folder `folder` that adds its mask to its vectors, and is zero where that is."""
    folder.mkdir(parents=True)
    spec, element_type = make_vector_spec(), ELEMENT_TYPES[dtype]
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["ones"], to=element_type),
        helper.make_node("Unsqueeze", ["ones", "two"], ["column"]),
        helper.make_node("Add", ["inputs_embeds", "column"], ["sum"]),
        helper.make_node("Mul", ["sum", "column"], ["last_hidden_state"]),
    ]
    shape = ["batch", "sequence", spec.hidden_size]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("inputs_embeds", element_type, shape), _int64("attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", element_type, shape)],
        [numpy_helper.from_array(np.array([2], np.int64), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, str(folder / MODEL_NAME))
    write_manifest(folder, make_manifest(folder, spec, dtype, (MODEL_NAME,)))
    return folder


def make_custom_spec(dtype: DType = "float32", *, has_rows: bool = True) -> CustomSpec:
    """A module of a user's own with three inputs and two outputs, whose first dimension is rows, unless the
    second output has none."""
    batch = "batch"
    return custom_spec(
        inputs=(
            CustomTensor("series", dtype, (batch, "time", 3)),
            CustomTensor("context", "float32", (batch, 2)),
            CustomTensor("station", "int32", (batch,)),
        ),
        outputs=(
            CustomTensor("forecast", dtype, (batch, "time", 3)),
            CustomTensor("known", "bool", (batch,) if has_rows else ()),
        ),
        dimensions=(Dimension(batch, 1, MAX_DIMENSION), Dimension("time", 2, 48)),
        layers=(LSHAttentionSpec(4, 1, 0, num_hashes=2, num_buckets=(2,), hash_seed=7),),
        uses=(AttentionUse("encoder.attn", 0, "lucidrains", 2, 2, False, 1, 1),),
    )


def write_custom_artifact(folder: Path, dtype: DType = "float32", *, has_rows: bool = True) -> Path:
    """An artifact of `make_custom_spec`: the forecast is the series plus the context's sum; stations from 5
    on are known, or, without rows, whether any is."""
    folder.mkdir(parents=True)
    spec = make_custom_spec(dtype, has_rows=has_rows)
    types = {**ELEMENT_TYPES, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
    nodes = [
        helper.make_node("ReduceSum", ["context", "one"], ["sum"], keepdims=1),
        helper.make_node("Unsqueeze", ["sum", "one"], ["column"]),
        helper.make_node("Cast", ["column"], ["added"], to=types[dtype]),
        helper.make_node("Add", ["series", "added"], ["forecast"]),
        *(
            [helper.make_node("GreaterOrEqual", ["station", "five"], ["known"])]
            if has_rows
            else [helper.make_node("ReduceMax", ["station"], ["last"], keepdims=0)]
        ),
        *([] if has_rows else [helper.make_node("GreaterOrEqual", ["last", "five"], ["known"])]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in spec.inputs],
        [helper.make_tensor_value_info(each.name, types[each.dtype], each.shape) for each in spec.outputs],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array(5, np.int32), "five"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.save(model, str(folder / MODEL_NAME))
    write_manifest(folder, make_manifest(folder, spec, dtype, (MODEL_NAME,)))
    return folder


def custom_inputs(rows: int, time: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """What the module of `make_custom_spec` takes; numbers that every type of floats has."""
    rng = np.random.default_rng(seed)
    return {
        "series": rng.integers(-8, 9, (rows, time, 3)).astype(np.float32),
        "context": rng.integers(-8, 9, (rows, 2)).astype(np.float32),
        "station": rng.integers(0, 10, rows, dtype=np.int32),
    }


def custom_outputs(inputs: dict[str, NDArray[Any]], *, has_rows: bool = True) -> dict[str, NDArray[Any]]:
    """What it answers."""
    known = inputs["station"] >= 5
    return {
        "forecast": inputs["series"] + inputs["context"].sum(axis=1)[:, None, None],
        "known": known if has_rows else np.array(known.any()),
    }


def make_manifest(folder: Path, spec: ModelSpec, dtype: DType, names: tuple[str, ...]) -> Manifest:
    return Manifest(
        spec=spec,
        dtype=dtype,
        opset=OPSET,
        operators={"LSHBuckets": 1, "LSHAttention": 1, "LocalAttention": 1},
        source={"checkpoint": "tiny", "kind": "test"},
        rotations_sha256={"1": "0" * 64},
        versions={"reformer-export": "0.1.0"},
        files={name: sha256_of_file(folder / name) for name in names},
    )


def make_model(spec: ModelSpec, dtype: DType = "float32", table: NDArray[np.float32] | None = None) -> Any:
    """A model with the right inputs and outputs; its table passes through a `reformer` function."""
    element_type = ELEMENT_TYPES[dtype]
    if table is None:
        table = _table_of_task(spec)
    nodes = [helper.make_node("TableRead", ["table"], ["seen"], domain=DOMAIN, plugin_namespace=DOMAIN)]
    if spec.task == "question-answering":
        nodes += _question_answering_nodes()
    elif spec.task == "text-classification":
        nodes += _first_token_nodes()
    elif spec.logits == "last":
        nodes += _last_token_nodes()
    else:
        nodes.append(helper.make_node("Gather", ["seen", "input_ids"], [spec.output_names[0]]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [_int64("input_ids"), _int64("attention_mask")],
        [helper.make_tensor_value_info(name, element_type, None) for name in spec.output_names],
        [_tensor("table", table, element_type), *_constants()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(
        graph, opset_imports=imports, ir_version=10, functions=[_pass_through_function(element_type)]
    )


def make_bare_node_model() -> Any:
    """Case 9: one node of domain `reformer` that nothing can run."""
    graph = helper.make_graph(
        [helper.make_node("LSHBuckets", ["x"], ["y"], domain=DOMAIN)],
        "bare",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _table_of_task(spec: ModelSpec) -> NDArray[np.float32]:
    if spec.task in ("text-generation", "fill-mask"):
        return next_token_table(spec.vocab_size)
    width = {"text-classification": spec.num_labels, "question-answering": 2}.get(
        spec.task, 2 * spec.hidden_size
    )
    rows = np.arange(spec.vocab_size * width, dtype=np.float32).reshape(spec.vocab_size, width)
    return rows / 8


def _pass_through_function(element_type: int) -> Any:
    """Cast to float32 and back, as the real bodies do, so that widening has something to do."""
    return helper.make_function(
        DOMAIN,
        "TableRead",
        ["x"],
        ["y"],
        [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["wide"], ["y"], to=element_type),
        ],
        [helper.make_opsetid("", OPSET)],
        ["plugin_namespace"],
    )


def _question_answering_nodes() -> list[Any]:
    return [
        helper.make_node("Gather", ["seen", "input_ids"], ["pairs"]),
        helper.make_node("Split", ["pairs"], ["start", "end"], axis=2, num_outputs=2),
        helper.make_node("Squeeze", ["start", "two"], ["start_logits"]),
        helper.make_node("Squeeze", ["end", "two"], ["end_logits"]),
    ]


def _first_token_nodes() -> list[Any]:
    return [
        helper.make_node("Gather", ["input_ids", "zero"], ["first"], axis=1),
        helper.make_node("Gather", ["seen", "first"], ["logits"]),
    ]


def _last_token_nodes() -> list[Any]:
    return [
        helper.make_node("ReduceSum", ["attention_mask", "ones"], ["count"], keepdims=1),
        helper.make_node("Sub", ["count", "ones"], ["last"]),
        helper.make_node("Unsqueeze", ["last", "two"], ["index"]),
        helper.make_node("GatherND", ["input_ids", "index"], ["token"], batch_dims=1),
        helper.make_node("Gather", ["seen", "token"], ["logits"]),
    ]


def _constants() -> list[Any]:
    return [
        numpy_helper.from_array(np.array([1], np.int64), "ones"),
        numpy_helper.from_array(np.array([2], np.int64), "two"),
        numpy_helper.from_array(np.array(0, np.int64), "zero"),
    ]


def _int64(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])


def _tensor(name: str, values: NDArray[np.float32], element_type: int) -> Any:
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    return numpy_helper.from_array(values.astype(dtype), name)
