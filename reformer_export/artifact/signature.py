"""A graph's inputs and outputs, by name, type and shape, as a manifest describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from reformer_export.custom_spec import CustomSpec
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.spec import DType, ModelSpec

BATCH: Final = "batch"
SEQUENCE: Final = "sequence"
"""The symbolic dimensions: sequences, and tokens of each."""


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph; `shape` has numbers, and the names of symbolic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sizes(self, batch: int, sequence: int) -> tuple[int, ...]:
        """The shape with these in place of the symbolic dimensions."""
        symbols = {BATCH: batch, SEQUENCE: sequence}
        return tuple(symbols[size] if isinstance(size, str) else size for size in self.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


def graph_inputs(spec: ModelSpec, dtype: DType) -> tuple[GraphTensor, ...]:
    """Of model.onnx in `dtype`: the sequences and their mask, or a user's own."""
    if isinstance(spec, CustomSpec):
        return tuple(GraphTensor(each.name, each.dtype, each.shape) for each in spec.inputs)
    name, mask_name = spec.input_names
    mask = GraphTensor(mask_name, "int64", (BATCH, SEQUENCE))
    if spec.takes_vectors:
        return GraphTensor(name, dtype, (BATCH, SEQUENCE, spec.hidden_size)), mask
    return GraphTensor(name, "int64", (BATCH, SEQUENCE)), mask


def graph_outputs(spec: ModelSpec, dtype: DType) -> tuple[GraphTensor, ...]:
    """Of model.onnx in `dtype`."""
    if isinstance(spec, CustomSpec):
        return tuple(GraphTensor(each.name, each.dtype, each.shape) for each in spec.outputs)
    rows = SEQUENCE if spec.logits == "all" else 1
    width = spec.hidden_size if isinstance(spec, LucidrainsSpec) else 2 * spec.hidden_size
    shapes: dict[str, tuple[int | str, ...]] = {
        "feature-extraction": (BATCH, SEQUENCE, width),
        "text-classification": (BATCH, spec.num_labels),
        "question-answering": (BATCH, SEQUENCE),
    }
    shape = shapes.get(spec.task, (BATCH, rows, spec.vocab_size))
    return tuple(GraphTensor(name, dtype, shape) for name in spec.output_names)


def has_row_a_token(spec: ModelSpec) -> bool:
    """Whether each output has a row for each token of the input."""
    return all(SEQUENCE in output.shape for output in graph_outputs(spec, "float32"))
