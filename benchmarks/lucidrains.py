"""A model of reformer-pytorch, and its parts beside the package's own modules.

The configuration that public scripts use most: causal, rotary positions, 8 heads x 64, buckets of 64 tokens,
4 hashes, in a TrainingWrapper, random weights. What is timed of the file is the file: a part of it is the
nodes between two points of its graph, on values that are ready.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

import reformer_export
from benchmarks.contenders import NATIVE
from benchmarks.models import CACHE, random_inputs, source_digest
from reformer_export.artifact.folder import new_folder
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.libraries.operators import find_native_library
from reformer_export.parity.expose import ExposedGraph, open_graph
from reformer_export.parity.graph_points import find_points
from reformer_export.reference.eager_values import attention_name
from reformer_export.reference.lucidrains import EagerLucidrains
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.ort_session import CPU, Placement

KEYWORDS: Final[dict[str, Any]] = {
    "num_tokens": 256,
    "dim": 512,
    "depth": 6,
    "max_seq_len": 16384,
    "heads": 8,
    "dim_head": 64,
    "bucket_size": 64,
    "n_hashes": 4,
    "causal": True,
    "wrapper": "TrainingWrapper",
}

PARTS: Final = ("attention", "layer", "model")
"""One layer's LSHAttention, on ready projections: the hash, the turn by rotary positions, the sort, and
attention. Its LSHSelfAttention: the same with the projections before and after. The whole ReformerLM."""

Run = Callable[[], object]


@dataclass(frozen=True)
class Model:
    """The file of tensors as a training script saves it, and the artifact exported from it."""

    checkpoint: Path
    artifact: Path

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.artifact)


def prepare_model() -> Model:
    """The model, from the cache if it was made by the same package source."""
    folder = CACHE / "reformer-pytorch"
    if not folder.is_dir():
        _save_checkpoint(folder)
    artifact = folder / f"float32-{source_digest()}"
    if not artifact.is_dir():
        reformer_export.export_checkpoint(
            folder / "model.pt", artifact, config=folder / "kwargs.json", verify=False
        )
    return Model(folder / "model.pt", artifact)


def _save_checkpoint(folder: Path) -> None:
    from reformer_pytorch import ReformerLM
    from reformer_pytorch.generative_tools import TrainingWrapper

    torch.manual_seed(0)
    net = TrainingWrapper(ReformerLM(**{k: v for k, v in KEYWORDS.items() if k != "wrapper"}))
    with new_folder(folder, overwrite=False) as partial:
        torch.save(net.state_dict(), partial / "model.pt")
        (partial / "kwargs.json").write_text(json.dumps(KEYWORDS))


@dataclass(frozen=True)
class Inputs:
    """Of one length: token ids and mask int64 [1, L]; eager's `values` at the points of `ENDS`, float32
    [1, L, 512], and its logits."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]
    logits: NDArray[np.float32]


RunOfFile = Callable[[Inputs], NDArray[np.float32]]

_ATTENTION: Final = attention_name(0)
ENDS: Final = {
    "attention": ((f"{_ATTENTION}.query_key", f"{_ATTENTION}.value"), _ATTENTION),
    "layer": (("encoder.layers.0.attention.layer_norm",), "encoder.layers.0.attention.output.dense"),
}
"""The points that a part of the graph lies between."""


def draw_inputs(eager: EagerLucidrains, length: int) -> Inputs:
    """Seeded ids, and what eager makes of them with the artifact's rotations."""
    ids = random_inputs(eager.spec.vocab_size, length)
    names = {name for given, shown in ENDS.values() for name in (*given, shown)}
    mask = np.ones_like(ids)
    run = eager.run(ids, mask, points=names)
    return Inputs(ids, mask, run.values, run.outputs["logits"])


def open_file(model: Model, contender: str, threads: int) -> dict[str, RunOfFile]:
    """By part: what computes it by the file, in ONNX Runtime; `contender` is "portable" or "native"."""
    manifest, options = (
        model.manifest,
        RuntimeOptions(provider="cpu", threads=threads, native=NATIVE[contender]),
    )
    runtime = load(model.artifact, options)
    runs: dict[str, RunOfFile] = {"model": lambda inputs: runtime.run(inputs.ids, inputs.mask)["logits"]}
    with open_graph(model.artifact / MODEL_NAME, place(contender, threads)) as graph:
        points = {point.name: point for point in find_points(graph.model, manifest.spec)}
        for part, (given, shown) in ENDS.items():
            exposed = graph.expose([points[name] for name in given], [points[shown]])
            runs[part] = _run_of_part(exposed, shown)
    return runs


def _run_of_part(exposed: ExposedGraph, shown: str) -> RunOfFile:
    def run(inputs: Inputs) -> NDArray[np.float32]:
        given = {"input_ids": inputs.ids, "attention_mask": inputs.mask}
        result: NDArray[np.float32] = exposed.run(given, inputs.values)[shown]
        return result

    return run


def place(contender: str, threads: int) -> Placement:
    """Where ONNX Runtime runs the file."""
    return Placement(CPU, threads, find_native_library(NATIVE[contender]))


def run_of_eager(eager: EagerLucidrains, part: str, inputs: Inputs) -> Run:
    """The package's module, unpatched, on tensors that are ready: it draws rotations of its own."""
    if part == "model":
        ids = torch.from_numpy(inputs.ids)
        return torch.inference_mode()(lambda: eager.model(ids))
    given, _ = ENDS[part]
    attention = eager.net.reformer.layers.irrev_blocks[0].f.fn
    mask = torch.from_numpy(inputs.mask).bool()
    tensors = [torch.from_numpy(inputs.values[name]) for name in given]
    turn = eager.net.layer_pos_emb(tensors[0])
    if part == "layer":
        return torch.inference_mode()(lambda: attention(tensors[0], input_mask=mask, pos_emb=turn))
    heads = eager.spec.num_heads
    query_key, value = (x[0].view(len(x[0]), heads, -1).transpose(0, 1).contiguous() for x in tensors)
    by_head = mask.expand(heads, -1)
    return torch.inference_mode()(
        lambda: attention.lsh_attn(query_key, value, input_mask=by_head, pos_emb=turn)
    )
