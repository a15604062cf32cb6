"""decode.onnx as it is exported: on model.onnx's weights, the same bytes each time, refused without steps."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import transformers

from reformer_export import export_checkpoint
from reformer_export.artifact.decoding import cache_tensors, check_decodable
from reformer_export.artifact.manifest import Manifest, check_files, read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.contract import MAX_OPSET, MIN_OPSET
from reformer_export.errors import ArtifactError, InputError
from reformer_export.modeling import Decoder, build_model
from tests.hf_models import config_t, save_model
from tests.modeling.test_reformer import HEADS

pytestmark = pytest.mark.usefixtures("translated_as_captured")

CONFIG = {"is_decoder": True, "hidden_size": 32, "axial_pos_embds_dim": [16, 16], "attention_head_size": 16}
"""Configuration T with weights above 1 KiB, as a decoder."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decode")
    return save_model(folder, config_t(**CONFIG), transformers.ReformerModelWithLMHead)


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("decode") / "out")


def export(checkpoint: Path, out: Path, **options: Any) -> Path:
    export_checkpoint(checkpoint, out, decode=True, verify=False, **options)
    return out


def read_graph(out: Path, name: str = "decode.onnx") -> onnx.GraphProto:
    return onnx.load(str(out / name), load_external_data=False).graph


def places(graph: onnx.GraphProto) -> dict[str, tuple[str, str, str]]:
    """By initialiser, the file, offset and length of those that are external."""
    keys = ("location", "offset", "length")
    found = {}
    for tensor in graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            found[tensor.name] = tuple(entries[key] for key in keys)
    return found


def test_its_weights_are_model_onnx_s(exported: Path) -> None:
    graph, model = read_graph(exported), read_graph(exported, "model.onnx")
    external = places(graph)
    assert {file for file, _, _ in external.values()} == {"model.onnx.data"}
    assert set(external.values()) <= set(places(model).values())
    inside = [tensor for tensor in graph.initializer if tensor.name not in external]
    assert all(len(tensor.raw_data) <= 1024 for tensor in inside)
    assert len(external) >= 10
    check_files(exported, read_manifest(exported))
    size = sum(int(length) for _, _, length in set(places(model).values()))
    padding = 64 * len(model.initializer) + 4096 * len(places(model))  # where its tensors begin
    assert (exported / "model.onnx.data").stat().st_size <= size + padding


def test_the_same_bytes_every_time(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    again = export(checkpoint, tmp_path / "elsewhere" / "out")
    assert read_manifest(again).files == read_manifest(exported).files
    assert str(tmp_path) not in (again / "decode.onnx").read_bytes().decode("latin-1")


def test_without_it_nothing_changes(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tmp_path / "out", verify=False)
    assert not (tmp_path / "out" / "decode.onnx").exists()
    assert read_manifest(tmp_path / "out").decode is None
    nodes = [
        graph.node
        for graph in (read_graph(exported, "model.onnx"), read_graph(tmp_path / "out", "model.onnx"))
    ]
    assert [node.SerializeToString() for node in nodes[0]] == [node.SerializeToString() for node in nodes[1]]


@pytest.mark.parametrize(("dtype", "max_hashes"), [("float32", None), ("float16", 3), ("bfloat16", None)])
def test_inputs_and_outputs(checkpoint: Path, tmp_path: Path, dtype: str, max_hashes: int | None) -> None:
    out = export(checkpoint, tmp_path / "out", dtype=dtype, max_hashes=max_hashes)
    graph, kind = read_graph(out), {"float32": 1, "float16": 10, "bfloat16": 16}[dtype]
    rounds = 2 if max_hashes is None else "num_hashes"
    caches = [
        ("0.key", kind, ["batch", 16, 32]),
        ("0.value", kind, ["batch", 16, 32]),
        ("1.query_key", kind, ["batch", "capacity", 32]),
        ("1.value", kind, ["batch", "capacity", 32]),
        ("1.buckets", 6, ["batch", 2, rounds, "capacity"]),
    ]
    inputs = [
        ("input_ids", 7, ["batch", "sequence"]),
        ("lengths", 6, ["batch"]),
        ("new_lengths", 6, ["batch"]),
        *((f"past.{name}", *rest) for name, *rest in caches),
        *([] if max_hashes is None else [("num_hashes", 7, [1])]),
    ]
    assert [describe(value) for value in graph.input] == inputs
    outputs = [("logits", kind, ["batch", 1, 50]), *((f"present.{name}", *rest) for name, *rest in caches)]
    assert [describe(value) for value in graph.output] == outputs
    spec = read_manifest(out).spec
    assert [(each.input, list(each.shape)) for each in cache_tensors(spec, "float32", 3)] == [
        (
            f"past.{name}",
            [
                3 if size == rounds and name.endswith("buckets") and i == 2 else size
                for i, size in enumerate(shape[1:], 1)
            ],
        )
        for name, _, shape in caches
    ]


def describe(value: onnx.ValueInfoProto) -> tuple[str, int, list[Any]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


@pytest.mark.parametrize("opset", [MIN_OPSET, MAX_OPSET])
def test_the_least_and_the_greatest_opset(checkpoint: Path, tmp_path: Path, opset: int) -> None:
    """A prompt and a step in ONNX Runtime, on the function bodies, against the canonical decoder."""
    out = export(checkpoint, tmp_path / "out", opset=opset)
    session = ort.InferenceSession(str(out / "decode.onnx"), providers=["CPUExecutionProvider"])
    manifest = read_manifest(out)
    caches = cache_tensors(manifest.spec, "float32")
    loaded = load_huggingface(str(checkpoint), LoadOptions())
    decoder = Decoder(build_model(loaded.spec, loaded.weights))
    past = [
        torch.zeros(each.shape_of(2, 12)).to(torch.int32 if each.dtype == "int32" else torch.float32)
        for each in caches
    ]
    rng = np.random.default_rng(opset)
    for lengths, new in (([0, 0], [9, 4]), ([9, 4], [1, 0])):
        ids = torch.from_numpy(rng.integers(0, 50, (2, max(new))))
        tensors = [ids, *(torch.tensor(x, dtype=torch.int32) for x in (lengths, new)), *past]
        feeds = dict(zip([x.name for x in session.get_inputs()], [x.numpy() for x in tensors], strict=True))
        results = session.run(None, feeds)
        expected = decoder(*tensors[:3], tuple(past))
        for got, value in zip(results, expected, strict=True):
            np.testing.assert_allclose(got, value.numpy(), atol=1e-5, rtol=1e-5)
        past = list(expected[1:])


@pytest.mark.parametrize(
    ("head", "config", "got"),
    [
        ("fill-mask", {"is_decoder": False}, "a model for fill-mask that sees later tokens"),
        ("text-classification", {"is_decoder": False}, "a model for text-classification that sees"),
        ("feature-extraction", {"is_decoder": True}, "a model for feature-extraction"),
    ],
)
def test_a_model_without_steps_is_refused(
    tmp_path: Path, head: str, config: dict[str, Any], got: str
) -> None:
    folder = save_model(tmp_path, config_t(**{"is_decoder": True} | config), HEADS[head])
    with pytest.raises(InputError) as refused:
        export(folder, tmp_path / "out")
    line = str(refused.value)
    assert line.startswith(f"decode: got {got}")
    assert "expected a causal text-generation model" in line
    assert "\n" not in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layer", [0, 1])
def test_chunks_after_are_refused(exported: Path, layer: int) -> None:
    """transformers builds no such language model."""
    spec = read_manifest(exported).spec
    layers = list(spec.layers)
    layers[layer] = dataclasses.replace(layers[layer], num_chunks_after=1)
    with pytest.raises(
        InputError, match=r"^decode: got layers that attend to chunks after, expected a causal"
    ):
        check_decodable(dataclasses.replace(spec, layers=tuple(layers)))
    check_decodable(spec)


def test_the_manifest_describes_it(exported: Path, tmp_path: Path) -> None:
    manifest = read_manifest(exported)
    assert manifest.decode is not None
    assert manifest.decode.to_dict() == {
        "file": "decode.onnx",
        "bytes_per_token": 2 * 32 * 4 + 2 * 2 * 4,
        "bytes_per_sequence": 2 * 16 * 32 * 4,
    }
    assert (
        manifest.files["decode.onnx"] == hashlib.sha256((exported / "decode.onnx").read_bytes()).hexdigest()
    )
    assert rewrite(exported, tmp_path, lambda values: None) == manifest


def rewrite(exported: Path, folder: Path, change: Any) -> Manifest:
    """The artifact's manifest, read again after `change` of its values."""
    values = json.loads((exported / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    return read_manifest(folder)


def test_a_manifest_of_an_older_version_has_none(exported: Path, tmp_path: Path) -> None:
    assert rewrite(exported, tmp_path, lambda values: values.pop("decode")).decode is None


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values["decode"].update(bytes_per_token=1),
        lambda values: values["decode"].update(bytes_per_sequence=-1),
        lambda values: values["decode"].update(file="../decode.onnx"),
        lambda values: values["decode"].update(file=["decode.onnx"]),
        lambda values: values["decode"].pop("bytes_per_token"),
        lambda values: values.update(decode=[]),
        lambda values: values["files"].pop("decode.onnx"),
        lambda values: values.update(dtype="float16"),
    ],
)
def test_a_record_that_was_changed_is_refused(exported: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises(ArtifactError, match=r"decode"):
        rewrite(exported, tmp_path, change)
