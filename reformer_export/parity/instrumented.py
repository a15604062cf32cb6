"""An artifact's graph with its hashing exposed: buckets pinned from outside, and its own beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME, Manifest
from reformer_export.contract import DOMAIN, LSH_ATTENTION, LSH_BUCKETS, NUM_HASHES_INPUT
from reformer_export.errors import ArtifactError
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.parity.rounding import emulate_bfloat16
from reformer_export.runtimes.ort import CPU, Placement, open_session
from reformer_export.spec import LSHAttentionSpec, ModelSpec


@dataclass(frozen=True)
class PinnedRun:
    """What the graph gave with pinned buckets.

    `outputs` by name, float32; per LSH layer `buckets` int32 [B, H, R, L], which the graph's own hash chose
    from `query_key` float32 [B, L, H*D], each computed under pinned buckets in the layers before.
    """

    outputs: dict[str, NDArray[np.float32]]
    buckets: dict[int, NDArray[np.int32]]
    query_key: dict[int, NDArray[np.float32]]


class InstrumentedModel:
    """An ONNX Runtime session of the instrumented graph."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        self.spec = spec
        self._session = session

    def run(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        buckets: dict[int, NDArray[np.int32]],
        num_hashes: int | None = None,
    ) -> PinnedRun:
        """One forward pass with `buckets`, int32 [B, H, R, L] per LSH layer's index, for the hash's.

        R is `num_hashes` for a graph whose runs choose their rounds; None for all of them.
        """
        feeds: dict[str, NDArray[Any]] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if num_hashes is not None:
            feeds[NUM_HASHES_INPUT] = np.array([num_hashes], np.int64)
        feeds |= {_pinned(index): buckets[index] for index in self.spec.lsh_layers}
        names = list(self.spec.output_names)
        for index in self.spec.lsh_layers:
            names += [_chosen(index), _query_key(index)]
        values = dict(zip(names, self._session.run(names, feeds), strict=True))
        return PinnedRun(
            outputs={name: values[name].astype(np.float32) for name in self.spec.output_names},
            buckets={index: values[_chosen(index)] for index in self.spec.lsh_layers},
            query_key={index: values[_query_key(index)].astype(np.float32) for index in self.spec.lsh_layers},
        )


@contextmanager
def open_instrumented(
    folder: Path,
    manifest: Manifest,
    provider: str = CPU,
    threads: int | None = None,
    native: NativeLibrary | None = None,
) -> Iterator[InstrumentedModel]:
    """Instrument `folder`'s model.onnx in a temporary folder and open it.

    On the CPU, where ONNX Runtime has no bfloat16, such a graph runs in float32 with bfloat16's roundings.
    """
    model = onnx.load(str(folder / MODEL_NAME))
    _expose(model, manifest.spec)
    if manifest.dtype == "bfloat16" and provider == CPU:
        emulate_bfloat16(model)
    with TemporaryDirectory(prefix="reformer-export-") as scratch:
        path = Path(scratch) / MODEL_NAME
        onnx.save(model, str(path), save_as_external_data=True, location="weights", size_threshold=1024)
        del model
        session = open_session(path, Placement(provider, threads, native))
        yield InstrumentedModel(session, manifest.spec)


def _pinned(layer: int) -> str:
    return f"pinned_buckets.{layer}"


def _chosen(layer: int) -> str:
    return f"buckets.{layer}"


def _query_key(layer: int) -> str:
    return f"query_key.{layer}"


def _expose(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Add the inputs and outputs in place."""
    graph = model.graph
    hashes = [node for node in graph.node if node.domain == DOMAIN and node.op_type == LSH_BUCKETS.name]
    attends = [node for node in graph.node if node.domain == DOMAIN and node.op_type == LSH_ATTENTION.name]
    if not len(hashes) == len(attends) == len(spec.lsh_layers):
        raise ArtifactError(
            f"{MODEL_NAME}: got {len(hashes)} LSHBuckets and {len(attends)} LSHAttention nodes, expected "
            f"{len(spec.lsh_layers)} of each as the manifest says; export the checkpoint again"
        )
    has_num_hashes = any(value.name == NUM_HASHES_INPUT for value in graph.input)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    for layer, hash_node, attend in zip(spec.lsh_layers, hashes, attends, strict=True):
        query_key, chosen = hash_node.input[0], hash_node.output[0]
        attention = spec.layers[layer]
        assert isinstance(attention, LSHAttentionSpec)
        shape = [
            "batch",
            spec.num_heads,
            NUM_HASHES_INPUT if has_num_hashes else attention.num_hashes,
            "sequence",
        ]
        graph.input.append(onnx.helper.make_tensor_value_info(_pinned(layer), onnx.TensorProto.INT32, shape))
        attend.input[2] = _pinned(layer)
        for source, name, dtype in (
            (chosen, _chosen(layer), onnx.TensorProto.INT32),
            (query_key, _query_key(layer), types[query_key]),
        ):
            graph.node.append(onnx.helper.make_node("Identity", [source], [name]))
            graph.output.append(onnx.ValueInfoProto(name=name))
            graph.output[-1].type.tensor_type.elem_type = dtype
