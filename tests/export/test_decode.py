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
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ReformerConfig

from reformer_export import export_checkpoint
from reformer_export.artifact.decoding import cache_tensors, check_decodable
from reformer_export.artifact.manifest import Manifest, check_files, read_manifest
from reformer_export.checkpoints import LoadOptions, load_huggingface
from reformer_export.contract import MAX_OPSET, MIN_OPSET
from reformer_export.errors import ArtifactError, InputError
from reformer_export.modeling import Decoder, Reformer, build_model
from reformer_export.modeling.layers import operator_attributes
from reformer_export.ops import local_attention_reference, lsh_attention_reference, lsh_buckets_reference
from reformer_export.spec import LSHAttentionSpec, ModelSpec
from tests.configurations import reformer_configs
from tests.hf_models import build_model as build_hf_model
from tests.hf_models import config_t, save_model
from tests.modeling.test_reformer import HEADS

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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("max_hashes", [None, 3])
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


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_every_opset(checkpoint: Path, tmp_path: Path, opset: int) -> None:
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


class FrozenPast:
    """One sequence of a model, token by token in plain tensors: every layer keeps what its tokens were when
    they were new, and attends by the whole operator."""

    def __init__(self, model: Reformer) -> None:
        self.model = model
        self.held: list[list[torch.Tensor]] = [[] for _ in model.spec.layers]
        self.length = 0

    def take(self, ids: torch.Tensor) -> torch.Tensor:
        """New tokens int64 [Q] -> logits float32 [vocab_size] after the last."""
        model, new = self.model, len(ids)
        positions = torch.arange(self.length, self.length + new)
        stream = model.embeddings.word_embeddings(ids) + model.embeddings.position_embeddings(positions)
        attended = hidden = stream[None]
        self.length += new
        for index, layer in enumerate(model.encoder.layers):
            _, normed = layer.attention.layer_norm(hidden)
            output = layer.attention.output.dense(self._attend(index, layer.attention.self_attention, normed))
            attended = attended + output
            _, normed = layer.feed_forward.layer_norm(attended)
            hidden = hidden + self._feed(layer.feed_forward, normed)
        _, normed = model.encoder.layer_norm(torch.cat([attended, hidden], -1))
        logits: torch.Tensor = model.lm_head.decoder(normed)[0, -1]
        return logits

    def _attend(self, index: int, module: Any, normed: torch.Tensor) -> torch.Tensor:
        spec, attention = self.model.spec, self.model.spec.layers[index]
        names = (
            ("query_key", "value") if isinstance(attention, LSHAttentionSpec) else ("query", "key", "value")
        )
        fresh = [getattr(module, name)(normed) for name in names]
        held = self.held[index]
        held[:] = [torch.cat([old, x], 1) for old, x in zip(held, fresh, strict=True)] if held else fresh
        mask = torch.ones(1, self.length, dtype=torch.int32)
        attributes = operator_attributes(spec, attention)
        if not isinstance(attention, LSHAttentionSpec):
            whole = local_attention_reference(*held, mask, *attributes)
        else:
            buckets = module_buckets(spec, attention, module, held[0], mask)
            whole = lsh_attention_reference(*held, buckets, mask, *attributes)
        return whole[:, -normed.shape[1] :]

    @staticmethod
    def _feed(module: Any, normed: torch.Tensor) -> torch.Tensor:
        parts = zip(module.inner, module.outer, strict=True)
        return sum(outer(module.activation(inner(normed))) for inner, outer in parts)


def module_buckets(
    spec: ModelSpec, attention: LSHAttentionSpec, module: Any, query_key: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    return lsh_buckets_reference(
        query_key, module.rotations, mask, spec.num_heads, list(attention.num_buckets)
    )


def draw_rows(rng: np.random.Generator, longest: int) -> list[list[int]]:
    """For each row, how many new tokens it gets call by call: a prompt, then steps and rests."""
    calls = int(rng.integers(2, 6))
    rows = []
    for _ in range(int(rng.integers(1, 4))):
        prompt = int(rng.integers(1, max(2, longest - calls)))
        new = [0] * int(rng.integers(0, 2)) + [prompt]
        rows.append([*new, *(int(rng.random() < 0.8) for _ in range(calls - len(new)))])
    return [row if sum(row) <= longest else [1, *[0] * (calls - 1)] for row in rows]


@settings(max_examples=40, deadline=None)
@given(
    config=reformer_configs(is_decoder=True, lsh_num_chunks_after=0, local_num_chunks_after=0),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_decoder_is_the_model_with_a_frozen_past(
    tmp_path_factory: pytest.TempPathFactory, config: ReformerConfig, seed: int
) -> None:
    """Prompts give the model's own last logits; every row, whatever the others do, is the sequence alone."""
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("model")
    build_hf_model(config, transformers.ReformerModelWithLMHead).save_pretrained(folder)
    loaded = load_huggingface(str(folder), LoadOptions())
    model = build_model(loaded.spec, loaded.weights)
    decoder, rows = Decoder(model), draw_rows(rng, model.spec.max_length)
    batch, total = len(rows), max(map(sum, rows))
    ids = torch.from_numpy(rng.integers(0, config.vocab_size, (batch, total)))
    past = tuple(
        torch.full(each.shape_of(batch, total + 2), 7).to(
            torch.int32 if each.dtype == "int32" else torch.float32
        )
        for each in cache_tensors(model.spec, "float32")
    )
    oracles, held = [FrozenPast(model) for _ in rows], [0] * batch
    with torch.no_grad():
        for new in zip(*rows, strict=True):
            if not any(new):
                continue
            fresh = torch.zeros(batch, max(new), dtype=torch.int64)
            for b, count in enumerate(new):
                fresh[b, :count] = ids[b, held[b] : held[b] + count]
            tensors = (torch.tensor(held, dtype=torch.int32), torch.tensor(new, dtype=torch.int32))
            logits, *present = decoder(fresh, *tensors, past)
            past = tuple(present)
            for b, count in enumerate(new):
                if not count:
                    continue
                expected = oracles[b].take(fresh[b, :count])
                torch.testing.assert_close(logits[b, 0], expected, atol=1e-4, rtol=2e-5)
                if held[b] == 0:
                    whole = model(fresh[b : b + 1, :count], torch.ones(1, count, dtype=torch.int64))[0]
                    torch.testing.assert_close(logits[b, 0], whole[0, -1], atol=1e-4, rtol=2e-5)
                held[b] += count
