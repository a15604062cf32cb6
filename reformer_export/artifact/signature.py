"""A graph's inputs and outputs, by name, type and shape, as a manifest describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from reformer_export.custom_spec import UNLIMITED, CustomSpec
from reformer_export.errors import InputError
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

    def sizes(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with these in place of the symbolic dimensions; -1 for those that are not among them."""
        return tuple(symbols.get(size, -1) if isinstance(size, str) else size for size in self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.describe_shape()}"

    def describe_shape(self) -> str:
        """For people."""
        return f"[{', '.join(map(str, self.shape))}]"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Signature:
    """All that goes into a graph and comes out of it; `limits` are the least and greatest sizes of symbolic
    dimensions, where these are known."""

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def batch(self) -> str | None:
        """The symbolic dimension that rows lie along: the first of every input and output, and no other of
        any; None where there is none."""
        tensors = (*self.inputs, *self.outputs)
        first = {tensor.shape[0] if tensor.shape else None for tensor in tensors}
        others = {size for tensor in tensors for size in tensor.shape[1:]}
        (symbol,) = first if len(first) == 1 else (None,)
        return symbol if isinstance(symbol, str) and symbol not in others else None

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The symbolic dimensions of the inputs, in the order in which they come first."""
        sizes = (size for tensor in self.inputs for size in tensor.shape if isinstance(size, str))
        return tuple(dict.fromkeys(sizes))

    def describe_limits(self) -> str:
        """For people, such as "batch from 1, time from 2 to 48"."""
        limits = ((name, *self.limits[name]) for name in self.dimensions if name in self.limits)
        texts = (
            f"{name} from {least:,}" + (f" to {most:,}" if most < UNLIMITED else "")
            for name, least, most in limits
        )
        return ", ".join(texts) or "those of the shapes"

    def bind(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The size of every symbolic dimension, in the order of `dimensions`, where each input has the shape
        of its name in `shapes`.

        InputError unless the shapes fit: no size is 0, and dimensions of one name have one size, within its
        limits.
        """
        found: dict[str, tuple[int, str]] = {}
        for tensor in self.inputs:
            shape = shapes[tensor.name]
            got, expected = f"shape {list(shape)}", tensor.describe_shape()
            pairs = list(zip(tensor.shape, shape, strict=False))
            fits = len(shape) == len(tensor.shape) and 0 not in shape
            if not fits or any(isinstance(want, int) and want != size for want, size in pairs):
                raise InputError(tensor.name, got, expected, "reshape it")
            for symbol, size in pairs:
                if not isinstance(symbol, str):
                    continue
                known, where = found.setdefault(symbol, (size, tensor.name))
                if known != size:
                    expected = f"{expected} with {symbol} = {known}, as in {where}"
                    raise InputError(tensor.name, got, expected, "make them agree")
                least, most = self.limits.get(symbol, (1, size))
                if not least <= size <= most:
                    expected = f"{expected} with {self.describe_limits()}"
                    raise InputError(tensor.name, got, expected, f"give another {symbol}")
        return {symbol: size for symbol, (size, _) in found.items()}


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


def signature_of(spec: ModelSpec, dtype: DType) -> Signature:
    """Of model.onnx in `dtype`."""
    dimensions = spec.dimensions if isinstance(spec, CustomSpec) else ()
    limits = {each.name: (each.minimum, each.maximum) for each in dimensions}
    return Signature(graph_inputs(spec, dtype), graph_outputs(spec, dtype), limits)


def has_row_a_token(spec: ModelSpec) -> bool:
    """Whether each output has a row for each token of the input."""
    return all(SEQUENCE in output.shape for output in graph_outputs(spec, "float32"))
