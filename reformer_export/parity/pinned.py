"""The whole graph on eager's buckets: what it gives then, and what its own hashes would have chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.contract import DOMAIN, LSH_ATTENTION, LSH_BUCKETS
from reformer_export.errors import ArtifactError
from reformer_export.parity.expose import ModelGraph
from reformer_export.spec import ModelSpec


@dataclass(frozen=True)
class PinnedRun:
    """What the graph gave with pinned buckets.

    `outputs` by name, float32; per LSH layer `buckets` int32 [B, H, R, L], which the graph's own hash chose
    from `query_key` float32 [B, L, H*D], each computed under pinned buckets in the layers before.
    """

    outputs: dict[str, NDArray[np.float32]]
    buckets: dict[int, NDArray[np.int32]]
    query_key: dict[int, NDArray[np.float32]]


class PinnedGraph:
    """A graph that takes its buckets from outside, open in ONNX Runtime."""

    def __init__(self, graph: ModelGraph, spec: ModelSpec) -> None:
        self._output_names = spec.output_names
        nodes = zip(spec.lsh_layers, _find_hash_nodes(graph.model), strict=True)
        self._values = {layer: (node.output[0], node.input[0]) for layer, node in nodes}
        given = {buckets: _pinned(layer) for layer, (buckets, _) in self._values.items()}
        shown = [*spec.output_names, *(value for pair in self._values.values() for value in pair)]
        self._exposed = graph.expose(given, shown)

    def run(
        self, inputs: Mapping[str, NDArray[np.int64]], buckets: Mapping[int, NDArray[np.int32]]
    ) -> PinnedRun:
        """One forward pass of the graph's `inputs`, with `buckets`, int32 [B, H, R, L] by LSH layer."""
        pinned: dict[str, NDArray[Any]] = {_pinned(layer): buckets[layer] for layer in self._values}
        got = self._exposed.run({**inputs, **pinned})
        return PinnedRun(
            outputs={name: got[name] for name in self._output_names},
            buckets={layer: got[chosen] for layer, (chosen, _) in self._values.items()},
            query_key={layer: got[query_key] for layer, (_, query_key) in self._values.items()},
        )


def _pinned(layer: int) -> str:
    return f"pinned_buckets.{layer}"


def _find_hash_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, LSH_BUCKETS.name)]


def check_hashing(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """ArtifactError unless the graph hashes, and attends by hashes, once for each LSH layer of `spec`."""
    hashes = len(_find_hash_nodes(model))
    attends = sum((node.domain, node.op_type) == (DOMAIN, LSH_ATTENTION.name) for node in model.graph.node)
    if not hashes == attends == len(spec.lsh_layers):
        raise ArtifactError(
            MODEL_NAME,
            got=f"{hashes} LSHBuckets and {attends} LSHAttention nodes",
            expected=f"{len(spec.lsh_layers)} of each as the manifest says",
            fix="export the checkpoint again",
        )
