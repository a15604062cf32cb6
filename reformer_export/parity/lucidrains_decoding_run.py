"""Run decode.onnx of a model of reformer-pytorch call by call, with what its step operators read and give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from reformer_export.artifact.decoding import (
    DECODE_NAME,
    DECODE_OUTPUT,
    LENGTHS_INPUT,
    NEW_LENGTHS_INPUT,
    cache_tensors,
    prompt_width,
)
from reformer_export.artifact.manifest import Manifest
from reformer_export.contract import (
    DOMAIN,
    LOCAL_ATTENTION_STEP,
    LSH_ATTENTION_STEP,
    LSH_BUCKETS_STEP,
)
from reformer_export.errors import ArtifactError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.lucidrains_decoder import StepOperator, list_step_operators
from reformer_export.ops import (
    local_attention_step_reference,
    lsh_attention_step_reference,
    lsh_buckets_step_reference,
)
from reformer_export.parity.decoding_cases import DecodingCase
from reformer_export.parity.decoding_run import choose_rounds, empty_cache
from reformer_export.parity.expose import ExposedGraph, ModelGraph
from reformer_export.parity.points import Point, PointFinder
from reformer_export.spec import LSHAttentionSpec

REFERENCES: Final[dict[str, Callable[..., tuple[torch.Tensor, ...]]]] = {
    LSH_BUCKETS_STEP.name: lsh_buckets_step_reference,
    LSH_ATTENTION_STEP.name: lsh_attention_step_reference,
    LOCAL_ATTENTION_STEP.name: local_attention_step_reference,
}


@dataclass(frozen=True)
class StepNode:
    """A step operator's node: what it reads and gives, by the operator's names; what it reads of the graph's
    own inputs is there under the input's name."""

    layer: int
    operator: StepOperator
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class StepPoints:
    """Of a decode.onnx: its step operators in order, and all that is shown of them."""

    nodes: tuple[StepNode, ...]
    shown: tuple[Point, ...]


def find_step_points(model: onnx.ModelProto, spec: LucidrainsSpec) -> StepPoints:
    """ArtifactError unless the graph's step operators are those of the manifest's model."""
    finder = PointFinder(model)
    names = {*REFERENCES}
    found = [node for node in finder.nodes if node.domain == DOMAIN and node.op_type in names]
    wanted = [
        (layer, operator)
        for layer, attention in enumerate(spec.layers)
        for operator in list_step_operators(spec, isinstance(attention, LSHAttentionSpec))
    ]
    if [node.op_type for node in found] != [operator.operator.name for _, operator in wanted]:
        got = ", ".join(node.op_type for node in found) or "no step operator"
        expected = ", ".join(operator.operator.name for _, operator in wanted)
        raise ArtifactError(DECODE_NAME, got, f"{expected}, as the manifest says", "export again")
    computed = {name for node in finder.nodes for name in node.output}
    nodes = []
    for (layer, operator), node in zip(wanted, found, strict=True):
        inputs = dict(zip(operator.operator.inputs, node.input, strict=True))
        outputs = dict(zip(operator.operator.outputs, node.output, strict=True))
        for value in (*inputs.values(), *outputs.values()):
            if value in computed:
                finder.add(value, value, layer, "buckets")
        nodes.append(StepNode(layer, operator, inputs, outputs))
    for name in (DECODE_OUTPUT, *(each.output for each in cache_tensors(spec, "float32"))):
        finder.add(name, name)
    return StepPoints(tuple(nodes), tuple(finder.points.values()))


@dataclass(frozen=True)
class Call:
    """One call of a run: what the graph was given and what it gave, by name."""

    held: NDArray[np.int32]
    new: NDArray[np.int32]
    values: Mapping[str, NDArray[Any]]

    def rows(self) -> list[tuple[int, int]]:
        """Each row that got new tokens, and how many it has with them."""
        totals = (self.held + self.new).tolist()
        return [(row, totals[row]) for row, own in enumerate(self.new.tolist()) if own]


class StepRunner:
    """decode.onnx with what its step operators read and give exposed."""

    def __init__(self, graph: ModelGraph, manifest: Manifest, points: StepPoints) -> None:
        self._manifest, self._points = manifest, points
        self._graph: ExposedGraph = graph.expose([], points.shown)

    def run(self, case: DecodingCase, ids: NDArray[np.int64]) -> Iterator[Call]:
        """The calls of a case, on `ids` int64 [B, at least the case's longest]."""
        caches = cache_tensors(self._manifest.spec, self._manifest.dtype, case.num_hashes)
        past = {each.input: empty_cache(each, case) for each in caches}
        extra = choose_rounds(self._manifest, case)
        for held, new in case.calls():
            inputs: dict[str, NDArray[Any]] = {
                "input_ids": _new_ids(self._manifest, ids, held, new),
                LENGTHS_INPUT: held,
                NEW_LENGTHS_INPUT: new,
                **past,
                **extra,
            }
            results = self._graph.run(inputs, {})
            yield Call(held, new, {**inputs, **results})
            past = {each.input: results[each.output] for each in caches}


def _new_ids(
    manifest: Manifest, ids: NDArray[np.int64], held: NDArray[np.int32], new: NDArray[np.int32]
) -> NDArray[np.int64]:
    """int64 [B, Q]: each row's new ones, and behind them any."""
    widths = [
        prompt_width(manifest.spec, own) if own and not begin else own
        for begin, own in zip(held.tolist(), new.tolist(), strict=True)
    ]
    fresh = np.full((len(ids), max(widths)), manifest.spec.vocab_size - 1, np.int64)
    for row, (begin, own) in enumerate(zip(held.tolist(), new.tolist(), strict=True)):
        fresh[row, :own] = ids[row, begin : begin + own]
    return fresh


def read_by(node: StepNode, call: Call, rotations: torch.Tensor) -> list[torch.Tensor]:
    """What the node read, in the order of its operator's inputs; the `rotations` are the manifest's."""
    return [
        rotations if name == "rotations" else torch.from_numpy(np.ascontiguousarray(call.values[value]))
        for name, value in node.inputs.items()
    ]


def compute_reference(node: StepNode, inputs: Sequence[torch.Tensor]) -> dict[str, NDArray[Any]]:
    """What the node's reference gives for `inputs`, by the operator's names."""
    operator = node.operator.operator
    results = REFERENCES[operator.name](*inputs, *node.operator.attributes)
    return {name: result.numpy() for name, result in zip(operator.outputs, results, strict=True)}


def separate_prompts(cases: Sequence[DecodingCase], spec: LucidrainsSpec) -> list[DecodingCase]:
    """The cases' rows, so that no two prompts are in one call: padding is that of the longest. Prompts of
    lengths that the model does not take are left out."""
    separate = []
    for whole in cases:
        kept = tuple(row for row in whole.rows if spec.takes_length(row.prompt))
        if not kept:
            continue
        case = dataclasses.replace(whole, rows=kept)
        if not case.has_steps:
            separate += [case.alone(row) for row in range(len(case.rows))]
            continue
        rows = tuple(dataclasses.replace(row, start=index) for index, row in enumerate(case.rows))
        separate.append(dataclasses.replace(case, rows=rows))
    return list(dict.fromkeys(separate))
