"""Exported models into which defects are planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import transformers

from reformer_export.artifact.files import sha256_of_file
from reformer_export.artifact.manifest import Manifest, read_manifest, write_manifest
from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.contract import SCOPES_KEY
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.libraries.operators import NativeMode
from reformer_export.parity.cases import Case
from reformer_export.parity.session import ParitySession, open_session
from reformer_export.reference.eager import open_eager
from reformer_export.reference.runs import Eager
from reformer_export.runtimes import RuntimeOptions
from tests import lucidrains
from tests.export.test_export import export
from tests.hf_models import config_t, save_model

CASE = Case(20, 2, masked=True)
"""Hashed, with virtual padding, and a masked row."""

Plant = Callable[[onnx.ModelProto], None]


def write_planted(folder: Path, manifest: Manifest, plant: Plant | None, scratch: Path) -> None:
    """A copy of the artifact in `folder` in the folder `scratch`, with a defect planted into it."""
    model = onnx.load(str(folder / "model.onnx"))
    if plant is not None:
        plant(model)
    onnx.save(model, str(scratch / "model.onnx"))
    files = {"model.onnx": sha256_of_file(scratch / "model.onnx")}
    write_manifest(scratch, dataclasses.replace(manifest, files=files))


@dataclass(frozen=True)
class Artifact:
    """An artifact, its checkpoint, and eager of that."""

    folder: Path
    checkpoint: Path
    manifest: Manifest
    eager: Eager

    @contextmanager
    def open(self, plant: Plant | None, scratch: Path, native: NativeMode = "off") -> Iterator[ParitySession]:
        """A session on a copy in the folder `scratch`, with a defect planted into it."""
        write_planted(self.folder, self.manifest, plant, scratch)
        options = RuntimeOptions(provider="cpu", threads=1, native=native)
        with open_session(scratch, self.checkpoint, options, eager=self.eager) as session:
            yield session


CONFIGURATIONS = {
    "encoder": (transformers.ReformerModel, {}, {}, ExportOptions()),
    "decoder": (
        transformers.ReformerModelWithLMHead,
        {
            "is_decoder": True,
            "hidden_act": "gelu",
            "attn_layers": ["lsh", "local", "lsh"],
            "num_buckets": [2, 4],
        },
        {"logits": "last", "feed_forward_slices": 2},
        ExportOptions(dtype="float16"),
    ),
    "classifier": (
        transformers.ReformerForSequenceClassification,
        {"num_labels": 3, "attn_layers": ["lsh", "local"], "axial_pos_embds": False},
        {"task": "text-classification"},
        ExportOptions(dtype="bfloat16"),
    ),
    "reader": (
        transformers.ReformerForQuestionAnswering,
        {},
        {"task": "question-answering"},
        ExportOptions(),
    ),
    "num_hashes": (
        transformers.ReformerForMaskedLM,
        {"num_hashes": 4},
        {},
        ExportOptions(runtime_num_hashes=True),
    ),
}

LUCIDRAINS: dict[str, tuple[dict[str, Any], str | None, ExportOptions]] = {
    "wrapped": (
        {"num_mem_kv": 8, "n_local_attn_heads": 1, "full_attn_thres": 16, "ff_glu": True, "emb_dim": 16}
        | {"ff_chunks": 3, "attn_chunks": 2},
        "TrainingWrapper",
        ExportOptions(),
    ),
    "bare": (
        {"causal": False, "n_local_attn_heads": 2, "fixed_position_emb": True, "use_scale_norm": True}
        | {"weight_tie": True, "weight_tie_embedding": True, "random_rotations_per_head": True},
        None,
        ExportOptions(dtype="float16"),
    ),
    "gated": (
        {"use_rezero": True, "one_value_head": True, "axial_position_emb": True, "return_embeddings": True}
        | {"full_attn_thres": 16},
        "Autopadder",
        ExportOptions(),
    ),
    "memories": (
        {"pkm_layers": [1], "pkm_num_keys": 33, "num_mem_kv": 3, "depth": 1},
        "Autopadder",
        ExportOptions(),
    ),
    "alone": (lucidrains.SMALL_ATTENTION | {"causal": True}, "Autopadder", ExportOptions()),
    "layers": (lucidrains.SMALL_REFORMER | {"num_mem_kv": 3}, "Autopadder", ExportOptions()),
    "full": ({"use_full_attn": True, "n_local_attn_heads": 1, "depth": 1}, "Autopadder", ExportOptions()),
}
"""Models of reformer-pytorch: keyword arguments, wrapper, options."""

BLOCK = "encoder.layers."
LSH, LOCAL = f"{BLOCK}1.attention.self_attention", f"{BLOCK}0.attention.self_attention"


def export_configuration(name: str, root: Path) -> Artifact:
    """Export one of `CONFIGURATIONS` or `LUCIDRAINS` into the folder `root`."""
    if name in LUCIDRAINS:
        return _export_lucidrains(*LUCIDRAINS[name], root)
    model_class, overrides, load, options = CONFIGURATIONS[name]
    checkpoint = save_model(root, config_t(initializer_range=0.3, **overrides), model_class)
    export(checkpoint, root / "out", options, **load)
    manifest = read_manifest(root / "out")
    return Artifact(root / "out", checkpoint, manifest, open_eager(checkpoint, manifest))


def _export_lucidrains(
    more: dict[str, Any], wrapper: str | None, options: ExportOptions, root: Path
) -> Artifact:
    file, config = lucidrains.save_model(root, more if "class" in more else lucidrains.SMALL | more, wrapper)
    (root / "out").mkdir()
    manifest = write_artifact(load_lucidrains(str(file), config, LoadOptions()), root / "out", options)
    return Artifact(root / "out", file, manifest, open_eager(file, manifest))


def node_of(model: onnx.ModelProto, op_type: str, module: str) -> onnx.NodeProto:
    """The last node of an operator that comes from `module` itself."""

    def scopes(node: onnx.NodeProto) -> str:
        return next((entry.value for entry in node.metadata_props if entry.key == SCOPES_KEY), "")

    return [n for n in model.graph.node if n.op_type == op_type and f"'{module}', '" in scopes(n)][-1]


def own_tensor(
    model: onnx.ModelProto, op_type: str, module: str, index: int, cut: onnx.NodeProto | None = None
) -> onnx.TensorProto:
    """An initialiser that this node reads, through `cut` if given, made its own: equal ones are shared."""
    node = node_of(model, op_type, module)
    if cut is not None:
        node, index = cut, 0
    shared = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[index])
    own = model.graph.initializer.add()
    own.CopyFrom(shared)
    own.name = node.input[index] = f"planted.{shared.name}"
    return own


def scale(op_type: str, module: str, index: int = 1, factor: float = 1.05, offset: float = 0.0) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        tensor = own_tensor(model, op_type, module, index)
        values = onnx.numpy_helper.to_array(tensor)
        scaled = (values.astype(np.float32) * np.float32(factor) + np.float32(offset)).astype(values.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(scaled, tensor.name))

    return plant


def set_attribute(op_type: str, module: str, name: str, value: int | float) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, op_type, module)
        (attribute,) = (a for a in node.attribute if a.name == name)
        attribute.CopyFrom(onnx.helper.make_attribute(name, value))

    return plant


def swap_inputs(op_type: str, module: str) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, op_type, module)
        node.input[0], node.input[1] = node.input[1], node.input[0]

    return plant


def subtract(module: str) -> Plant:
    def plant(model: onnx.ModelProto) -> None:
        node_of(model, "Add", module).op_type = "Sub"

    return plant


def split_norms(model: onnx.ModelProto) -> None:
    """Each ResidualNorm and FinalNorm as earlier versions exported it: the addition where the norm is called
    from, and a norm of its sum."""
    types = {value.name: value for value in model.graph.value_info}
    for node in [n for n in model.graph.node if n.op_type in ("ResidualNorm", "FinalNorm")]:
        scopes = next(entry.value for entry in node.metadata_props if entry.key == SCOPES_KEY)
        *other, stream, update, scale, bias = node.input
        read = sum_ = "last.sum" if other else node.output[0]
        caller = "encoder" if other else f"{BLOCK}0"
        outside = f"{scopes[: scopes.index('encoder')]}{caller}', 'add']"
        parts = [(outside, "Add", [stream, update], sum_, {})]
        if other:
            model.graph.value_info.add().CopyFrom(types[stream])
            model.graph.value_info[-1].name = sum_
            read = "last.streams"
            parts.append((outside, "Concat", [*other, sum_], read, {"axis": -1}))
        epsilon = {"epsilon": node.attribute[0].f}
        parts.append((scopes, "LayerNormalization", [read, scale, bias], node.output[-1], epsilon))
        index = list(model.graph.node).index(node)
        model.graph.node.remove(node)
        for scope, op_type, inputs, output, attributes in reversed(parts):
            part = onnx.helper.make_node(op_type, inputs, [output], f"{op_type}.{sum_}", **attributes)
            part.metadata_props.add(key=SCOPES_KEY, value=scope)
            model.graph.node.insert(index, part)


def negate_update(norm: str, op_type: str = "ResidualNorm") -> Plant:
    """What a residual addition adds, taken off instead."""

    def plant(model: onnx.ModelProto) -> None:
        node = node_of(model, op_type, norm)
        nodes, update = list(model.graph.node), node.input[-3]
        negative = onnx.helper.make_node("Neg", [update], [f"planted.{update}"])
        model.graph.node.insert(nodes.index(node), negative)
        node_of(model, op_type, norm).input[-3] = negative.output[0]

    return plant


def shift_words(model: onnx.ModelProto) -> None:
    tensor = own_tensor(model, "Gather", "embeddings.word_embeddings", 0)
    values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=0)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
